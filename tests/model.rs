//! Random operations against a plain model.
//!
//! The model is a list of nodes. Each knows which nodes end it, and, once it has
//! ended, how. Time is a number. When a node ends, the list is walked from the front
//! and everything below is marked; when time moves, the deadlines on the way are met
//! one after the other. Nothing in it is lazy, shared, locked or registered, so it
//! can be checked by reading it.
//!
//! The contexts run on a paused clock. In half of the runs every context is looked
//! at after every step; in the other half only where an operation says so, because
//! a look writes down an end that a later cancel must find without it. Likewise,
//! time may move without the runtime getting a turn: then no deadline has been
//! acted on yet, and still every look must know of it.
//!
//! The last test breaks the model, one rule at a time, and demands that the same
//! operations notice.

#![cfg(all(not(loom), feature = "tokio"))]
// The paused clock is asked directly; and a lock here is not one of the crate's.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use quell::{AfterFunc, Canceller, Cause, Context, ContextError, Done, Key};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;
use tokio::time::Instant;
#[cfg(feature = "tokio-util")]
use tokio_util::sync::CancellationToken;

// ---------------------------------------------------------------- operations

/// A number picks among what is there at that moment, so that every list of
/// operations means something, shortened ones too.
#[derive(Clone, Debug)]
enum Op {
    WithCancel(u8),
    WithTimeout(u8, Span),
    WithTimeoutCause(u8, Span),
    WithDeadline(u8, i8),
    WithDeadlineCause(u8, i8),
    WithReserve(u8, u8),
    Linked(u8, Vec<u8>),
    WithValue(u8, u8),
    WithEntry(u8, u8, u8),
    WithoutCancel(u8),
    Cancel(u8),
    CancelWith(u8),
    /// Cancels one context with the cause of another.
    PassOn(u8, u8),
    CloneCanceller(u8),
    DropCanceller(u8),
    Detach(u8),
    CloneContext(u8),
    DropContext(u8),
    AfterFunc(u8),
    /// A function that cancels another context, or its own.
    AfterFuncCancels(u8, u8),
    Stop(u8),
    StopAndWait(u8),
    /// A child that ends with a token, too: with a new one, or one that was used before.
    #[cfg(feature = "tokio-util")]
    WithToken(u8, u8),
    #[cfg(feature = "tokio-util")]
    CancelToken(u8),
    /// Asks a context for a token.
    #[cfg(feature = "tokio-util")]
    Token(u8),
    /// Time moves, and the runtime gets its turn.
    Advance(u8),
    /// Time moves, and the runtime gets no turn until another operation gives it one.
    Jump(u8),
    Settle,
    Wait(u8),
    /// Polls again, with a waker of its own or with the same one.
    PollAgain(u8, bool),
    DropDone(u8),
    Look(u8),
    Tree(u8),
}

#[derive(Clone, Copy, Debug)]
enum Span {
    Millis(u8),
    Max,
}

fn operation() -> impl Strategy<Value = Op> {
    let n = any::<u8>;
    let span = || {
        prop_oneof![
            9 => (0..60_u8).prop_map(Span::Millis),
            1 => Just(Span::Max),
        ]
    };
    // Two halves, because the number of arms of one is limited.
    let makes = prop_oneof![
        4 => n().prop_map(Op::WithCancel),
        3 => (n(), span()).prop_map(|(at, span)| Op::WithTimeout(at, span)),
        2 => (n(), span()).prop_map(|(at, span)| Op::WithTimeoutCause(at, span)),
        1 => (n(), -10..60_i8).prop_map(|(at, by)| Op::WithDeadline(at, by)),
        1 => (n(), -10..60_i8).prop_map(|(at, by)| Op::WithDeadlineCause(at, by)),
        2 => (n(), 0..30_u8).prop_map(|(at, keep)| Op::WithReserve(at, keep)),
        3 => (n(), prop::collection::vec(n(), 1..=2)).prop_map(|(at, to)| Op::Linked(at, to)),
        1 => (n(), n()).prop_map(|(at, value)| Op::WithValue(at, value)),
        2 => (n(), n(), n()).prop_map(|(at, key, value)| Op::WithEntry(at, key, value)),
        1 => n().prop_map(Op::WithoutCancel),
        2 => n().prop_map(Op::CloneContext),
        1 => n().prop_map(Op::CloneCanceller),
        4 => n().prop_map(Op::AfterFunc),
        4 => n().prop_map(Op::Wait),
    ];
    let ends = prop_oneof![
        2 => n().prop_map(Op::Cancel),
        2 => n().prop_map(Op::CancelWith),
        1 => (n(), n()).prop_map(|(at, of)| Op::PassOn(at, of)),
        1 => n().prop_map(Op::DropCanceller),
        2 => n().prop_map(Op::Detach),
        4 => n().prop_map(Op::DropContext),
        2 => n().prop_map(Op::Stop),
        1 => n().prop_map(Op::StopAndWait),
        2 => (0..25_u8).prop_map(Op::Advance),
        2 => (0..25_u8).prop_map(Op::Jump),
        1 => Just(Op::Settle),
        2 => (n(), any::<bool>()).prop_map(|(at, own)| Op::PollAgain(at, own)),
        1 => n().prop_map(Op::DropDone),
        2 => n().prop_map(Op::Look),
        1 => n().prop_map(Op::Tree),
    ];
    let nested = (n(), n()).prop_map(|(at, of)| Op::AfterFuncCancels(at, of));
    #[cfg(feature = "tokio-util")]
    let tokens = prop_oneof![
        2 => (n(), n()).prop_map(|(at, token)| Op::WithToken(at, token)),
        1 => n().prop_map(Op::CancelToken),
        1 => n().prop_map(Op::Token),
    ];
    #[cfg(not(feature = "tokio-util"))]
    let tokens = Just(Op::Settle);
    prop_oneof![30 => makes, 20 => ends, 2 => nested, 4 => tokens]
}

/// Whether everything is looked at after every step; and the steps.
fn history() -> impl Strategy<Value = (bool, Vec<Op>)> {
    (any::<bool>(), prop::collection::vec(operation(), 1..60))
}

// --------------------------------------------------------------------- model

/// One rule of the model, broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    CancelReachesTheParent,
    CancelStopsAtTheChildren,
    TheLastCauseWins,
    ALateCancelBeatsTheDeadline,
    AChildMayOutliveItsParentsDeadline,
    DetachDoesNothing,
    AClonedCancellerCancelsWhenDropped,
    WithoutCancelLosesTheValues,
    LinkedForgetsTheOthers,
    LinkedAsksTheOthersFirst,
    TheFirstValueWins,
    AStoppedFunctionRuns,
    AReplacedWakerIsWoken,
    AFunctionKeepsNothingAlive,
    APassedOnCauseHasANewOrigin,
    ReserveKeepsNothing,
    AFunctionCancelsNothing,
    #[cfg(feature = "tokio-util")]
    ATokenIsForgotten,
    #[cfg(feature = "tokio-util")]
    ATokenIsAskedFirst,
}

const EVERY_WRONG: &[Wrong] = &[
    Wrong::CancelReachesTheParent,
    Wrong::CancelStopsAtTheChildren,
    Wrong::TheLastCauseWins,
    Wrong::ALateCancelBeatsTheDeadline,
    Wrong::AChildMayOutliveItsParentsDeadline,
    Wrong::DetachDoesNothing,
    Wrong::AClonedCancellerCancelsWhenDropped,
    Wrong::WithoutCancelLosesTheValues,
    Wrong::LinkedForgetsTheOthers,
    Wrong::LinkedAsksTheOthersFirst,
    Wrong::TheFirstValueWins,
    Wrong::AStoppedFunctionRuns,
    Wrong::AReplacedWakerIsWoken,
    Wrong::AFunctionKeepsNothingAlive,
    Wrong::APassedOnCauseHasANewOrigin,
    Wrong::ReserveKeepsNothing,
    Wrong::AFunctionCancelsNothing,
    #[cfg(feature = "tokio-util")]
    Wrong::ATokenIsForgotten,
    #[cfg(feature = "tokio-util")]
    Wrong::ATokenIsAskedFirst,
];

#[derive(Clone, Debug, PartialEq)]
struct Why {
    text: String,
    /// `None`: a token does not know where it was cancelled.
    line: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
struct End {
    error: ContextError,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Name {
    Number,
    Static(usize),
}

struct Node {
    parent: Option<usize>,
    /// The nodes whose end is this one's too, in the order in which they are asked.
    ends_with: Vec<usize>,
    /// A deadline of its own, in milliseconds, and the cause when it is met.
    deadline: Option<(i64, Why)>,
    value: Option<(Name, u64)>,
    /// The line of the call that made its `Canceller`, if it has one.
    made_in: Option<u32>,
    detached: bool,
    end: Option<End>,
}

const BACKGROUND: Node = Node {
    parent: None,
    ends_with: vec![],
    deadline: None,
    value: None,
    made_in: None,
    detached: false,
    end: None,
};

struct Model {
    now: i64,
    nodes: Vec<Node>,
    wrong: Option<Wrong>,
}

impl Model {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    /// The deadline that ends `at`, and the node it belongs to: its own where it has
    /// one, which is never later than the others.
    fn bound(&self, at: usize) -> Option<(i64, usize)> {
        let node = &self.nodes[at];
        let own = node.deadline.as_ref().map(|&(when, _)| (when, at));
        if own.is_some() && self.is(Wrong::AChildMayOutliveItsParentsDeadline) {
            return own;
        }
        let others = node.ends_with.iter().filter_map(|&other| self.bound(other));
        own.into_iter().chain(others).min_by_key(|&(when, _)| when)
    }

    fn add(&mut self, mut node: Node) -> usize {
        if let Some((when, _)) = &node.deadline {
            let parents = node.ends_with.iter().filter_map(|&up| self.bound(up)).min();
            let later = parents.is_some_and(|(parents, _)| *when > parents);
            if later && !self.is(Wrong::AChildMayOutliveItsParentsDeadline) {
                node.deadline = None;
            }
        }
        self.nodes.push(node);
        self.spread();
        self.meet_deadlines(self.now);
        self.nodes.len() - 1
    }

    /// Everything below an ended node ends the same way.
    fn spread(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].end.is_none() {
                let node = &self.nodes[at];
                let above = node.ends_with.iter().find_map(|&up| self.nodes[up].end.clone());
                self.nodes[at].end = above;
            }
        }
    }

    fn cancel(&mut self, at: usize, error: ContextError, why: Why) {
        let by_deadline = |end: &End| end.error == ContextError::DeadlineExceeded;
        let ended = self.nodes[at].end.as_ref();
        let again = self.is(Wrong::TheLastCauseWins)
            || self.is(Wrong::ALateCancelBeatsTheDeadline) && ended.is_some_and(by_deadline);
        if ended.is_some() && !again {
            return;
        }
        self.nodes[at].end = Some(End { error, why });
        if self.is(Wrong::CancelReachesTheParent) {
            if let Some(up) = self.nodes[at].parent.filter(|&up| up > 0) {
                self.nodes[up].end = self.nodes[at].end.clone();
            }
        }
        if self.is(Wrong::CancelStopsAtTheChildren) {
            for below in at + 1..self.nodes.len() {
                if self.nodes[below].parent == Some(at) && self.nodes[below].end.is_none() {
                    self.nodes[below].end = self.nodes[at].end.clone();
                }
            }
            return;
        }
        self.spread();
    }

    /// Meets every deadline up to `now`, the earliest first; of one instant, all
    /// deadlines first, and then what is below them.
    fn meet_deadlines(&mut self, now: i64) {
        loop {
            let live = self.nodes.iter().filter(|node| node.end.is_none());
            let due = live.filter_map(|node| Some(node.deadline.as_ref()?.0));
            let Some(next) = due.filter(|&when| when <= now).min() else { break };
            for node in &mut self.nodes {
                if let (None, Some((when, why))) = (&node.end, &node.deadline) {
                    if *when == next {
                        let error = ContextError::DeadlineExceeded;
                        node.end = Some(End { error, why: why.clone() });
                    }
                }
            }
            self.spread();
        }
        self.now = now;
    }

    fn value(&self, at: usize, name: Name) -> Option<u64> {
        let mut next = Some(at);
        let mut found = None;
        while let Some(at) = next {
            let node = &self.nodes[at];
            if let Some((_, value)) = node.value.filter(|&(given, _)| given == name) {
                found = Some(value);
                if !self.is(Wrong::TheFirstValueWins) {
                    break;
                }
            }
            if node.detached && self.is(Wrong::WithoutCancelLosesTheValues) {
                break;
            }
            next = node.parent;
        }
        found
    }

    /// Whether it can end: the background and what is cut off cannot.
    fn can_end(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.made_in.is_some() || node.ends_with.iter().any(|&up| self.can_end(up))
    }

    /// Which nodes were derived from `root`, at any depth.
    fn derived_from(&self, root: usize, through_links: bool) -> Vec<bool> {
        let mut below = vec![false; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            let links = node.ends_with.iter().filter(|_| through_links);
            below[at] = node.parent.iter().chain(links).any(|&up| up == root || below[up]);
        }
        below
    }
}

// --------------------------------------------------------------------- world

static KEYS: [Key<u64>; 3] = [Key::new("first"), Key::new("second"), Key::new("third")];

#[derive(Debug)]
struct Counter(AtomicUsize);

impl Counter {
    fn new() -> Arc<Self> {
        Arc::new(Counter(AtomicUsize::new(0)))
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.count();
    }
}

/// Whether a waiter or a function has been told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    No,
    /// A deadline has passed, and the runtime has had no turn since.
    Due,
    Yes,
    /// It does not want to be told any more.
    Never,
}

struct Func {
    node: usize,
    handle: AfterFunc,
    runs: Arc<Counter>,
    told: Told,
    /// Which context it cancels, and in which line.
    cancels: Option<(usize, u32)>,
}

struct Waiting {
    node: usize,
    done: Done,
    wakes: Arc<Counter>,
    /// `Never`: not polled, or answered.
    told: Told,
}

#[derive(Default)]
struct Real {
    handles: Vec<Context>,
    cancellers: Vec<Canceller>,
    /// Dropping the last canceller does nothing.
    disarmed: bool,
}

struct World {
    model: Model,
    real: Vec<Real>,
    funcs: Vec<Func>,
    waiting: Vec<Waiting>,
    /// Tokens that end contexts, each with a node of its own.
    #[cfg(feature = "tokio-util")]
    tokens: Vec<(usize, CancellationToken)>,
    /// Tokens of contexts.
    #[cfg(feature = "tokio-util")]
    given_out: Vec<(usize, CancellationToken, Told)>,
    /// Wakers that were replaced or taken back, and how often they must have been woken.
    retired: Vec<(Arc<Counter>, usize)>,
    settled: bool,
    start: Instant,
    given: u64,
}

type Checked = Result<(), String>;

macro_rules! agree {
    ($real:expr, $model:expr, $($what:tt)+) => {{
        let (real, model) = ($real, $model);
        if real != model {
            let what = format!($($what)+);
            return Err(format!("{what}: the contexts say {real:?}, the model says {model:?}"));
        }
    }};
}

/// The line of the call, together with its value.
macro_rules! noted {
    ($($call:tt)+) => { (line!(), $($call)+) };
}

fn pick<T>(all: impl IntoIterator<Item = T>, number: u8) -> Option<T> {
    let mut all: Vec<T> = all.into_iter().collect();
    (!all.is_empty()).then(|| all.swap_remove(usize::from(number) % all.len()))
}

impl World {
    fn new(wrong: Option<Wrong>) -> Self {
        let handles = vec![Context::background()];
        World {
            model: Model { now: 0, nodes: vec![BACKGROUND], wrong },
            real: vec![Real { handles, ..Real::default() }],
            funcs: vec![],
            waiting: vec![],
            #[cfg(feature = "tokio-util")]
            tokens: vec![],
            #[cfg(feature = "tokio-util")]
            given_out: vec![],
            retired: vec![],
            settled: true,
            start: Instant::now(),
            given: 0,
        }
    }

    fn fresh(&mut self, what: &str) -> String {
        self.given += 1;
        format!("{what} {}", self.given)
    }

    fn a_context(&self, number: u8) -> Option<(usize, Context)> {
        let held = self.real.iter().enumerate().filter(|(_, real)| !real.handles.is_empty());
        pick(held, number).map(|(at, real)| (at, real.handles[0].clone()))
    }

    fn a_canceller(&self, number: u8) -> Option<usize> {
        let held = self.real.iter().enumerate().filter(|(_, real)| !real.cancellers.is_empty());
        pick(held, number).map(|(at, _)| at)
    }

    /// Adds a context that can end by itself, here and in the model.
    fn branch(
        &mut self,
        ends_with: Vec<usize>,
        deadline: Option<(i64, Option<String>)>,
        (line, (ctx, canceller)): (u32, (Context, Canceller)),
    ) {
        let deadline = deadline.map(|(when, text)| {
            let text = text.unwrap_or_else(|| "context deadline exceeded".to_string());
            (when, Why { text, line: Some(line) })
        });
        self.model.add(Node {
            parent: Some(ends_with[0]),
            ends_with,
            deadline,
            value: None,
            made_in: Some(line),
            detached: false,
            end: None,
        });
        let real = Real { handles: vec![ctx], cancellers: vec![canceller], disarmed: false };
        self.real.push(real);
    }

    fn other(&mut self, parent: usize, value: Option<(Name, u64)>, ctx: Context) {
        let detached = value.is_none();
        self.model.add(Node {
            parent: Some(parent),
            ends_with: if detached { vec![] } else { vec![parent] },
            deadline: None,
            value,
            made_in: None,
            detached,
            end: None,
        });
        self.real.push(Real { handles: vec![ctx], ..Real::default() });
    }

    fn instant(&self, millis: i64) -> Instant {
        let by = Duration::from_millis(millis.unsigned_abs());
        if millis < 0 { self.start - by } else { self.start + by }
    }

    async fn step(&mut self, op: &Op) -> Checked {
        match *op {
            Op::WithCancel(at) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                self.branch(vec![at], None, noted!(ctx.with_cancel()));
            }
            Op::WithTimeout(at, span) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let (after, when) = self.span(span);
                let made = noted!(ctx.with_timeout(after));
                self.branch(vec![at], when.map(|when| (when, None)), made);
            }
            Op::WithTimeoutCause(at, span) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let (after, when) = self.span(span);
                let text = self.fresh("too slow");
                let made = noted!(ctx.with_timeout_cause(after, text.clone()));
                self.branch(vec![at], when.map(|when| (when, Some(text))), made);
            }
            Op::WithDeadline(at, by) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let when = self.model.now + i64::from(by);
                let made = noted!(ctx.with_deadline(self.instant(when)));
                self.branch(vec![at], Some((when, None)), made);
            }
            Op::WithDeadlineCause(at, by) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let when = self.model.now + i64::from(by);
                let text = self.fresh("too late");
                let made = noted!(ctx.with_deadline_cause(self.instant(when), text.clone()));
                self.branch(vec![at], Some((when, Some(text))), made);
            }
            Op::WithReserve(at, keep) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let kept = if self.model.is(Wrong::ReserveKeepsNothing) { 0 } else { keep.into() };
                let when = self.model.bound(at).map(|(when, _)| (when - kept, None));
                let made = noted!(ctx.with_reserve(Duration::from_millis(keep.into())));
                self.branch(vec![at], when, made);
            }
            Op::Linked(at, ref others) => self.link(at, others),
            Op::WithValue(at, value) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let value = u64::from(value);
                self.other(at, Some((Name::Number, value)), ctx.with_value(value));
            }
            Op::WithEntry(at, key, value) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let (key, value) = (usize::from(key) % KEYS.len(), u64::from(value));
                self.other(at, Some((Name::Static(key), value)), ctx.with_entry(&KEYS[key], value));
            }
            Op::WithoutCancel(at) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                self.other(at, None, ctx.without_cancel());
            }
            Op::Cancel(at) => {
                let Some(at) = self.a_canceller(at) else { return Ok(()) };
                let (line, ()) = noted!(self.real[at].cancellers[0].cancel());
                self.cancel(at, Why { text: "context canceled".to_string(), line: Some(line) });
            }
            Op::CancelWith(at) => {
                let Some(at) = self.a_canceller(at) else { return Ok(()) };
                let text = self.fresh("because");
                let (line, ()) = noted!(self.real[at].cancellers[0].cancel_with(text.clone()));
                self.cancel(at, Why { text, line: Some(line) });
            }
            Op::PassOn(at, of) => {
                let Some(at) = self.a_canceller(at) else { return Ok(()) };
                let Some((of, ctx)) = self.a_context(of) else { return Ok(()) };
                let Some(cause) = ctx.cause() else { return Ok(()) };
                let (line, ()) = noted!(self.real[at].cancellers[0].cancel_with(cause));
                let end = self.model.nodes[of].end.clone();
                let Some(mut end) = end else { return Err("a cause without an end".into()) };
                if self.model.is(Wrong::APassedOnCauseHasANewOrigin) {
                    end.why.line = Some(line);
                }
                self.cancel(at, end.why);
            }
            Op::CloneCanceller(at) => {
                let Some(at) = self.a_canceller(at) else { return Ok(()) };
                let canceller = self.real[at].cancellers[0].clone();
                self.real[at].cancellers.push(canceller);
            }
            Op::DropCanceller(at) => {
                let Some(at) = self.a_canceller(at) else { return Ok(()) };
                drop(self.real[at].cancellers.pop());
                let last = !self.has_canceller(at)
                    || self.model.is(Wrong::AClonedCancellerCancelsWhenDropped);
                if last && !self.real[at].disarmed {
                    self.model_drops_canceller(at);
                }
            }
            Op::Detach(at) => {
                let Some(at) = self.a_canceller(at) else { return Ok(()) };
                self.real[at].cancellers.pop().into_iter().for_each(Canceller::detach);
                if self.model.is(Wrong::DetachDoesNothing) {
                    if !self.has_canceller(at) {
                        self.model_drops_canceller(at);
                    }
                } else {
                    self.real[at].disarmed = true;
                }
            }
            Op::CloneContext(at) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                self.real[at].handles.push(ctx);
            }
            Op::DropContext(at) => {
                if let Some((at, _)) = self.a_context(at).filter(|&(at, _)| at > 0) {
                    drop(self.real[at].handles.pop());
                }
            }
            Op::AfterFunc(at) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let runs = Counter::new();
                let count = Arc::clone(&runs);
                let handle = ctx.after_func(move || count.count());
                let ended = self.model.nodes[at].end.is_some();
                let told = if ended { Told::Yes } else { Told::No };
                self.funcs.push(Func { node: at, handle, runs, told, cancels: None });
            }
            Op::AfterFuncCancels(at, of) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let Some(of) = self.a_canceller(of) else { return Ok(()) };
                // It may be due already, and then it runs at once.
                self.settle().await;
                let runs = Counter::new();
                let (count, canceller) = (Arc::clone(&runs), self.real[of].cancellers[0].clone());
                let (line, cancels) = noted!(move || canceller.cancel());
                let handle = ctx.after_func(move || {
                    count.count();
                    cancels();
                });
                let (told, cancels) = (Told::No, Some((of, line)));
                self.funcs.push(Func { node: at, handle, runs, told, cancels });
                self.run_what_cancels();
            }
            Op::Stop(which) | Op::StopAndWait(which) => {
                let stops_nothing = self.model.is(Wrong::AStoppedFunctionRuns);
                let Some(func) = pick(&mut self.funcs, which) else { return Ok(()) };
                let waits = matches!(op, Op::StopAndWait(_));
                let stopped = if waits { func.handle.stop_and_wait() } else { func.handle.stop() };
                match func.told {
                    Told::No => agree!(stopped, true, "stop, before the end"),
                    Told::Yes | Told::Never => agree!(stopped, false, "stop, too late"),
                    // The deadline has passed, and the runtime had no turn: either is allowed.
                    Told::Due => {}
                }
                if stopped && !stops_nothing {
                    func.told = Told::Never;
                    // It held a canceller.
                    if let Some((of, _)) = func.cancels {
                        if !self.has_canceller(of) && !self.real[of].disarmed {
                            self.model_drops_canceller(of);
                        }
                    }
                }
            }
            #[cfg(feature = "tokio-util")]
            Op::WithToken(at, which) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let which = usize::from(which) % (self.tokens.len() + 1);
                if which == self.tokens.len() {
                    let node = self.model.add(Node { ..BACKGROUND });
                    self.real.push(Real::default());
                    self.tokens.push((node, CancellationToken::new()));
                }
                let (node, token) = &self.tokens[which];
                let (mut ends_with, made) = (vec![at, *node], noted!(ctx.with_token(token)));
                if self.model.is(Wrong::ATokenIsForgotten) {
                    ends_with.truncate(1);
                }
                if self.model.is(Wrong::ATokenIsAskedFirst) {
                    ends_with.reverse();
                }
                self.branch(ends_with, None, made);
                let last = self.model.nodes.len() - 1;
                self.model.nodes[last].parent = Some(at);
            }
            #[cfg(feature = "tokio-util")]
            Op::CancelToken(which) => {
                let Some((node, token)) = pick(&self.tokens, which) else { return Ok(()) };
                // A token ends one context after the other, and the functions of the first run
                // before the second has ended.
                let nodes = self.model.nodes.iter();
                let ends = nodes.filter(|other| other.ends_with.contains(node)).count();
                if ends > 1 && self.funcs.iter().any(|func| func.cancels.is_some()) {
                    return Ok(());
                }
                token.cancel();
                let why = Why { text: "context canceled".to_string(), line: None };
                self.cancel(*node, why);
            }
            #[cfg(feature = "tokio-util")]
            Op::Token(at) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                let token = ctx.token();
                let ended = self.model.nodes[at].end.is_some();
                agree!(token.is_cancelled(), ended, "a new token of {ctx}");
                let told = if ended { Told::Yes } else { Told::No };
                self.given_out.push((at, token, told));
            }
            Op::Advance(by) => {
                self.advance(by).await;
                self.settle().await;
            }
            Op::Jump(by) => {
                self.settled = false;
                self.advance(by).await;
                // What these cancel depends on when they run.
                let mut pending = self.funcs.iter().filter(|func| func.told == Told::No);
                if pending.any(|func| func.cancels.is_some()) {
                    self.settle().await;
                }
            }
            Op::Settle => self.settle().await,
            Op::Wait(at) => {
                let Some((node, ctx)) = self.a_context(at) else { return Ok(()) };
                let done = ctx.done();
                let waiting = Waiting { node, done, wakes: Counter::new(), told: Told::Never };
                self.waiting.push(waiting);
                return self.poll(self.waiting.len() - 1, true);
            }
            Op::PollAgain(which, own) => {
                let Some(which) = pick(0..self.waiting.len(), which) else { return Ok(()) };
                return self.poll(which, own);
            }
            Op::DropDone(which) => {
                let Some(which) = pick(0..self.waiting.len(), which) else { return Ok(()) };
                let Waiting { done, wakes, told, .. } = self.waiting.remove(which);
                drop(done);
                self.retire(wakes, told);
            }
            Op::Look(at) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                return self.look(at, &ctx);
            }
            Op::Tree(at) => {
                let Some((at, ctx)) = self.a_context(at) else { return Ok(()) };
                return self.tree(at, &ctx);
            }
        }
        Ok(())
    }

    fn span(&self, span: Span) -> (Duration, Option<i64>) {
        match span {
            Span::Millis(after) => {
                let when = self.model.now + i64::from(after);
                (Duration::from_millis(after.into()), Some(when))
            }
            Span::Max => (Duration::MAX, None),
        }
    }

    fn model_drops_canceller(&mut self, at: usize) {
        let line = self.model.nodes[at].made_in;
        let text = "context canceled: the last Canceller of the context made at ".to_string();
        self.cancel(at, Why { text, line });
    }

    /// In the model: `at` is cancelled, and then what the functions cancel that run.
    fn cancel(&mut self, at: usize, why: Why) {
        self.model.cancel(at, ContextError::Cancelled, why);
        self.run_what_cancels();
    }

    /// They all say the same cause but for the line, which is the same, too; so it does not
    /// matter in which order they run.
    fn run_what_cancels(&mut self) {
        loop {
            let ended = |node: usize| self.model.nodes[node].end.is_some();
            let mut due = self.funcs.iter_mut().filter(|func| func.told == Told::No);
            let due = due.find_map(|func| match func.cancels {
                Some(cancels) if ended(func.node) => {
                    func.told = Told::Yes;
                    Some(cancels)
                }
                _ => None,
            });
            let Some((of, line)) = due else { break };
            if !self.model.is(Wrong::AFunctionCancelsNothing) {
                let why = Why { text: "context canceled".to_string(), line: Some(line) };
                self.model.cancel(of, ContextError::Cancelled, why);
            }
        }
    }

    /// Whether there is a canceller, here or in a function.
    fn has_canceller(&self, at: usize) -> bool {
        let mut pending = self.funcs.iter().filter(|func| func.told == Told::No);
        let held = pending.any(|func| func.cancels.is_some_and(|(of, _)| of == at));
        held || !self.real[at].cancellers.is_empty()
    }

    fn link(&mut self, at: u8, others: &[u8]) {
        let Some((at, ctx)) = self.a_context(at) else { return };
        let others = others.iter().filter_map(|&other| self.a_context(other));
        let (mut ends_with, others): (Vec<_>, Vec<_>) = others.unzip();
        ends_with.insert(0, at);
        // Which of two deadlines of one instant comes first is not promised.
        let bounds: Vec<_> = ends_with.iter().filter_map(|&up| self.model.bound(up)).collect();
        if bounds.iter().any(|one| bounds.iter().any(|two| one.0 == two.0 && one.1 != two.1)) {
            return;
        }
        let others: Vec<&Context> = others.iter().collect();
        let made = noted!(ctx.linked(&others));
        if self.model.is(Wrong::LinkedAsksTheOthersFirst) {
            ends_with.rotate_left(1);
        }
        if self.model.is(Wrong::LinkedForgetsTheOthers) {
            ends_with.truncate(1);
        }
        self.branch(ends_with, None, made);
        let last = self.model.nodes.len() - 1;
        self.model.nodes[last].parent = Some(at);
    }

    async fn advance(&mut self, by: u8) {
        self.model.meet_deadlines(self.model.now + i64::from(by));
        tokio::time::advance(Duration::from_millis(by.into())).await;
    }

    /// Gives the runtime its turn.
    async fn settle(&mut self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.settled = true;
        self.run_what_cancels();
    }

    fn poll(&mut self, which: usize, own: bool) -> Checked {
        let end = self.model.nodes[self.waiting[which].node].end.clone();
        let waiting = &mut self.waiting[which];
        let before = (Arc::clone(&waiting.wakes), waiting.told);
        if own {
            waiting.wakes = Counter::new();
        }
        let waker = Waker::from(Arc::clone(&waiting.wakes));
        let answer = Pin::new(&mut waiting.done).poll(&mut std::task::Context::from_waker(&waker));
        match (answer, end) {
            (Poll::Ready(error), Some(end)) => {
                agree!(error, end.error, "what done answers");
                waiting.told = Told::Never;
                waiting.wakes = Counter::new();
                self.retire(before.0, before.1);
            }
            (Poll::Pending, None) => {
                waiting.told = Told::No;
                if own {
                    self.retire(before.0, before.1);
                }
            }
            (answer, end) => agree!(format!("{answer:?}"), format!("{end:?}"), "done"),
        }
        Ok(())
    }

    /// From now on this waker must not be woken any more.
    fn retire(&mut self, wakes: Arc<Counter>, told: Told) {
        let woken = match told {
            Told::No | Told::Never => usize::from(self.model.is(Wrong::AReplacedWakerIsWoken)),
            Told::Yes => 1,
            Told::Due => wakes.get().min(1),
        };
        self.retired.push((wakes, woken));
    }

    /// Checks that all that should have been told has been, once, and nothing else.
    fn told(&mut self) -> Checked {
        // A token does not keep its context alive, and is never cancelled once that is gone.
        #[cfg(feature = "tokio-util")]
        {
            let alive = self.alive(false);
            self.given_out.retain(|&(node, ..)| alive[node]);
        }
        let (settled, nodes) = (self.settled, &self.model.nodes);
        let now = |node: usize, told: Told| match (&nodes[node].end, told) {
            (Some(end), Told::No | Told::Due) => {
                let by_clock = end.error == ContextError::DeadlineExceeded;
                if by_clock && !settled { Told::Due } else { Told::Yes }
            }
            _ => told,
        };
        for func in &mut self.funcs {
            func.told = now(func.node, func.told);
            match func.told {
                Told::No | Told::Never => agree!(func.runs.get(), 0, "a function's runs"),
                Told::Yes => agree!(func.runs.get(), 1, "a function's runs"),
                Told::Due => agree!(func.runs.get().max(1), 1, "a function's runs"),
            }
        }
        for waiting in &mut self.waiting {
            waiting.told = now(waiting.node, waiting.told);
            match waiting.told {
                Told::No | Told::Never => agree!(waiting.wakes.get(), 0, "wakes"),
                Told::Yes => agree!(waiting.wakes.get(), 1, "wakes"),
                Told::Due => agree!(waiting.wakes.get().max(1), 1, "wakes"),
            }
        }
        #[cfg(feature = "tokio-util")]
        for (node, token, told) in &mut self.given_out {
            *told = now(*node, *told);
            match told {
                Told::Yes => agree!(token.is_cancelled(), true, "a token of a context"),
                Told::Due => {}
                _ => agree!(token.is_cancelled(), false, "a token of a context"),
            }
        }
        for (wakes, woken) in &self.retired {
            agree!(wakes.get(), *woken, "wakes of a waker that was taken back");
        }
        Ok(())
    }

    fn look(&self, at: usize, ctx: &Context) -> Checked {
        let node = &self.model.nodes[at];
        let end = node.end.as_ref();
        agree!(ctx.err(), end.map(|end| end.error), "err of {ctx}");
        agree!(ctx.is_done(), end.is_some(), "is_done of {ctx}");
        agree_on_cause(ctx.cause().as_ref(), end, ctx)?;
        let checked = ctx.check().err();
        agree!(checked.as_ref().map(|end| end.error()), end.map(|end| end.error), "check");
        agree_on_cause(checked.as_ref().map(|end| end.cause()), end, ctx)?;
        let bound = self.model.bound(at).map(|(when, _)| when);
        let deadline = ctx.deadline().map(Instant::from_std);
        agree!(deadline, bound.map(|when| self.instant(when)), "deadline of {ctx}");
        let left = bound.map(|when| Duration::from_millis((when - self.model.now).max(0) as u64));
        agree!(ctx.remaining(), left, "remaining of {ctx}");
        agree!(ctx.value::<u64>().copied(), self.model.value(at, Name::Number), "value of {ctx}");
        agree!(ctx.value::<u8>(), None, "a value that nobody gave {ctx}");
        for (key, name) in KEYS.iter().enumerate() {
            let value = self.model.value(at, Name::Static(key));
            agree!(ctx.entry(name).copied(), value, "entry {key} of {ctx}");
        }
        agree!(ctx.wait_timeout(Duration::ZERO), end.map(|end| end.error), "wait of {ctx}");
        let polled = Counter::new();
        let count = Arc::clone(&polled);
        let mut run = Box::pin(ctx.run(async move { count.count() }));
        let ran = run.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop()));
        let Poll::Ready(ran) = ran else { return Err("run does not answer".into()) };
        agree!(ran.err().map(|end| end.error()), end.map(|end| end.error), "run of {ctx}");
        agree!(polled.get(), usize::from(end.is_none()), "polls of a future in {ctx}");
        Ok(())
    }

    /// Whether each node is alive: held itself, or by something below it. How long a
    /// linked context that has ended holds the others is left open.
    fn alive(&self, ended_hold_others: bool) -> Vec<bool> {
        let mut alive: Vec<bool> = self
            .real
            .iter()
            .enumerate()
            .map(|(at, real)| !real.handles.is_empty() || self.has_canceller(at))
            .collect();
        for waiting in &self.waiting {
            alive[waiting.node] = true;
        }
        if !self.model.is(Wrong::AFunctionKeepsNothingAlive) {
            for func in self.funcs.iter().filter(|func| func.told == Told::No) {
                alive[func.node] |= self.model.can_end(func.node);
            }
        }
        for at in (0..alive.len()).rev() {
            if alive[at] {
                let node = &self.model.nodes[at];
                node.parent.iter().for_each(|&up| alive[up] = true);
                if node.end.is_none() || ended_hold_others {
                    node.ends_with.iter().for_each(|&up| alive[up] = true);
                }
            }
        }
        alive
    }

    /// The tree shows what is alive, can end by itself, and has not ended.
    fn tree(&self, at: usize, ctx: &Context) -> Checked {
        if !self.settled {
            return Ok(());
        }
        let live = |node: &Node| node.made_in.is_some() && node.end.is_none();
        // A linked context may be shown below each of those it ends with, or below the
        // one it was derived from; but it is one context.
        let [least, most] = [false, true].map(|more| {
            let (alive, below) = (self.alive(more), self.model.derived_from(at, more));
            let nodes = self.model.nodes.iter().enumerate();
            nodes.filter(|&(at, node)| alive[at] && below[at] && live(node)).count()
        });
        let tree = ctx.tree();
        let shown = tree.len().clamp(least, most);
        agree!(tree.len(), shown, "the tree of {ctx}:\n{tree}\n");
        agree!(tree.is_empty(), shown == 0, "whether the tree is empty");
        Ok(())
    }

    fn look_at_everything(&self) -> Checked {
        for (at, real) in self.real.iter().enumerate() {
            if let Some(ctx) = real.handles.last() {
                self.look(at, ctx)?;
            }
        }
        self.tree(0, &self.real[0].handles[0])
    }

    /// Once everything is let go, nothing is left: in the tree, or on the runtime.
    async fn end(mut self) -> Checked {
        self.settle().await;
        self.told()?;
        self.look_at_everything()?;
        for (at, real) in self.real.iter().enumerate() {
            if let Some(ctx) = real.handles.last() {
                self.tree(at, ctx)?;
            }
        }
        drop(self);
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        agree!(Context::background().tree().len(), 0, "contexts left over");
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        agree!(tasks, 0, "tasks left over");
        Ok(())
    }
}

/// A detached context with a pending function keeps itself alive, as it should: one
/// left over by a failure would be in the way of the next case.
impl Drop for World {
    fn drop(&mut self) {
        for func in &self.funcs {
            func.handle.stop();
        }
    }
}

fn agree_on_cause(cause: Option<&Cause>, end: Option<&End>, ctx: &Context) -> Checked {
    agree!(cause.is_some(), end.is_some(), "whether there is a cause of {ctx}");
    let (Some(cause), Some(end)) = (cause, end) else { return Ok(()) };
    let text = cause.to_string();
    if !(end.why.text.ends_with(" at ") && text.starts_with(&end.why.text)) {
        agree!(text, end.why.text.clone(), "the cause of {ctx}");
    }
    let origin = cause.origin().map(|origin| (origin.file(), origin.line()));
    let line = end.why.line.map(|line| (file!(), line));
    agree!(origin, line, "the origin of the cause of {ctx}");
    Ok(())
}

// --------------------------------------------------------------------- tests

/// The tree of the background belongs to the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn replay(looking: bool, ops: &[Op], wrong: Option<Wrong>) -> Checked {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(wrong);
        for op in ops {
            world.step(op).await?;
            let now = world.instant(world.model.now);
            agree!(Instant::now(), now, "the time, which only moves when told");
            world.told()?;
            if looking {
                world.look_at_everything()?;
                world.told()?;
            }
        }
        world.end().await
    })
}

fn refutation(runner: &mut TestRunner, wrong: Option<Wrong>) -> Option<String> {
    let result = runner.run(&history(), |(looking, ops)| {
        replay(looking, &ops, wrong).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, (looking, ops))) => {
            let steps: Vec<_> = ops.iter().map(|op| format!("  {op:?}")).collect();
            Some(format!("{why}\nlooking after every step: {looking}\n{}", steps.join("\n")))
        }
        Err(aborted) => Some(aborted.to_string()),
    }
}

#[test]
fn contexts_do_whatever_the_model_does() {
    let cases = if cfg!(debug_assertions) { 3_000 } else { 20_000 };
    // `PROPTEST_CASES=1000000` asks for a longer run.
    let cases = Config::default().cases.max(cases);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    if let Some(story) = refutation(&mut TestRunner::new(config), None) {
        panic!("{story}");
    }
}

#[test]
fn a_model_with_any_one_rule_broken_is_refuted() {
    for &wrong in EVERY_WRONG {
        let config = Config {
            cases: 20_000,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::default()
        };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let story = refutation(&mut TestRunner::new_with_rng(config, rng), Some(wrong));
        assert!(story.is_some(), "{wrong:?} went unnoticed");
    }
}
