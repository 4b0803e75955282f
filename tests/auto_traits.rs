//! What every public type may be used for, and how large it is.
//!
//! `Send`, `Sync` and their like follow from private fields, so a change of a
//! field can take them away, or give them, without anybody's noticing. Here
//! they are written down; both having too few and having too many is an error.
//!
//! A trait is asked for with two constants of one name: the one in an `impl`
//! that demands the trait is found before the one that every type has.

#![cfg(not(loom))]

use quell::{AfterFunc, Cancelled, Canceller, Cause, Context, ContextError, Done, Key, Run, Tree};
use std::cell::Cell;
use std::future::{Pending, Ready};
use std::marker::{PhantomData, PhantomPinned};
use std::mem::size_of;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;

struct Asked<T>(PhantomData<T>);

/// The inherent constant where the bound holds, the trait's otherwise.
macro_rules! is {
    ($type:ty, $bound:ident) => {
        <Asked<$type>>::$bound
    };
}

macro_rules! bounds {
    ($($bound:ident),+) => {
        #[allow(non_upper_case_globals)]
        trait Otherwise {
            $(const $bound: bool = false;)+
        }
        impl<T> Otherwise for Asked<T> {}
        $(
            #[allow(non_upper_case_globals)]
            impl<T: $bound> Asked<T> {
                const $bound: bool = true;
            }
        )+
    };
}

bounds!(Send, Sync, Unpin, UnwindSafe, RefUnwindSafe);

/// Each line: a type, and which of the five it is, `1` for yes.
macro_rules! table {
    ($($type:ty: $send:literal $sync:literal $unpin:literal $unwind:literal $ref:literal;)+) => {
        vec![$((
            stringify!($type),
            [$send, $sync, $unpin, $unwind, $ref].map(|bit: u8| bit == 1),
            [
                is!($type, Send),
                is!($type, Sync),
                is!($type, Unpin),
                is!($type, UnwindSafe),
                is!($type, RefUnwindSafe),
            ],
        )),+]
    };
}

/// Everything that is not `Send`, `Sync`, `Unpin` or safe to unwind through.
type Local = (Rc<u8>, Cell<u8>, PhantomPinned, PhantomData<&'static mut u8>);

#[test]
fn every_public_type_has_the_auto_traits_it_is_said_to_have_and_no_others() {
    // Send, Sync, Unpin, UnwindSafe, RefUnwindSafe.
    let table = table! {
        Context:              1 1 1 1 1;
        Canceller:            1 1 1 1 1;
        AfterFunc:            1 1 1 1 1;
        Cause:                1 1 1 0 0; // It may hold any error.
        Cancelled:            1 1 1 0 0;
        ContextError:         1 1 1 1 1;
        Done:                 1 1 1 1 1;
        Tree:                 1 1 1 1 1;
        // A key holds no value.
        Key<u8>:              1 1 1 1 1;
        Key<Rc<u8>>:          1 1 1 1 1;
        Key<Local>:           1 1 1 1 1;
        // A run is what its future is.
        Run<Ready<u8>>:       1 1 1 1 1;
        Run<Pending<Rc<u8>>>: 1 1 1 1 1;
        Run<Ready<Rc<u8>>>:   0 0 1 1 1;
        Run<Cell<u8>>:        1 0 1 1 0;
        Run<&'static mut u8>: 1 1 1 0 1;
        Run<PhantomPinned>:   1 1 0 1 1;
        Run<Local>:           0 0 0 0 0;
    };
    let wrong: Vec<_> = table.iter().filter(|(_, said, are)| said != are).collect();
    assert!(wrong.is_empty(), "said, and are: {wrong:#?}");
}

#[test]
fn the_question_for_an_auto_trait_knows_both_answers() {
    let table = table! {
        u8:                1 1 1 1 1;
        Rc<u8>:            0 0 1 1 1;
        Rc<Cell<u8>>:      0 0 1 0 0;
        Cell<u8>:          1 0 1 1 0;
        PhantomPinned:     1 1 0 1 1;
        &'static mut u8:   1 1 1 0 1;
    };
    assert!(table.iter().all(|(_, said, are)| said == are), "said, and are: {table:#?}");
}

#[test]
fn a_context_is_one_word_and_so_is_what_ends_it() {
    let word = size_of::<usize>();
    assert_eq!(size_of::<Context>(), word);
    assert_eq!(size_of::<Canceller>(), word);
    assert_eq!(size_of::<Option<Canceller>>(), word);
    assert_eq!(size_of::<Option<ContextError>>(), 1);
    // The background is the empty word, so that an optional context takes two.
    assert!(size_of::<Option<Context>>() <= 2 * word);
    assert!(size_of::<Done>() <= 4 * word);
    assert!(size_of::<Cause>() <= 2 * word);
}

#[test]
fn public_types_live_as_long_as_they_are_wanted() {
    fn owned<T: 'static>() {}
    owned::<Context>();
    owned::<Canceller>();
    owned::<AfterFunc>();
    owned::<Cause>();
    owned::<Cancelled>();
    owned::<Done>();
    owned::<Tree>();
}
