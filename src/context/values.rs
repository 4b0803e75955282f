//! Values: found in constant time, however deep the tree.
//!
//! Every value layer is the root of a trie over all the values visible from it:
//! itself, and pointers to elder layers. Made from the root before it, a new
//! layer copies one path of pointers (they are free, see `sync::lineage`) and
//! no values, so `with_value` does not depend on how many layers there are, and
//! hardly on how many keys.
//!
//! # Invariants
//!
//! 1. A name's hash is read two bits at a time, lowest first: digit `l` is bits
//!    `2l` and `2l + 1`.
//! 2. In a layer reached through level `l - 1`, or from anywhere where `l` is 0, the
//!    sibling at level `l`, difference `x` (1 to 3), is the root for the names that
//!    share the layer's digits below `l` and whose digit `l` is the layer's own xor `x`.
//! 3. The hash of a key is its address, turned about: no two keys share one.
//!    Types of one hash (two of 2^64), or a type and a key, lie in a list:
//!    `twin`. Which of them a layer is, its value's type tells.

use super::layer::{Layer, Line};
use crate::sync::Ref;
use std::any::TypeId;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::atomic::AtomicU8;

/// A key for values in a [`Context`](crate::Context): several keys can have values
/// of one type.
///
/// A key is a `static`, and its address is what makes it this key and no other;
/// nobody who cannot name the static can read, or cover, its value.
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
/// A `const` has no address of its own, and is refused:
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
    /// A key; the name is for people, in `Display` of a context.
    pub const fn new(name: &'static str) -> Self {
        Key { label: Label { name, _address: AtomicU8::new(0) }, _value: PhantomData }
    }

    /// Its name.
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

/// The part of a key that does not depend on its type; its address is the key.
pub(super) struct Label {
    name: &'static str,
    /// Never used: its interior mutability stops the compiler from promoting a
    /// `&const` to a static that other constants might share.
    _address: AtomicU8,
}

/// What a value is found by: its key, or (`None`) its type.
pub(super) type Name = Option<&'static Label>;

impl Label {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Addresses differ in their middle bits; the product spreads those over the
    /// upper half, and digits are read from the lowest: without an option to the compiler,
    /// the lowest bit that differs is found in a third of the time of the highest.
    #[inline]
    fn hash(&'static self) -> u64 {
        (std::ptr::from_ref(self).addr() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).swap_bytes()
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
    /// The siblings at level 0, by their difference, less one.
    first: [Sib<'a>; 3],
    more: More<'a>,
}

type Sib<'a> = Option<Ref<'a, Line>>;

/// The siblings at the levels from 1 on. Among a handful of names few have any.
type More<'a> = Option<Box<Block<'a>>>;

/// Four levels of siblings (by their difference, less one), and the next four.
#[derive(Default)]
struct Block<'a> {
    levels: [[Sib<'a>; 3]; LEVELS],
    next: More<'a>,
    /// In the first block only.
    twin: Sib<'a>,
}

const LEVELS: usize = 4;

/// The digit of `hash` at level 0.
fn digit(hash: u64) -> usize {
    hash as usize & 3
}

/// Where two hashes part: the level, and the digits' difference there. `None`
/// if they are one.
#[inline]
fn parting(hash: u64, other: u64) -> Option<(usize, usize)> {
    let differ = hash ^ other;
    if differ == 0 {
        return None;
    }
    let level = (differ.trailing_zeros() / 2) as usize;
    Some((level, digit(differ >> (2 * level))))
}

impl<'a> Entry<'a> {
    /// The entry of a layer with a value of type `V`, above which `top` is seen.
    pub(super) fn new<V: 'static>(name: Name, top: Sib<'a>) -> Self {
        let hash = name.map_or_else(hash_of_type::<V>, Label::hash);
        let mut new = Entry { hash, name, first: [None; 3], more: None };
        // Its way through those that are seen from the top.
        let mut next = top;
        let mut level = 0;
        while let Some(layer) = next {
            let elder = entry(layer);
            let Some((parts, difference)) = parting(hash, elder.hash) else {
                (level..=elder.levels()).for_each(|level| new.put(level, elder.level(level)));
                let covered = named::<V>(layer, name).is_some();
                new.put_twin(if covered { elder.twin() } else { Some(layer) });
                break;
            };
            (level..parts).for_each(|level| new.put(level, elder.level(level)));
            // Where they part, the elder is one of this layer's siblings, and one of the
            // elder's is where this layer's way goes on.
            let elders = elder.level(parts);
            let mut sibs = [None; 3];
            for other in 1..=3 {
                let seen_from_here = if other == difference { other } else { other ^ difference };
                sibs[seen_from_here - 1] =
                    if other == difference { Some(layer) } else { elders[other - 1] };
            }
            new.put(parts, sibs);
            next = elders[difference - 1];
            level = parts + 1;
        }
        new
    }

    /// Above this level there are no siblings.
    fn levels(&self) -> usize {
        let blocks = std::iter::successors(self.more.as_ref(), |block| block.next.as_ref());
        LEVELS * blocks.count()
    }

    /// The siblings at a level.
    fn level(&self, level: usize) -> [Sib<'a>; 3] {
        if level == 0 {
            return self.first;
        }
        self.block(level).map_or([None; 3], |block| block.levels[(level - 1) % LEVELS])
    }

    /// One of those at a level from 1 on.
    #[inline]
    fn sib(&self, level: usize, difference: usize) -> Sib<'a> {
        self.block(level)?.levels[(level - 1) % LEVELS][difference - 1]
    }

    /// Where those at a level from 1 on are.
    #[inline]
    fn block(&self, level: usize) -> Option<&Block<'a>> {
        let mut block = self.more.as_deref()?;
        for _ in 0..(level - 1) / LEVELS {
            block = block.next.as_deref()?;
        }
        Some(block)
    }

    fn put(&mut self, level: usize, sibs: [Sib<'a>; 3]) {
        if level == 0 {
            self.first = sibs;
        } else if sibs.iter().any(Option::is_some) {
            let mut block = self.more.get_or_insert_default();
            for _ in 0..(level - 1) / LEVELS {
                block = block.next.get_or_insert_default();
            }
            block.levels[(level - 1) % LEVELS] = sibs;
        }
    }

    fn twin(&self) -> Sib<'a> {
        self.more.as_ref()?.twin
    }

    fn put_twin(&mut self, twin: Sib<'a>) {
        if twin.is_some() {
            self.more.get_or_insert_default().twin = twin;
        }
    }
}

#[inline]
fn entry<'a>(layer: Ref<'a, Line>) -> &'a Entry<'a> {
    match layer.layer() {
        Layer::Value { entry, .. } => entry,
        _ => unreachable!("only value layers are in the trie"),
    }
}

/// The value of a layer that has this name: the same key, or the same type and no key.
#[inline]
fn named<'a, V: 'static>(layer: Ref<'a, Line>, name: Name) -> Option<&'a V> {
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
pub(super) fn find<'a, V: 'static>(layer: Ref<'a, Line>, name: Name) -> Option<&'a V> {
    let hash = name.map_or_else(hash_of_type::<V>, Label::hash);
    let top = match layer.layer() {
        Layer::Value { .. } => layer,
        _ => top_above(layer)?,
    };
    let root = entry(top);
    let mut next = match digit(hash ^ root.hash) {
        0 => Some(top),
        difference => root.first[difference - 1],
    };
    while let Some(layer) = next {
        let elder = entry(layer);
        next = match parting(hash, elder.hash) {
            Some((level, difference)) => elder.sib(level, difference),
            None => match named(layer, name) {
                None => elder.twin(),
                found => return found,
            },
        };
    }
    None
}

/// The topmost value layer seen from `layer`, itself included.
#[inline]
pub(super) fn top<'a>(layer: Ref<'a, Line>) -> Sib<'a> {
    match layer.layer() {
        Layer::Value { .. } => Some(layer),
        Layer::Branch(branch) => branch.values,
        Layer::Detached { values, .. } => *values,
        Layer::Todo { .. } => None,
    }
}

/// The same out of line: for who is likely to have a value layer.
#[inline(never)]
fn top_above<'a>(layer: Ref<'a, Line>) -> Sib<'a> {
    top(layer)
}
