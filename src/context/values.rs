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
//! 1. A key's hash is read two bits at a time, lowest first: digit `l` is bits
//!    `2l` and `2l + 1`. `sibs[3l + x - 1]` of a layer is the root for the keys
//!    whose digits below `l` are the layer's own and whose digit `l` is the
//!    layer's own xor `x`, with `x` in `1..=3`.
//! 2. A layer reached through level `l` is asked for its levels above `l` only.
//! 3. Different keys of one hash (two of 2^64) lie in a list: `sibs[96]`.

use super::layer::{Layer, Line, Role};
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
    name: &'static str,
    /// Never used: its interior mutability stops the compiler from promoting a
    /// `&const` to a static that other constants might share.
    _address: AtomicU8,
    _value: PhantomData<fn() -> V>,
}

impl<V> Key<V> {
    /// A key; the name is for people, in `Display` of a context.
    pub const fn new(name: &'static str) -> Self {
        Key { name, _address: AtomicU8::new(0), _value: PhantomData }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl<V> fmt::Debug for Key<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.name).finish()
    }
}

/// What a value is found by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Type(TypeId),
    /// The address of a `Key`, and what it is called.
    Static(usize, &'static str),
}

impl Name {
    pub(super) fn of_type<V: 'static>() -> Self {
        Name::Type(TypeId::of::<V>())
    }

    pub(super) fn of_key<V>(key: &'static Key<V>) -> Self {
        Name::Static(std::ptr::from_ref(key).addr(), key.name)
    }

    #[inline]
    fn hash(&self) -> u64 {
        match self {
            Name::Type(id) => {
                let mut hasher = TakeFirst(0);
                id.hash(&mut hasher);
                hasher.0
            }
            Name::Static(address, _) => {
                // Addresses differ in their middle bits; the product spreads those over
                // the upper half, and digits are read from the lowest.
                (*address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).swap_bytes()
            }
        }
    }
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
    pub(super) name: Name,
    hash: u64,
    sibs: Sibs<'a>,
}

type Sib<'a> = Option<Ref<'a, Line>>;

const INLINE: usize = 3;
const TWINS: usize = 96;

/// Pointers to elder layers: the first level in place, more in a box.
struct Sibs<'a> {
    first: [Sib<'a>; INLINE],
    more: Box<[Sib<'a>]>,
}

impl<'a> Sibs<'a> {
    #[inline]
    fn get(&self, slot: usize) -> Sib<'a> {
        match slot.checked_sub(INLINE) {
            None => self.first[slot],
            Some(slot) => self.more.get(slot).copied().flatten(),
        }
    }
}

/// Where two different hashes part: the level, and the digits' difference there.
#[inline]
fn parting(hash: u64, other: u64) -> Option<(usize, usize)> {
    let differ = hash ^ other;
    if differ == 0 {
        return None;
    }
    let level = (differ.trailing_zeros() / 2) as usize;
    Some((level, (differ >> (2 * level)) as usize & 3))
}

fn slot(level: usize, difference: usize) -> usize {
    3 * level + difference - 1
}

impl<'a> Entry<'a> {
    pub(super) fn new(name: Name, top: Sib<'a>) -> Self {
        Self::with_hash(name, name.hash(), top)
    }

    fn with_hash(name: Name, hash: u64, top: Sib<'a>) -> Self {
        let mut path = Path { sibs: [None; TWINS + 1], used: 0 };
        let mut next = top;
        let mut level = 0;
        while let Some(layer) = next {
            let elder = entry(layer);
            match parting(hash, elder.hash) {
                Some((parts, difference)) => {
                    path.copy(elder, 3 * level..3 * parts);
                    // At the parting, the elder's siblings seen from here: the elder itself
                    // is one, and one of its own is where this layer's way goes on.
                    path.put(slot(parts, difference), Some(layer));
                    for other in (1..=3).filter(|&other| other != difference) {
                        path.put(
                            slot(parts, other ^ difference),
                            elder.sibs.get(slot(parts, other)),
                        );
                    }
                    next = elder.sibs.get(slot(parts, difference));
                    level = parts + 1;
                }
                None => {
                    path.copy(elder, 3 * level..TWINS);
                    path.put(
                        TWINS,
                        if elder.name == name { elder.sibs.get(TWINS) } else { Some(layer) },
                    );
                    break;
                }
            }
        }
        let first = [path.sibs[0], path.sibs[1], path.sibs[2]];
        let more = path.sibs[INLINE..path.used.max(INLINE)].into();
        Entry { name, hash, sibs: Sibs { first, more } }
    }
}

/// The pointers of a layer in the making.
struct Path<'a> {
    sibs: [Sib<'a>; TWINS + 1],
    used: usize,
}

impl<'a> Path<'a> {
    fn put(&mut self, slot: usize, sib: Sib<'a>) {
        if sib.is_some() {
            self.sibs[slot] = sib;
            self.used = self.used.max(slot + 1);
        }
    }

    fn copy(&mut self, elder: &Entry<'a>, slots: std::ops::Range<usize>) {
        let end = slots.end.min(INLINE + elder.sibs.more.len());
        for slot in slots.start..end {
            self.put(slot, elder.sibs.get(slot));
        }
    }
}

fn entry<'a>(layer: Ref<'a, Line>) -> &'a Entry<'a> {
    match &layer.layer().role {
        Role::Value { entry, .. } => entry,
        _ => unreachable!("only value layers are in the trie"),
    }
}

/// The nearest layer with this name, from the topmost value layer down.
#[inline]
pub(super) fn find<'a>(top: Sib<'a>, name: Name) -> Sib<'a> {
    let hash = name.hash();
    let mut next = top;
    while let Some(layer) = next {
        let elder = entry(layer);
        next = match parting(hash, elder.hash) {
            Some((level, difference)) => elder.sibs.get(slot(level, difference)),
            None if elder.name == name => return Some(layer),
            None => elder.sibs.get(TWINS),
        };
    }
    None
}

/// The topmost value layer seen from `layer`, itself included.
#[inline]
pub(super) fn top<'a>(layer: Ref<'a, Line>) -> Sib<'a> {
    let Layer { role, values, .. } = layer.layer();
    if let Role::Value { .. } = role { Some(layer) } else { *values }
}
