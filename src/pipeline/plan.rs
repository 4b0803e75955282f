//! What users describe.

use super::end::End;
use super::engine::{BUFFER, Engine, Stage, StageResult};
use super::results::Results;
use super::tally::Tally;
use super::throttle::Rate;
use super::{dispatch, source, stages};
use crate::channel::{Bulk, Receiver, Sender};
use crate::context::{BoxError, Context};
use crate::sync::Arc;
use futures_core::Stream;
use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::time::Duration;

/// What happens to work in flight when the context ends.
#[doc(alias = "graceful shutdown")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCancel {
    /// The work is dropped at its next await, and what it had half done stays so.
    #[default]
    Abort,
    /// The source is stopped. What it has made still goes through all stages and is delivered, for
    /// as long as the reader reads. What is not finished after the grace is aborted.
    ///
    /// Closures get a context that ends with the grace, not with the pipeline's context, and has
    /// no deadline. An error or a panic ends the drain at once.
    Drain {
        /// How long the drain may take.
        grace: Duration,
    },
}

/// A source and the stages behind it, not yet running.
///
/// It is described from the source on; [`run`](Pipeline::run) returns the results. Each stage is a
/// task of its own (a `dispatch` as many as it needs), and they run in parallel where the runtime
/// does.
///
/// ```
/// use quell::{Context, Pipeline, Rate};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut pages = Pipeline::from_iter(&Context::background(), 1..)
///     .throttle(Rate::per_second(1000).burst(10))
///     .dispatch(8, |_ctx, n: u32| async move { format!("page {n}") })
///     .run();
/// assert!(pages.next().await.unwrap().starts_with("page "));
/// # }
/// ```
#[must_use = "a pipeline does nothing until its results are polled: `run()`"]
pub struct Pipeline<T> {
    ctx: Context,
    on_cancel: OnCancel,
    stages: Vec<Stage>,
    /// One for each stage. Not nested in one another: thousands of pipelines may be merged, which
    /// no stack could hold.
    steps: Vec<Step>,
    items: PhantomData<fn() -> T>,
}

/// Starts the stage of this number: takes its inputs off the pile, and puts its output on it.
type Step = Box<dyn FnOnce(&Arc<Engine>, usize, &mut Unclaimed) + Send>;

/// Receivers of started stages that no other stage has taken for its input yet.
#[derive(Default)]
struct Unclaimed(Vec<Box<dyn Any>>);

/// Sources.
impl<T: Send + 'static> Pipeline<T> {
    /// Creates a pipeline of the items of an iterator, finite or endless.
    ///
    /// The iterator runs in a task: one that blocks, or computes for long, belongs in
    /// [`from_blocking_iter`](Pipeline::from_blocking_iter).
    #[track_caller]
    pub fn from_iter<I>(ctx: &Context, items: I) -> Pipeline<T>
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        let items = items.into_iter();
        Pipeline::source(ctx, "from_iter", |tally, sender| source::iterate(tally, items, sender))
    }

    /// Creates a pipeline of the items of a stream, finite or endless.
    #[track_caller]
    pub fn from_stream<S>(ctx: &Context, items: S) -> Pipeline<T>
    where
        S: Stream<Item = T> + Send + 'static,
    {
        Pipeline::source(ctx, "from_stream", |tally, sender| source::stream(tally, items, sender))
    }

    /// Creates a pipeline of the items of an iterator that may block, run on a thread of its own.
    ///
    /// When the pipeline ends, the thread ends after the item it is at. What it had made when a
    /// drain begins is delivered; an item that it makes after that is dropped.
    #[track_caller]
    pub fn from_blocking_iter<I>(ctx: &Context, items: I) -> Pipeline<T>
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        let items = items.into_iter();
        Pipeline::source(ctx, "from_blocking_iter", |tally, sender| {
            source::from_thread(tally, items, sender)
        })
    }

    #[track_caller]
    fn source<F>(
        ctx: &Context,
        name: &'static str,
        task: impl FnOnce(Tally, Sender<T>) -> F + Send + 'static,
    ) -> Pipeline<T>
    where
        F: Future<Output = StageResult> + Send + 'static,
    {
        let first = Stage::new(name.into(), Vec::new());
        let step: Step = Box::new(move |engine, index, pile| {
            let (sender, receiver) = engine.link(index, None);
            let tally = Tally::new(Arc::clone(engine), index);
            Engine::spawn(engine, index, Box::pin(task(tally, sender)));
            pile.put(receiver);
        });
        Pipeline {
            ctx: ctx.clone(),
            on_cancel: OnCancel::default(),
            stages: vec![first],
            steps: vec![step],
            items: PhantomData,
        }
    }
}

/// Stages.
impl<T: Send + 'static> Pipeline<T> {
    /// Lets items through at this rate and no faster: item `k` of a continuous run goes at `k`
    /// periods after the first. After a pause of the source or of the reader at most a
    /// [`burst`](Rate::burst) goes at once. (A wait shorter than a timer's millisecond is no pause,
    /// and is made up for.)
    ///
    /// The buffer behind it holds what goes through in a millisecond, at least one item and at most
    /// 64. So the next stage keeps to the rate as well, except for items that went through before a
    /// pause. With a larger [`buffer`](Pipeline::buffer) it may find that many waiting.
    #[doc(alias = "rate limit")]
    #[track_caller]
    pub fn throttle(self, rate: Rate) -> Pipeline<T> {
        let throttled = self.then("throttle", None, move |tally, input, sender| {
            rate.throttle(tally, input, sender)
        });
        throttled.buffer(rate.per_millisecond().clamp(1, BUFFER))
    }

    /// Runs a closure on each item, in a task of its own, in order.
    ///
    /// For work that awaits, or is worth more than one thread, use
    /// [`dispatch`](Pipeline::dispatch).
    #[track_caller]
    pub fn map<U: Send + 'static>(self, mut f: impl FnMut(T) -> U + Send + 'static) -> Pipeline<U> {
        self.then("map", None, move |tally, input, sender| {
            stages::filter_map(tally, input, sender, move |item| Some(f(item)))
        })
    }

    /// [`map`](Pipeline::map) that leaves out items for which the closure returns `None`.
    #[track_caller]
    pub fn filter_map<U: Send + 'static>(
        self,
        f: impl FnMut(T) -> Option<U> + Send + 'static,
    ) -> Pipeline<U> {
        self.then("filter_map", None, move |tally, input, sender| {
            stages::filter_map(tally, input, sender, f)
        })
    }

    /// Puts items together in chunks of `max`. A smaller chunk is passed on when its first item has
    /// waited for `within`, and at the end.
    ///
    /// Where items come without a pause, the time is looked at after every 64 of them at the
    /// latest. A `buffer` behind it counts chunks.
    ///
    /// # Panics
    ///
    /// When `max` is zero.
    #[doc(alias = "batch")]
    #[track_caller]
    pub fn chunks(self, max: usize, within: Duration) -> Pipeline<Vec<T>> {
        assert!(max > 0, "quell: a chunk of zero items is never full; pass 1 or more");
        let bulk = Bulk { weigh: Vec::len, discard: crate::channel::discard };
        self.then("chunks", Some(bulk), move |tally, input, sender| {
            stages::chunks(tally, input, sender, max, within)
        })
    }

    /// Runs an async closure on each item, `workers` at once, and passes results on as they come.
    /// The closure's context ends with the pipeline.
    ///
    /// Workers are tasks; one is started when all others are busy. Where items take next to no
    /// time, and wait for nothing, one worker takes them all. If such an item suddenly keeps its
    /// thread, the items behind it wait for 20 ms at most, and so do the readers of those before
    /// it.
    ///
    /// # Panics
    ///
    /// When `workers` is zero.
    #[doc(alias("buffer_unordered", "concurrency", "parallel", "workers"))]
    #[track_caller]
    pub fn dispatch<U, F, Fut>(self, workers: usize, f: F) -> Pipeline<U>
    where
        U: Send + 'static,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = U> + Send + 'static,
    {
        self.workers("dispatch", workers, false, f, Ok)
    }

    /// [`dispatch`](Pipeline::dispatch) with results in the order of their items. A worker holds a
    /// result that is ready before its turn.
    ///
    /// # Panics
    ///
    /// When `workers` is zero.
    #[doc(alias("buffered", "try_buffered"))]
    #[track_caller]
    pub fn dispatch_ordered<U, F, Fut>(self, workers: usize, f: F) -> Pipeline<U>
    where
        U: Send + 'static,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = U> + Send + 'static,
    {
        self.workers("dispatch_ordered", workers, true, f, Ok)
    }

    /// [`dispatch`](Pipeline::dispatch) of a closure that may fail: the first error ends the
    /// pipeline, and is its cause. Results that have not been read are discarded.
    ///
    /// If the results before the error are wanted, in order, let
    /// [`dispatch_ordered`](Pipeline::dispatch_ordered) pass on the `Result`, and the reader stop
    /// at the first that is an error.
    ///
    /// # Panics
    ///
    /// When `workers` is zero.
    #[doc(alias = "try_buffer_unordered")]
    #[track_caller]
    pub fn try_dispatch<U, E, F, Fut>(self, workers: usize, f: F) -> Pipeline<U>
    where
        U: Send + 'static,
        E: Into<BoxError> + 'static,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<U, E>> + Send + 'static,
    {
        self.workers("try_dispatch", workers, false, f, |result| result.map_err(Into::into))
    }

    #[track_caller]
    fn workers<U, F, Fut, R>(
        self,
        name: &'static str,
        workers: usize,
        ordered: bool,
        f: F,
        result: R,
    ) -> Pipeline<U>
    where
        U: Send + 'static,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        R: Fn(Fut::Output) -> Result<U, BoxError> + Send + Sync + 'static,
    {
        assert!(workers > 0, "quell: a stage of zero workers never works; pass 1 or more");
        self.add(name.into(), None, move |engine, index, input, sender| {
            dispatch::start(engine, index, input, sender, (workers, ordered), f, result);
        })
    }

    /// Passes on the items of this pipeline and of another, as they come. The merged pipeline ends
    /// when the context of either does; values and `on_cancel` are those of this one.
    #[track_caller]
    pub fn merge(mut self, other: Pipeline<T>) -> Pipeline<T> {
        if !self.ctx.ends_with(&other.ctx) {
            let (both, canceller) = self.ctx.linked(&[&other.ctx]);
            canceller.detach();
            self.ctx = both;
        }
        let base = self.stages.len();
        self.stages.extend(other.stages.into_iter().map(|mut stage| {
            stage.inputs.iter_mut().for_each(|index| *index += base);
            stage
        }));
        let index = self.stages.len();
        self.stages.push(Stage::new("merge".into(), vec![base - 1, index - 1]));
        self.steps.extend(other.steps);
        self.steps.push(Box::new(|engine, index, pile| {
            let two = pile.take::<T>();
            let inputs = [pile.take(), two];
            let (sender, receiver) = engine.link(index, None);
            let tally = Tally::new(Arc::clone(engine), index);
            Engine::spawn(engine, index, Box::pin(stages::merge(tally, inputs, sender)));
            pile.put(receiver);
        }));
        self
    }

    /// Adds a custom stage: an async closure that gets the stage's context, its input and its
    /// output, and returns `()` or `Result<(), E>`. Input and output both say so when the pipeline
    /// has ended, and the closure's future is dropped at its next await.
    ///
    /// The next stage sees the end when the closure has returned and every clone of its `Sender` is
    /// gone.
    #[track_caller]
    pub fn stage<U, F, Fut>(self, name: impl Into<Cow<'static, str>>, f: F) -> Pipeline<U>
    where
        U: Send + 'static,
        F: FnOnce(Context, Receiver<T>, Sender<U>) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: stages::StageOutput,
    {
        let place = Location::caller();
        let mut pipeline = self.add(name.into(), None, move |engine, index, input, sender| {
            let input = input.roaming(place);
            let task = stages::custom(engine.ctx.clone(), input, sender, f);
            Engine::spawn(engine, index, Box::pin(task));
        });
        pipeline.last().custom = true;
        pipeline
    }

    /// Names the last stage, in reports and errors.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Pipeline<T> {
        self.last().name = name.into();
        self
    }

    /// Sets how many items fit behind the last stage: those that the next one, or the reader, has
    /// not taken yet. The default is 64, or, behind a [`throttle`](Pipeline::throttle), what goes
    /// through in a millisecond.
    ///
    /// # Panics
    ///
    /// When `n` is zero.
    #[track_caller]
    pub fn buffer(mut self, n: usize) -> Pipeline<T> {
        assert!(n > 0, "quell: a buffer of zero lets nothing through; pass 1 or more");
        self.last().capacity = n;
        self
    }

    /// Sets what happens to work in flight when the context ends.
    pub fn on_cancel(mut self, on_cancel: OnCancel) -> Pipeline<T> {
        self.on_cancel = on_cancel;
        self
    }

    /// Returns the results, to be read once. Nothing runs before they are polled.
    #[track_caller]
    pub fn run(self) -> Results<T> {
        Results::new(self, Location::caller())
    }

    fn last(&mut self) -> &mut Stage {
        self.stages.last_mut().expect("there is a source")
    }

    /// Adds a stage of one task behind the last one.
    #[track_caller]
    fn then<U, F>(
        self,
        name: &'static str,
        bulk: Option<Bulk<U>>,
        task: impl FnOnce(Tally, Receiver<T>, Sender<U>) -> F + Send + 'static,
    ) -> Pipeline<U>
    where
        U: Send + 'static,
        F: Future<Output = StageResult> + Send + 'static,
    {
        self.add(name.into(), bulk, move |engine, index, input, sender| {
            let tally = Tally::new(Arc::clone(engine), index);
            Engine::spawn(engine, index, Box::pin(task(tally, input, sender)));
        })
    }

    /// Adds a stage behind the last one.
    #[track_caller]
    fn add<U: Send + 'static>(
        mut self,
        name: Cow<'static, str>,
        bulk: Option<Bulk<U>>,
        start: impl FnOnce(&Arc<Engine>, usize, Receiver<T>, Sender<U>) + Send + 'static,
    ) -> Pipeline<U> {
        let index = self.stages.len();
        self.stages.push(Stage::new(name, vec![index - 1]));
        self.steps.push(Box::new(move |engine, index, pile| {
            let input = pile.take();
            let (sender, receiver) = engine.link(index, bulk);
            start(engine, index, input, sender);
            pile.put(receiver);
        }));
        let Pipeline { ctx, on_cancel, stages, steps, .. } = self;
        Pipeline { ctx, on_cancel, stages, steps, items: PhantomData }
    }
}

impl Unclaimed {
    fn put<T: Send + 'static>(&mut self, receiver: Receiver<T>) {
        self.0.push(Box::new(receiver));
    }

    /// The receiver that was put there last.
    fn take<T: Send + 'static>(&mut self) -> Receiver<T> {
        let last = self.0.pop().and_then(|last| last.downcast().ok());
        *last.expect("what the stage before put there")
    }
}

/// Starting.
impl<T> Pipeline<T> {
    /// The engine, in which nothing runs or watches yet.
    pub(super) fn engine(&mut self) -> Arc<Engine> {
        let grace = match self.on_cancel {
            OnCancel::Drain { grace } if !self.ctx.is_done() => Some(grace),
            OnCancel::Drain { .. } | OnCancel::Abort => None,
        };
        Engine::new(&self.ctx, grace, std::mem::take(&mut self.stages))
    }

    /// Starts everything in its engine, unless the context has already ended.
    pub(super) fn start(self, engine: &Arc<Engine>) -> Option<Receiver<T>>
    where
        T: Send + 'static,
    {
        Engine::watch(engine);
        if let Some(cause) = engine.ctx.cause() {
            engine.note(End::cancelled(cause));
            return None;
        }
        let mut pile = Unclaimed::default();
        for (index, step) in self.steps.into_iter().enumerate() {
            step(engine, index, &mut pile);
        }
        Some(pile.take())
    }
}

impl<T> fmt::Debug for Pipeline<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.stages.iter().map(|stage| &stage.name);
        f.debug_list().entries(names).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_is_made_when_all_has_been_stopped_lets_nothing_through() {
        let (ctx, canceller) = Context::background().with_cancel();
        let mut pipeline = Pipeline::from_iter(&ctx, 0..3);
        let engine = pipeline.engine();
        Engine::watch(&engine);
        canceller.cancel();
        let (sender, _receiver) = engine.link::<u8>(0, None);
        assert!(sender.is_closed());
        assert_eq!(sender.put(1), Err(1));
    }
}
