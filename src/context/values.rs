//! Values: found in constant time, however deep the tree.
//!
//! Every value layer is the root of a trie over all the values visible from it: its own value, and
//! pointers to elder layers. A new layer is made from the root before it: it copies one path of
//! pointers (which are free, see `sync::lineage`) and no values. So the cost of `with_value` does
//! not depend on the number of layers, and hardly on the number of keys.
//!
//! # Invariants
//!
//! 1. A name's hash is read four bits at a time, lowest first: digit `l` is the four bits from bit
//!    `4l` on.
//! 2. Take a layer that was reached through level `l - 1`, or in any way if `l` is 0. Its sibling
//!    `x` at level `l` is the root for the names that share the layer's digits below `l` and whose
//!    digit `l` is `x`. It has no sibling for its own digit: it is that root itself.
//! 3. The hash of a key is its address, rotated, so no two keys share one. Types with the same
//!    hash (two of 2^64), or a type and a key, form a list, `twin`. The name and the type of its
//!    value tell which of them a layer is for.

use super::layer::{ContextFamily, Layer};
use crate::sync::Ref;
use std::any::TypeId;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::atomic::AtomicU8;

/// A key for values in a [`Context`](crate::Context). Several keys can have values of one type.
///
/// A key is a `static`, identified by its address. Code that cannot name the static can neither
/// read nor shadow its value.
///
/// ```
/// use quell::{Context, Key};
///
/// static USER: Key<String> = Key::new("user");
/// static TENANT: Key<String> = Key::new("tenant");
///
/// let ctx = Context::background()
///     .with_entry(&USER, "ann".to_string())
///     .with_entry(&TENANT, "acme".to_string());
/// assert_eq!(ctx.entry(&USER).unwrap(), "ann");
/// assert_eq!(ctx.entry(&TENANT).unwrap(), "acme");
/// ```
///
/// A `const` has no address of its own, and does not compile:
///
/// ```compile_fail,E0716
/// # use quell::{Context, Key};
/// const USER: Key<String> = Key::new("user");
/// let ctx = Context::background().with_entry(&USER, "ann".to_string());
/// # drop(ctx);
/// ```
pub struct Key<V> {
    label: Label,
    _value: PhantomData<fn() -> V>,
}

impl<V> Key<V> {
    /// Makes a key. The name is only shown, in the `Display` of a context.
    pub const fn new(name: &'static str) -> Self {
        Key { label: Label { name, _address: AtomicU8::new(0) }, _value: PhantomData }
    }

    /// The name of the key.
    pub fn name(&self) -> &'static str {
        self.label.name
    }

    pub(super) fn label(&'static self) -> &'static Label {
        &self.label
    }
}

impl<V> fmt::Debug for Key<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.name()).finish()
    }
}

/// The part of a key that does not depend on its type. Its address is the key's identity.
pub(super) struct Label {
    name: &'static str,
    /// Never used. Its interior mutability keeps the compiler from promoting a `&const` to a static
    /// that other constants might share.
    _address: AtomicU8,
}

/// The name of a value: its key or, if `None`, its type.
pub(super) type Name = Option<&'static Label>;

impl Label {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Labels lie at least eight bytes apart, and those of one program near each other. Rotated,
    /// the lowest bits that can differ come first, and eight keys that were declared one after
    /// another have eight different first digits.
    #[inline]
    fn hash(&'static self) -> u64 {
        (std::ptr::from_ref(self).addr() as u64).rotate_right(align_of::<Label>().trailing_zeros())
    }
}

#[inline]
fn hash_of_type<V: 'static>() -> u64 {
    let mut hasher = TakeFirst(0);
    TypeId::of::<V>().hash(&mut hasher);
    hasher.0
}

/// A `TypeId` is a hash already.
struct TakeFirst(u64);

impl Hasher for TakeFirst {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The index part of a value layer.
pub(super) struct Entry<'a> {
    hash: u64,
    pub(super) name: Name,
    /// The siblings from level 0 on. A lone layer has none.
    index: Levels<'a>,
}

type Sib<'a> = Option<Ref<'a, ContextFamily>>;

/// How many bits of a hash make a digit. With four, most of eight names are one step away from any
/// layer; with fewer, more are two steps away; with more, a layer takes longer to make.
const BITS: usize = 4;

/// One level, and the levels below it.
type Levels<'a> = Option<Box<Level<'a>>>;

/// The siblings at one level, by their digit.
type Sibs<'a> = [Sib<'a>; 1 << BITS];

#[derive(Default)]
struct Level<'a> {
    sibs: Sibs<'a>,
    next: Levels<'a>,
    /// At level 0 only.
    twin: Sib<'a>,
}

/// The digit of `hash` at a level.
#[inline]
fn digit(hash: u64, level: usize) -> usize {
    (hash >> (BITS * level)) as usize % (1 << BITS)
}

/// The level at which two hashes part; `None` if they are equal.
#[inline]
fn parting(hash: u64, other: u64) -> Option<usize> {
    let differ = hash ^ other;
    (differ != 0).then(|| differ.trailing_zeros() as usize / BITS)
}

impl<'a> Entry<'a> {
    /// The entry of a layer with a value of type `V`; `top` is the topmost value layer above it.
    pub(super) fn new<V: 'static>(name: Name, top: Sib<'a>) -> Self {
        let hash = name.map_or_else(hash_of_type::<V>, Label::hash);
        let mut new = Entry { hash, name, index: None };
        // Follow its path through the trie of `top`, level by level.
        let mut place = &mut new.index;
        let mut twin = None;
        let mut next = top;
        let mut level = 0;
        while let Some(layer) = next {
            let elder = entry(layer);
            let parts = parting(hash, elder.hash);
            let mut elders = elder.level(level);
            // Until they part, both have the same siblings.
            while let Some(shared) = elders.filter(|_| parts.is_none_or(|parts| level < parts)) {
                place = &mut put(place, Some(shared)).next;
                elders = shared.next.as_deref();
                level += 1;
            }
            let Some(parts) = parts else {
                let covered = named::<V>(layer, name).is_some();
                twin = if covered { elder.twin() } else { Some(layer) };
                break;
            };
            while level < parts {
                place = &mut put(place, None).next;
                level += 1;
            }
            // Where they part, the elder becomes a sibling of this layer, and this layer's path
            // goes on at one of the elder's siblings.
            let own = put(place, elders);
            own.sibs[digit(elder.hash, level)] = Some(layer);
            next = own.sibs[digit(hash, level)].take();
            place = &mut own.next;
            level += 1;
        }
        if twin.is_some() {
            new.index.get_or_insert_default().twin = twin;
        }
        new
    }

    /// The siblings at this level, and the levels below.
    #[inline]
    fn level(&self, level: usize) -> Option<&Level<'a>> {
        let mut found = self.index.as_deref();
        for _ in 0..level {
            found = found?.next.as_deref();
        }
        found
    }

    fn twin(&self) -> Sib<'a> {
        self.index.as_ref()?.twin
    }
}

/// Fills the place of a level with a copy of the elder's siblings. (The caller changes them in
/// place: changing them on their way into the box takes longer.)
fn put<'l, 'a>(place: &'l mut Levels<'a>, elders: Option<&Level<'a>>) -> &'l mut Level<'a> {
    place.insert(match elders {
        Some(elders) => Box::new(Level { sibs: elders.sibs, next: None, twin: None }),
        None => Box::default(),
    })
}

#[inline]
fn entry<'a>(layer: Ref<'a, ContextFamily>) -> &'a Entry<'a> {
    match layer.layer() {
        Layer::Value { entry, .. } => entry,
        _ => unreachable!("only value layers are in the trie"),
    }
}

/// The value of a layer, if it has this name: the same key, or no key and the same type.
#[inline]
fn named<'a, V: 'static>(layer: Ref<'a, ContextFamily>, name: Name) -> Option<&'a V> {
    let same = match (entry(layer).name, name) {
        (Some(one), Some(two)) => std::ptr::eq(one, two),
        (None, None) => true,
        _ => false,
    };
    // Under one key there are values of one type only.
    if same { layer.value() } else { None }
}

/// The value of the nearest layer with this name, `layer` or one above it.
#[inline]
pub(super) fn find<'a, V: 'static>(layer: Ref<'a, ContextFamily>, name: Name) -> Option<&'a V> {
    let hash = name.map_or_else(hash_of_type::<V>, Label::hash);
    let top = match layer.layer() {
        Layer::Value { .. } => layer,
        _ => top_above(layer)?,
    };
    let mut next = Some(top);
    while let Some(layer) = next {
        let elder = entry(layer);
        next = match parting(hash, elder.hash) {
            Some(level) => elder.level(level)?.sibs[digit(hash, level)],
            None => match named(layer, name) {
                None => elder.twin(),
                found => return found,
            },
        };
    }
    None
}

/// The topmost value layer visible from `layer`, which may be `layer` itself.
#[inline]
pub(super) fn top<'a>(layer: Ref<'a, ContextFamily>) -> Sib<'a> {
    match layer.layer() {
        Layer::Value { .. } => Some(layer),
        Layer::Branch(branch) => branch.values,
        Layer::Detached { values, .. } => *values,
        Layer::Todo { .. } => None,
    }
}

/// The same out of line, for callers that are likely to have a value layer.
#[inline(never)]
fn top_above<'a>(layer: Ref<'a, ContextFamily>) -> Sib<'a> {
    top(layer)
}
