// What the target `cancel_orderings` does with its bytes; a test does the same with the corpus.
//
// Three bytes are a step: what, to which context, and with which other. There is no clock here,
// so every end is the end of a cancel. `tests/model.rs` has the clocks, and tokens.

use quell::{AfterFunc, Canceller, Context, ContextError, Done};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};

/// A plain model of a context: what ends it, and whether and why it ended.
#[derive(Default)]
struct Plain {
    ends_with: Vec<usize>,
    /// Nothing waits for the end of what cannot end.
    can_end: bool,
    /// How many cancellers there are, here or in functions; dropping the last does nothing if it
    /// is detached.
    cancellers: usize,
    detached: bool,
    ended: Option<String>,
}

struct Pair {
    ctx: Context,
    cancellers: Vec<Canceller>,
    plain: usize,
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl Counter {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A waker that cancels a context.
struct Ends {
    wakes: Arc<Counter>,
    canceller: Canceller,
}

impl Wake for Ends {
    fn wake(self: Arc<Self>) {
        Arc::clone(&self.wakes).wake();
        self.canceller.cancel_with("a function");
    }
}

struct Func {
    handle: AfterFunc,
    of: usize,
    cancels: usize,
    runs: Arc<Counter>,
    /// Whether it may still run.
    waits: bool,
    ran: bool,
}

struct Waiting {
    done: Option<Done>,
    of: usize,
    wakes: Arc<Counter>,
    /// Which context the waker cancels, while there is that waker.
    cancels: Option<usize>,
    /// How often it had been woken when it answered.
    woken: usize,
}

#[derive(Default)]
struct World {
    plain: Vec<Plain>,
    pairs: Vec<Pair>,
    funcs: Vec<Func>,
    waiting: Vec<Waiting>,
}

pub fn run(bytes: &[u8]) {
    let mut world = World::default();
    for (step, chunk) in bytes.chunks(3).take(256).enumerate() {
        let byte = |at: usize| usize::from(chunk.get(at).copied().unwrap_or_default());
        let what = if world.pairs.is_empty() { 0 } else { byte(0) & 31 };
        let some = world.pairs.len().max(1);
        world.step(step, what, byte(1) % some, byte(2) % some);
        world.told();
        // A look writes down an end that a later cancel must find without it, too.
        if byte(0) < 128 {
            world.look();
        }
    }
    world.look();
    // A function that will never run may be all that keeps its own context alive.
    for func in &world.funcs {
        func.handle.stop();
    }
}

impl World {
    fn step(&mut self, step: usize, what: usize, at: usize, other: usize) {
        match what & 15 {
            0 => self.add(vec![], Context::background().with_cancel()),
            1 | 2 => {
                let made = self.pairs[at].ctx.with_cancel();
                self.add(vec![self.pairs[at].plain], made);
            }
            3 => {
                let ctx = self.pairs[at].ctx.without_cancel();
                self.add_without_canceller(vec![], ctx);
            }
            4 => {
                let ctx = self.pairs[at].ctx.with_value(step);
                assert_eq!(ctx.value::<usize>(), Some(&step));
                self.add_without_canceller(vec![self.pairs[at].plain], ctx);
            }
            5 => {
                if let Some(canceller) = self.pairs[at].cancellers.first() {
                    let cause = format!("step {step}");
                    canceller.cancel_with(cause.clone());
                    self.end(self.pairs[at].plain, &cause);
                }
            }
            6 => {
                let canceller = self.pairs[at].cancellers.pop();
                if canceller.is_some() {
                    drop(canceller);
                    self.lose_a_canceller(self.pairs[at].plain);
                }
            }
            7 => {
                // A handle is dropped; its context lives on in those derived from it.
                let Pair { ctx, cancellers, plain } = self.pairs.swap_remove(at);
                drop(ctx);
                for canceller in cancellers {
                    drop(canceller);
                    self.lose_a_canceller(plain);
                }
            }
            8 => {
                let (one, two) = (&self.pairs[at], &self.pairs[other]);
                let made = one.ctx.linked(&[&two.ctx]);
                self.add(vec![one.plain, two.plain], made);
            }
            9 => {
                let Pair { cancellers, plain, .. } = &mut self.pairs[at];
                if let Some(canceller) = cancellers.first().cloned() {
                    cancellers.push(canceller);
                    self.plain[*plain].cancellers += 1;
                }
            }
            10 => {
                if let Some(canceller) = self.pairs[at].cancellers.pop() {
                    canceller.detach();
                    let plain = &mut self.plain[self.pairs[at].plain];
                    plain.cancellers -= 1;
                    plain.detached = true;
                }
            }
            11 | 12 => self.register(at, other, what == 12),
            13 => {
                if !self.funcs.is_empty() {
                    let func = other % self.funcs.len();
                    let Func { handle, waits, cancels, .. } = &mut self.funcs[func];
                    assert_eq!(handle.stop_and_wait(), *waits, "stop says whether it was in time");
                    if std::mem::take(waits) {
                        let cancels = *cancels;
                        self.lose_a_canceller(cancels);
                    }
                }
            }
            14 => {
                let (done, of) = (Some(self.pairs[at].ctx.done()), self.pairs[at].plain);
                let wakes: Arc<Counter> = Arc::default();
                let waker = Waker::from(Arc::clone(&wakes));
                self.waiting.push(Waiting { done, of, wakes, cancels: None, woken: 0 });
                let canceller = self.pairs[other].cancellers.first().cloned();
                match canceller.filter(|_| what & 16 != 0 && self.plain[of].can_end) {
                    None => self.poll(self.waiting.len() - 1, &waker),
                    Some(canceller) => self.wait_to_cancel(self.pairs[other].plain, canceller),
                }
            }
            _ => {
                if !self.waiting.is_empty() {
                    let which = other % self.waiting.len();
                    if at % 2 == 0 {
                        let waker = Waker::from(Arc::clone(&self.waiting[which].wakes));
                        self.poll(which, &waker);
                    } else {
                        let Waiting { done, cancels, .. } = self.waiting.remove(which);
                        drop(done);
                        cancels.into_iter().for_each(|cancels| self.lose_a_canceller(cancels));
                    }
                }
            }
        }
    }

    fn add(&mut self, ends_with: Vec<usize>, (ctx, canceller): (Context, Canceller)) {
        self.add_without_canceller(ends_with, ctx);
        self.pairs.last_mut().expect("just added").cancellers.push(canceller);
        let plain = self.plain.last_mut().expect("just added");
        (plain.cancellers, plain.can_end) = (1, true);
    }

    fn add_without_canceller(&mut self, ends_with: Vec<usize>, ctx: Context) {
        let ended = ends_with.iter().find_map(|&up| self.plain[up].ended.clone());
        let can_end = ends_with.iter().any(|&up| self.plain[up].can_end);
        self.plain.push(Plain { ends_with, can_end, ended, ..Plain::default() });
        self.pairs.push(Pair { ctx, cancellers: vec![], plain: self.plain.len() - 1 });
    }

    /// A function that cancels another context; with `nested`, from a function that it registers
    /// itself. All of them say the same cause, so their order does not matter.
    fn register(&mut self, at: usize, other: usize, nested: bool) {
        let Some(canceller) = self.pairs[other].cancellers.first().cloned() else { return };
        let (of, cancels) = (self.pairs[at].plain, self.pairs[other].plain);
        self.plain[cancels].cancellers += 1;
        let (own, runs) = (self.pairs[at].ctx.clone(), Arc::new(Counter::default()));
        let count = Arc::clone(&runs);
        let f = move || {
            Arc::clone(&count).wake();
            canceller.cancel_with("a function");
        };
        let handle = self.pairs[at].ctx.after_func(move || {
            assert!(own.is_done());
            if !nested {
                return f();
            }
            let (child, _canceller) = own.with_cancel();
            assert!(!child.after_func(f).stop(), "it has run at once");
        });
        self.funcs.push(Func { handle, of, cancels, runs, waits: true, ran: false });
        self.run_what_is_due();
    }

    /// Polls the last future with a waker that cancels a context.
    fn wait_to_cancel(&mut self, cancels: usize, canceller: Canceller) {
        self.plain[cancels].cancellers += 1;
        let last = self.waiting.len() - 1;
        let wakes = Arc::clone(&self.waiting[last].wakes);
        let waker = Waker::from(Arc::new(Ends { wakes, canceller }));
        self.poll(last, &waker);
        self.waiting[last].cancels = Some(cancels);
        drop(waker);
        // An end that has been there before needs no waker.
        if self.waiting[last].done.is_none() {
            self.waiting[last].cancels = None;
            self.lose_a_canceller(cancels);
        }
    }

    fn poll(&mut self, which: usize, waker: &Waker) {
        let Waiting { done, of, wakes, cancels, woken } = &mut self.waiting[which];
        let Some(future) = done else { return };
        match Pin::new(future).poll(&mut std::task::Context::from_waker(waker)) {
            Poll::Pending => {
                assert!(self.plain[*of].ended.is_none());
                // The one before it is gone.
                if let Some(cancels) = cancels.take() {
                    self.lose_a_canceller(cancels);
                }
            }
            Poll::Ready(error) => {
                assert_eq!(error, ContextError::Cancelled);
                assert!(self.plain[*of].ended.is_some());
                *woken = wakes.get();
                *done = None;
            }
        }
    }

    fn lose_a_canceller(&mut self, which: usize) {
        let plain = &mut self.plain[which];
        plain.cancellers -= 1;
        if plain.cancellers == 0 && !plain.detached {
            self.end(which, "dropped");
        }
    }

    /// Ends a context, and all below it that have not ended; then runs their functions.
    fn end(&mut self, which: usize, why: &str) {
        self.plain[which].ended.get_or_insert_with(|| why.to_string());
        // Children come after their parents.
        for at in which + 1..self.plain.len() {
            let above = self.plain[at].ends_with.iter();
            let above = above.filter_map(|&up| self.plain[up].ended.clone()).next();
            let ended = self.plain[at].ended.take();
            self.plain[at].ended = ended.or(above);
        }
        self.run_what_is_due();
    }

    fn run_what_is_due(&mut self) {
        let ended = |of: usize| self.plain[of].ended.is_some();
        let waker =
            self.waiting.iter_mut().find(|waiting| waiting.cancels.is_some() && ended(waiting.of));
        let waker = waker.and_then(|waiting| waiting.cancels.take());
        let func = self.funcs.iter_mut().find(|func| func.waits && ended(func.of));
        let func = func.filter(|_| waker.is_none()).map(|func| {
            (func.waits, func.ran) = (false, true);
            func.cancels
        });
        if let Some(cancels) = waker.or(func) {
            self.end(cancels, "a function");
            self.lose_a_canceller(cancels);
        }
    }

    /// Every function and waker has been told, once, or not.
    fn told(&self) {
        for func in &self.funcs {
            assert_eq!(func.runs.get(), usize::from(func.ran), "a function's runs");
        }
        for Waiting { done, of, wakes, woken, .. } in &self.waiting {
            let waited = done.is_some() && self.plain[*of].ended.is_some();
            assert_eq!(wakes.get(), if waited { 1 } else { *woken }, "a waker's wakes");
        }
    }

    fn look(&self) {
        for pair in &self.pairs {
            let expected = &self.plain[pair.plain].ended;
            assert_eq!(pair.ctx.is_done(), expected.is_some());
            assert_eq!(pair.ctx.err(), expected.as_ref().map(|_| ContextError::Cancelled));
            match (pair.ctx.cause(), expected) {
                (None, None) => {}
                (Some(cause), Some(why)) if why == "dropped" => {
                    assert!(cause.to_string().contains("was dropped"), "{cause}");
                }
                (Some(cause), Some(why)) => assert_eq!(cause.to_string(), *why),
                (cause, expected) => panic!("{cause:?}, and it should be {expected:?}"),
            }
        }
    }
}
