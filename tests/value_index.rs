//! Values, against a walk up the chain.
//!
//! However values are found, the answer must be that of the plainest search:
//! the first value of this name, from the context towards the root. Here every
//! context of random trees of values, cancels and detachments is asked for every
//! name, and every value that went in is accounted for.

#![cfg(not(loom))]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use quell::{Context, Key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

static KEYS: [Key<Counted>; 200] = [const { Key::new("one of two hundred") }; 200];
static MANY: [Key<u64>; 1024] = [const { Key::new("one of a thousand") }; 1024];

/// A value that counts its drops.
#[derive(Debug)]
struct Counted {
    number: usize,
    drops: Arc<AtomicUsize>,
}

impl Counted {
    fn new(number: usize) -> (Self, Arc<AtomicUsize>) {
        let drops = Arc::new(AtomicUsize::new(0));
        (Counted { number, drops: Arc::clone(&drops) }, drops)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// As many types as are needed.
struct Typed<const N: usize>(Counted);

const TYPES: usize = 6;

fn with_typed(ctx: &Context, which: usize, value: Counted) -> Context {
    match which {
        0 => ctx.with_value(Typed::<0>(value)),
        1 => ctx.with_value(Typed::<1>(value)),
        2 => ctx.with_value(Typed::<2>(value)),
        3 => ctx.with_value(Typed::<3>(value)),
        4 => ctx.with_value(Typed::<4>(value)),
        _ => ctx.with_value(value),
    }
}

fn typed(ctx: &Context, which: usize) -> Option<&Counted> {
    match which {
        0 => ctx.value::<Typed<0>>().map(|typed| &typed.0),
        1 => ctx.value::<Typed<1>>().map(|typed| &typed.0),
        2 => ctx.value::<Typed<2>>().map(|typed| &typed.0),
        3 => ctx.value::<Typed<3>>().map(|typed| &typed.0),
        4 => ctx.value::<Typed<4>>().map(|typed| &typed.0),
        _ => ctx.value::<Counted>(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Name {
    Static(usize),
    Type(usize),
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Give(usize, Name),
    Cancel(usize),
    Timeout(usize),
    WithoutCancel(usize),
    Drop(usize),
}

/// How many keys are used, and the operations. Contexts are picked: the newest,
/// or any that is alive.
fn history() -> impl Strategy<Value = (usize, Vec<Op>)> {
    (1..=KEYS.len()).prop_flat_map(|keys| {
        let at = || prop_oneof![2 => Just(0_usize), 1 => 0..1000_usize];
        let name = prop_oneof![
            4 => (0..keys).prop_map(Name::Static),
            1 => (0..TYPES).prop_map(Name::Type),
        ];
        let op = prop_oneof![
            10 => (at(), name).prop_map(|(at, name)| Op::Give(at, name)),
            1 => at().prop_map(Op::Cancel),
            1 => at().prop_map(Op::Timeout),
            1 => at().prop_map(Op::WithoutCancel),
            1 => at().prop_map(Op::Drop),
        ];
        (Just(keys), prop::collection::vec(op, 1..150))
    })
}

struct Layer {
    parent: Option<usize>,
    given: Option<(Name, usize)>,
    drops: Arc<AtomicUsize>,
    ctx: Option<Context>,
}

struct World {
    layers: Vec<Layer>,
    /// Breaks a rule of the walk.
    eldest_first: bool,
}

impl World {
    fn held(&self, number: usize) -> Option<usize> {
        let held = (0..self.layers.len()).rev().filter(|&at| self.layers[at].ctx.is_some());
        let held: Vec<usize> = held.collect();
        (!held.is_empty()).then(|| held[number % held.len()])
    }

    fn add(
        &mut self,
        parent: usize,
        name: Option<Name>,
        make: impl Fn(&Context, Counted) -> Context,
    ) {
        let Some(parent) = self.held(parent) else { return };
        let number = self.layers.len();
        let (value, drops) = Counted::new(number);
        let ctx = self.layers[parent].ctx.as_ref().map(|ctx| make(ctx, value));
        let given = name.map(|name| (name, number));
        self.layers.push(Layer { parent: Some(parent), given, drops, ctx });
    }

    fn step(&mut self, op: Op) {
        // An operation that gives no value drops it at once.
        let derive = |make: fn(&Context) -> Context| move |ctx: &Context, _| make(ctx);
        match op {
            Op::Give(at, name) => self.add(at, Some(name), |ctx, value| match name {
                Name::Static(key) => ctx.with_entry(&KEYS[key], value),
                Name::Type(which) => with_typed(ctx, which, value),
            }),
            Op::Cancel(at) => self.add(at, None, derive(|ctx| ctx.with_cancel().0)),
            Op::Timeout(at) => self.add(
                at,
                None,
                derive(|ctx| {
                    let (ctx, canceller) = ctx.with_timeout(std::time::Duration::MAX);
                    canceller.detach();
                    ctx
                }),
            ),
            Op::WithoutCancel(at) => self.add(at, None, derive(Context::without_cancel)),
            Op::Drop(at) => {
                if let Some(at) = self.held(at).filter(|&at| at > 0) {
                    self.layers[at].ctx = None;
                }
            }
        }
    }

    /// The plainest search there is.
    fn walk(&self, at: usize, name: Name) -> Option<usize> {
        let mut found = None;
        let mut next = Some(at);
        while let Some(at) = next {
            let layer = &self.layers[at];
            if let Some((_, number)) = layer.given.filter(|&(given, _)| given == name) {
                found = Some(number);
                if !self.eldest_first {
                    break;
                }
            }
            next = layer.parent;
        }
        found
    }

    fn look(&self, at: usize, ctx: &Context, keys: usize) -> Result<(), String> {
        let statics = (0..keys).map(|key| (Name::Static(key), ctx.entry(&KEYS[key])));
        let types = (0..TYPES).map(|which| (Name::Type(which), typed(ctx, which)));
        for (name, found) in statics.chain(types) {
            let (found, walked) = (found.map(|value| value.number), self.walk(at, name));
            if found != walked {
                return Err(format!("{name:?} of {ctx}: found {found:?}, should be {walked:?}"));
            }
        }
        Ok(())
    }

    /// A value lives as long as a context at or below it, and no longer.
    fn count_drops(&self) -> Result<(), String> {
        let mut alive: Vec<bool> = self.layers.iter().map(|layer| layer.ctx.is_some()).collect();
        for at in (0..alive.len()).rev() {
            if let (true, Some(parent)) = (alive[at], self.layers[at].parent) {
                alive[parent] = true;
            }
        }
        for (at, layer) in self.layers.iter().enumerate().skip(1) {
            let kept = alive[at] && layer.given.is_some();
            let drops = layer.drops.load(Ordering::Relaxed);
            if drops != usize::from(!kept) {
                return Err(format!("layer {at}, kept: {kept}, dropped {drops} times"));
            }
        }
        Ok(())
    }
}

fn replay(keys: usize, ops: &[Op], eldest_first: bool) -> Result<(), String> {
    let (_, drops) = Counted::new(0);
    let root = Layer { parent: None, given: None, drops, ctx: Some(Context::background()) };
    let mut world = World { layers: vec![root], eldest_first };
    for &op in ops {
        world.step(op);
        world.count_drops()?;
    }
    for (at, layer) in world.layers.iter().enumerate() {
        if let Some(ctx) = &layer.ctx {
            world.look(at, ctx, keys)?;
        }
    }
    // In either order: from the root on, or from the leaves.
    let order: Vec<usize> = match keys % 2 {
        0 => (0..world.layers.len()).collect(),
        _ => (0..world.layers.len()).rev().collect(),
    };
    for at in order {
        world.layers[at].ctx = None;
        world.count_drops()?;
    }
    Ok(())
}

fn refutation(eldest_first: bool) -> Option<String> {
    let cases = if cfg!(debug_assertions) { 200 } else { 1_500 };
    let cases = Config::default().cases.max(cases);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&history(), |(keys, ops)| {
        replay(keys, &ops, eldest_first).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, (keys, ops))) => Some(format!("{why}\n{keys} keys, {ops:?}")),
        Err(aborted) => Some(aborted.to_string()),
    }
}

#[test]
fn every_lookup_finds_what_a_walk_finds_and_every_value_is_dropped_once() {
    if let Some(story) = refutation(false) {
        panic!("{story}");
    }
}

#[test]
fn a_walk_that_prefers_the_eldest_value_is_refuted() {
    let story = refutation(true).expect("a wrong walk was believed");
    assert!(story.contains("should be"), "{story}");
}

#[test]
fn each_of_1024_keys_on_one_chain_is_found_from_everywhere_below_it() {
    let mut chain = vec![Context::background()];
    for (number, key) in MANY.iter().enumerate() {
        let next = chain[number].with_entry(key, number as u64);
        chain.push(next);
    }
    for (depth, ctx) in chain.iter().enumerate() {
        for (number, key) in MANY.iter().enumerate() {
            let expected = (number < depth).then_some(number as u64);
            assert_eq!(ctx.entry(key).copied(), expected, "key {number} at depth {depth}");
        }
    }
}

#[test]
fn of_a_key_given_again_and_again_each_layer_sees_its_own_and_the_elders_theirs() {
    let key = &MANY[0];
    let mut chain = vec![Context::background().with_entry(&MANY[1], 7)];
    for number in 0..10_000 {
        let next = chain[number].with_entry(key, number as u64);
        chain.push(next);
    }
    assert_eq!(chain[0].entry(key), None);
    for (depth, ctx) in chain.iter().enumerate().skip(1) {
        assert_eq!(ctx.entry(key), Some(&(depth as u64 - 1)));
        assert_eq!(ctx.entry(&MANY[1]), Some(&7));
    }
}

#[test]
fn a_type_and_keys_of_that_type_are_different_names() {
    let ctx = Context::background().with_value(1_u64);
    assert_eq!((ctx.value::<u64>(), ctx.entry(&MANY[0])), (Some(&1), None));
    let ctx = ctx.with_entry(&MANY[0], 2);
    assert_eq!(ctx.value::<u64>(), Some(&1));
    assert_eq!((ctx.entry(&MANY[0]), ctx.entry(&MANY[1])), (Some(&2), None));
}

#[test]
fn what_nobody_gave_is_not_found_on_any_depth() {
    let mut ctx = Context::background();
    assert_eq!(ctx.value::<u64>(), None);
    for (number, key) in MANY[..512].iter().enumerate() {
        ctx = ctx.with_entry(key, number as u64);
        assert!(MANY[512..].iter().all(|key| ctx.entry(key).is_none()));
        assert_eq!(ctx.value::<u64>(), None);
    }
}

#[test]
fn branches_see_what_is_above_them_and_nothing_of_each_other() {
    let trunk = MANY[..64].iter().fold(Context::background(), |ctx, key| ctx.with_entry(key, 0));
    let branches: Vec<Context> = (64..128)
        .map(|own| trunk.with_cancel().0.with_entry(&MANY[own], 1).without_cancel())
        .collect();
    for (branch, own) in branches.iter().zip(64..) {
        for (number, key) in MANY[..256].iter().enumerate() {
            let expected = match number {
                0..64 => Some(0),
                _ if number == own => Some(1),
                _ => None,
            };
            assert_eq!(branch.entry(key).copied(), expected);
        }
    }
}

#[test]
fn threads_that_grow_and_fell_branches_of_one_trunk_find_their_own_values() {
    let trunk = MANY[..64].iter().fold(Context::background(), |ctx, key| ctx.with_entry(key, 0));
    let rounds = if cfg!(debug_assertions) { 200 } else { 2_000 };
    thread::scope(|scope| {
        for thread in 1..=4_usize {
            let trunk = trunk.clone();
            scope.spawn(move || {
                for round in 0..rounds {
                    let own = |number: usize| (number * thread + round) % 128;
                    let mut ctx = trunk.clone();
                    for number in 0..16 {
                        ctx = ctx.with_entry(&MANY[own(number)], thread as u64);
                    }
                    for (number, key) in MANY[..128].iter().enumerate() {
                        let mine = (0..16).any(|mine| own(mine) == number);
                        let expected = match number {
                            _ if mine => Some(thread as u64),
                            0..64 => Some(0),
                            _ => None,
                        };
                        assert_eq!(ctx.entry(key).copied(), expected);
                    }
                }
            });
        }
    });
}
