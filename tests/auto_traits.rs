//! The auto traits of every public type, and the size of some.
//!
//! `Send`, `Sync` and the like follow from private fields, so a change of a field
//! can take them away, or add them, unnoticed. Here they are written down; a trait
//! too few and a trait too many are both errors.
//!
//! Each trait is read from two constants of the same name: the inherent one, in an
//! `impl` bounded by the trait, takes precedence over the one that every type has.

#![cfg(not(loom))]

#[cfg(feature = "http")]
use quell::BoxError;
use quell::channel::{self, Receiver, Recv, SendError, Sender, TrySendError};
use quell::group::{ShutdownReport, Spawn, StillRunning, TaskPanicked, TrySpawnError};
use quell::pipeline::{Next, StageEnd, StageReport, TryNext};
use quell::rt::{self, Interval, JoinError, JoinHandle, Sleep, Tick, Timeout, YieldNow};
use quell::{
    AfterFunc, Cancelled, Canceller, Cause, Context, ContextError, Done, Group, Key, OnCancel,
    Outcome, Pipeline, Rate, Report, Results, Run, Tree,
};
use std::cell::Cell;
use std::future::{Pending, Ready};
use std::marker::{PhantomData, PhantomPinned};
use std::mem::size_of;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;

struct Asked<T>(PhantomData<T>);

/// The inherent constant where the bound holds, the trait's constant otherwise.
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

/// Each line: a type, and which of the five traits it has, `1` for yes.
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

/// Has none of the five: each part lacks one or more of them.
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
        // A run has the traits of its future.
        Run<Ready<u8>>:       1 1 1 1 1;
        Run<Pending<Rc<u8>>>: 1 1 1 1 1;
        Run<Ready<Rc<u8>>>:   0 0 1 1 1;
        Run<Cell<u8>>:        1 0 1 1 0;
        Run<&'static mut u8>: 1 1 1 0 1;
        Run<PhantomPinned>:   1 1 0 1 1;
        Run<Local>:           0 0 0 0 0;
        // Tasks and timers.
        JoinHandle<u8>:       1 1 1 1 1;
        JoinHandle<Rc<u8>>:   0 0 1 1 1;
        JoinHandle<PhantomPinned>: 1 1 1 1 1;
        JoinError:            1 1 1 1 1;
        Sleep:                1 1 0 1 1;
        Timeout<Ready<u8>>:   1 1 0 1 1;
        Timeout<Local>:       0 0 0 0 0;
        rt::Elapsed:          1 1 1 1 1;
        Interval:             1 1 1 1 1;
        Tick<'static>:        1 1 0 0 1;
        YieldNow:             1 1 1 1 1;
        // A channel moves its items and pins none. A sender is `Sync` if its items are
        // `Send`; a receiver, or a send, only if they are `Sync` too.
        Sender<u8>:           1 1 1 0 0;
        Sender<Cell<u8>>:     1 1 1 0 0;
        Sender<Rc<u8>>:       0 0 1 0 0;
        Sender<PhantomPinned>: 1 1 1 0 0;
        Receiver<u8>:         1 1 1 0 0;
        Receiver<Cell<u8>>:   1 0 1 0 0;
        Receiver<Rc<u8>>:     0 0 1 0 0;
        Receiver<PhantomPinned>: 1 1 1 0 0;
        channel::Send<'static, u8>: 1 1 1 0 0;
        channel::Send<'static, Cell<u8>>: 1 0 1 0 0;
        channel::Send<'static, Rc<u8>>: 0 0 1 0 0;
        channel::Send<'static, PhantomPinned>: 1 1 1 0 0;
        Recv<'static, u8>:    1 1 1 0 0;
        Recv<'static, Rc<u8>>: 0 0 1 0 0;
        Recv<'static, PhantomPinned>: 1 1 1 0 0;
        SendError<u8>:        1 1 1 1 1;
        SendError<Rc<u8>>:    0 0 1 1 1;
        TrySendError<u8>:     1 1 1 1 1;
        TrySendError<Rc<u8>>: 0 0 1 1 1;
        // A group has the traits of a context; a spawn, those of its task (but is `Unpin`).
        Group:                1 1 1 1 1;
        Spawn<'static, u8>:   1 1 1 1 1;
        Spawn<'static, Cell<u8>>: 1 0 1 1 0;
        Spawn<'static, Rc<u8>>: 0 0 1 1 1;
        Spawn<'static, PhantomPinned>: 1 1 1 1 1;
        TrySpawnError<u8>:    1 1 1 0 0; // It holds a cause.
        TrySpawnError<Rc<u8>>: 0 0 1 0 0;
        ShutdownReport:       1 1 1 1 1;
        StillRunning:         1 1 1 1 1;
        TaskPanicked:         1 1 1 1 1;
        // A described pipeline holds closures; a running one has a single reader.
        Pipeline<u8>:         1 0 1 0 0;
        Pipeline<Rc<u8>>:     1 0 1 0 0;
        Results<u8>:          1 0 1 0 0;
        Results<Rc<u8>>:      0 0 1 0 0;
        Results<PhantomPinned>: 1 0 1 0 0;
        Next<'static, u8>:    1 0 1 0 0;
        TryNext<'static, u8>: 1 0 1 0 0;
        Rate:                 1 1 1 1 1;
        OnCancel:             1 1 1 1 1;
        Outcome:              1 1 1 0 0; // It holds a cause.
        Report:               1 1 1 0 0;
        StageReport:          1 1 1 0 0; // It may hold a cause.
        StageEnd:             1 1 1 1 1;
    };
    #[cfg(feature = "check")]
    let table = {
        use quell::check::{
            Checker, Inject, Injections, Place, ReplayError, Report, Tracked, Violation,
            ViolationKind,
        };
        let more = table! {
            Checker:            1 1 1 1 1;
            Inject:             1 1 1 1 1;
            Injections:         1 1 1 1 1;
            Place:              1 1 1 1 1;
            ReplayError:        1 1 1 1 1;
            Report:             1 1 1 1 1;
            Tracked<u8>:        1 1 1 1 1;
            Tracked<Rc<u8>>:    0 0 1 1 1;
            Violation:          1 1 1 1 1;
            ViolationKind:      1 1 1 1 1;
        };
        [table, more].concat()
    };
    #[cfg(unix)]
    let table = [table, table! { quell::signal::Interrupted: 1 1 1 1 1; }].concat();
    #[cfg(feature = "proptest")]
    let table = {
        use quell::check::strategies::{Schedule, Shape, Stage};
        let more = table! {
            Schedule:           1 1 1 1 1;
            Shape:              1 1 1 1 1;
            Stage:              1 1 1 1 1;
        };
        [table, more].concat()
    };
    let wrong: Vec<_> = table.iter().filter(|(_, said, are)| said != are).collect();
    assert!(wrong.is_empty(), "said, and are: {wrong:#?}");
}

#[cfg(feature = "http")]
#[test]
fn every_public_type_of_http_has_the_auto_traits_it_is_said_to_have_and_no_others() {
    use quell::http::*;
    type Request = http::Request<()>;
    type Response = std::future::Ready<Result<http::Response<String>, BoxError>>;
    /// A service whose future is ready.
    struct Inner;
    impl tower_service::Service<Request> for Inner {
        type Response = http::Response<String>;
        type Error = BoxError;
        type Future = Response;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), BoxError>> {
            unreachable!("only its type is of interest")
        }
        fn call(&mut self, _: Request) -> Response {
            unreachable!("only its type is of interest")
        }
    }
    // Send, Sync, Unpin, UnwindSafe, RefUnwindSafe.
    let table = table! {
        RequestEnd:                 1 1 1 0 0; // It may hold a cause, which may hold any error.
        ContextLayer:               1 1 1 1 1;
        ContextService<Inner>:      1 1 1 1 1;
        ContextFuture<Response>:    1 1 1 0 0;
        ContextBody<String>:        1 1 1 1 1;
        TimeoutLayer:               1 1 1 1 1;
        TimeoutService<Inner>:      1 1 1 1 1;
        TimeoutFuture<Response>:    1 1 1 0 0;
        LimitLayer:                 1 1 1 1 1;
        LimitService<Inner>:        1 1 1 1 1;
        LimitFuture<Inner, ()>:     1 0 1 0 0; // It waits in a box.
        PropagationLayer:           1 1 1 1 1;
        PropagationService<Inner>:  1 1 1 1 1;
        TrackingId:                 1 1 1 1 1;
        InvalidHeader:              1 1 1 1 1;
        Ctx:                        1 1 1 1 1;
        PeerAddress:                1 1 1 1 1;
        Client:                     1 1 1 0 0; // Its connections are hyper's.
        Client<Inner>:              1 1 1 1 1;
        Transport:                  1 1 1 0 0;
        CallBody:                   1 1 1 0 0;
        CallError:                  1 1 1 0 0;
        Serve<Inner>:               1 1 1 1 1;
        Served:                     1 1 1 1 1;
        Serving:                    1 0 1 0 0;
    };
    let wrong: Vec<_> = table.iter().filter(|(_, said, are)| said != are).collect();
    assert!(wrong.is_empty(), "said, and are: {wrong:#?}");
}

#[cfg(feature = "http")]
#[test]
fn every_public_type_of_hit_has_the_auto_traits_it_is_said_to_have_and_no_others() {
    use quell::hit::*;
    // Send, Sync, Unpin, UnwindSafe, RefUnwindSafe.
    let table = table! {
        Options:        1 1 1 1 1;
        Error:          1 1 1 1 1;
        Hit:            1 1 1 1 1;
        ErrorKind:      1 1 1 1 1;
        Summary:        1 1 1 1 1;
        Quota:          1 1 1 1 1;
        Results:        1 0 1 0 0; // It has the traits of a pipeline's results.
        Next<'static>:  1 0 1 0 0;
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
    // The background is the empty word, so an optional context takes two.
    assert!(size_of::<Option<Context>>() <= 2 * word);
    assert!(size_of::<Done>() <= 5 * word);
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
    owned::<JoinHandle<u8>>();
    owned::<Sleep>();
    owned::<Sender<u8>>();
    owned::<Receiver<u8>>();
    owned::<Group>();
    owned::<Pipeline<u8>>();
    owned::<Results<u8>>();
    owned::<Report>();
}

/// The futures that public functions return are `Send`.
#[test]
fn the_futures_that_have_no_name_can_be_sent_to_other_threads() {
    fn sent<T: Send>(_: &T) {}
    let group = Group::new(&Context::background());
    sent(&group.wait());
    sent(&group.shutdown(std::time::Duration::ZERO));
    let mut results = Pipeline::from_iter(&Context::background(), 0..1_u8).run();
    sent(&results.next());
    sent(&results.finish());
    let results = Pipeline::from_iter(&Context::background(), 0..1_u8).run();
    sent(&results.try_collect::<Vec<_>>());
}

#[cfg(feature = "http")]
#[test]
fn nor_do_the_unnamed_futures_of_http_and_hit_stay_where_they_are_made() {
    use quell::hit::{Hit, Options, send_n_with};
    use quell::http::{CallBody, Client};
    fn sent<T: Send>(_: &T) {}
    let (ctx, client) = (Context::background(), Client::new());
    sent(&client.get(&ctx, "http://localhost/"));
    sent(&client.send(&ctx, http::Request::new(String::new())));
    let _read = |body: CallBody| sent(&body.bytes(1));
    let _read = |body: CallBody| sent(&body.text(1));
    let send = |_, _| async { Hit::answered(200, 0, std::time::Duration::ZERO) };
    sent(&send_n_with(&ctx, 1, Options::new(), send).expect("one is enough").finish());
}
