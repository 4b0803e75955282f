//! Replays what Go answered.
//!
//! `tests/data/go-context-traces.jsonl` holds sequences of operations that were
//! played against Go's own `context` package, with all its answers after every
//! step. Here each of them is played against [`quell::Context`] under a paused
//! clock, and after every step every context is asked everything: its deadline,
//! its value for every key, its error and its cause; and every after-function is
//! asked whether it has run.
//!
//! Time passes in three ways, since the answers must not depend on it: from timer
//! to timer, in one jump that makes several deadlines late at once, and in a jump
//! after which all contexts are asked, youngest first, before any timer of the
//! runtime has had its turn.
//!
//! The last test tests the test: a wrong answer planted anywhere in a sequence must
//! be noticed, at its step.
#![cfg(not(loom))]
#![cfg(feature = "tokio")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands outside: its clocks, locks and tasks are std's and tokio's own"
)]

use quell::{AfterFunc, Canceller, Context, ContextError, Key};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

static KEYS: [Key<u64>; 6] = [
    Key::new("zero"),
    Key::new("one"),
    Key::new("two"),
    Key::new("three"),
    Key::new("four"),
    Key::new("five"),
];

/// How virtual time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pace {
    /// A sleep: the clock stops at every timer on the way.
    TimerToTimer,
    /// The clock is moved at once; then the timers get their turn.
    OneJump,
    /// The same, but all contexts are asked before the timers get their turn.
    AskedBeforeTimers,
}

/// The error, and the text of the cause.
type Ended = (String, String);

/// One sequence being played.
struct Play {
    start: Instant,
    contexts: Vec<Context>,
    /// By context. Kept to the end, so that no drop cancels anything.
    cancellers: BTreeMap<usize, Canceller>,
    functions: Vec<AfterFunc>,
    fired: Arc<Mutex<BTreeSet<usize>>>,
    /// What every context has answered so far: the error and the cause, which may
    /// appear once, and the deadline and the values, which never change.
    ended: Vec<Option<Ended>>,
    fixed: Vec<(Option<i64>, BTreeMap<usize, u64>)>,
}

impl Play {
    fn new(start: Instant) -> Self {
        Play {
            start,
            contexts: vec![Context::background()],
            cancellers: BTreeMap::new(),
            functions: Vec::new(),
            fired: Arc::default(),
            ended: vec![None],
            fixed: vec![(None, BTreeMap::new())],
        }
    }

    fn at(&self, ms: i64) -> Instant {
        let distance = Duration::from_millis(ms.unsigned_abs());
        if ms < 0 { self.start - distance } else { self.start + distance }
    }

    fn since_start(&self, at: Instant) -> i64 {
        let span = if at < self.start { self.start - at } else { at - self.start };
        assert_eq!(span.subsec_nanos() % 1_000_000, 0, "a deadline of whole milliseconds");
        let ms = i64::try_from(span.as_millis()).unwrap();
        if at < self.start { -ms } else { ms }
    }

    /// Does what `step` says. Returns the answer, in the form Go's has.
    async fn step(&mut self, step: &Value, pace: Pace) -> Result<Value, String> {
        let int = |name: &str| {
            step[name].as_i64().ok_or_else(|| format!("the step has no number `{name}`: {step}"))
        };
        let index = |name: &str| int(name).map(|it| usize::try_from(it).unwrap());
        let text = |name: &str| {
            let text = step[name].as_str().map(str::to_string);
            text.ok_or_else(|| format!("the step has no text `{name}`: {step}"))
        };
        let mut answer = serde_json::Map::new();
        let fired_before = self.fired.lock().unwrap().clone();
        let op = text("op")?;
        match op.as_str() {
            "sleep" => self.sleep(Duration::from_millis(int("ms")? as u64), pace).await?,
            "cancel" => self.cancellers[&index("ctx")?].cancel(),
            "cancel_cause" => self.cancellers[&index("ctx")?].cancel_with(text("cause")?),
            "after_func" => {
                let number = self.functions.len();
                let fired = Arc::clone(&self.fired);
                let function = self.contexts[index("ctx")?].after_func(move || {
                    assert!(fired.lock().unwrap().insert(number), "it ran twice");
                });
                self.functions.push(function);
                answer.insert("new".into(), json!(number));
            }
            "stop" => {
                let stopped = self.functions[index("func")?].stop();
                answer.insert("stopped".into(), json!(stopped));
            }
            _ => {
                let parent = self.contexts[index("parent")?].clone();
                let number = self.contexts.len();
                let (context, canceller) = match op.as_str() {
                    "with_value" => {
                        let (key, value) = (&KEYS[index("key")?], int("val")? as u64);
                        (parent.with_entry(key, value), None)
                    }
                    "without_cancel" => (parent.without_cancel(), None),
                    _ => {
                        let (context, canceller) = match op.as_str() {
                            "with_cancel" | "with_cancel_cause" => parent.with_cancel(),
                            "with_deadline" => parent.with_deadline(self.at(int("ms")?)),
                            "with_deadline_cause" => {
                                parent.with_deadline_cause(self.at(int("ms")?), text("cause")?)
                            }
                            "with_timeout" | "with_timeout_cause" => {
                                self.with_timeout(&parent, int("ms")?, step["cause"].as_str())
                            }
                            other => return Err(format!("an operation of another kind: {other}")),
                        };
                        (context, Some(canceller))
                    }
                };
                self.contexts.push(context);
                self.ended.push(None);
                self.fixed.push(self.ask_fixed(number));
                self.cancellers.extend(canceller.map(|canceller| (number, canceller)));
                let (deadline, values) = self.fixed[number].clone();
                answer.insert("new".into(), json!(number));
                answer.extend(deadline.map(|ms| ("deadline".into(), json!(ms))));
                if !values.is_empty() {
                    let values = values.into_iter().map(|(key, val)| (key.to_string(), json!(val)));
                    answer.insert("values".into(), Value::Object(values.collect()));
                }
            }
        }
        let changed = self.ask_all()?;
        if !changed.is_empty() {
            let changed = changed
                .into_iter()
                .map(|(ctx, (err, cause))| json!({"ctx": ctx, "err": err, "cause": cause}));
            answer.insert("changed".into(), changed.collect());
        }
        let fired = self.fired.lock().unwrap();
        let fired: Vec<_> = fired.difference(&fired_before).collect();
        if !fired.is_empty() {
            answer.insert("fired".into(), json!(fired));
        }
        Ok(Value::Object(answer))
    }

    fn with_timeout(&self, parent: &Context, ms: i64, cause: Option<&str>) -> (Context, Canceller) {
        match (u64::try_from(ms).map(Duration::from_millis), cause) {
            (Ok(after), None) => parent.with_timeout(after),
            (Ok(after), Some(cause)) => parent.with_timeout_cause(after, cause),
            // No `Duration` is negative: a deadline in the past is meant.
            (Err(_), cause) => {
                let past = Instant::now() - Duration::from_millis(ms.unsigned_abs());
                match cause {
                    None => parent.with_deadline(past),
                    Some(cause) => parent.with_deadline_cause(past, cause),
                }
            }
        }
    }

    async fn sleep(&mut self, span: Duration, pace: Pace) -> Result<(), String> {
        match pace {
            Pace::TimerToTimer => tokio::time::sleep(span).await,
            Pace::OneJump => tokio::time::advance(span).await,
            Pace::AskedBeforeTimers => {
                // The first poll moves the clock, and returns before the runtime looks at its
                // timers.
                let mut jump = Box::pin(tokio::time::advance(span));
                let polled = futures::poll!(&mut jump);
                let before = self.ended.clone();
                for number in (0..self.contexts.len()).rev() {
                    if let (None, Some(now)) = (&before[number], self.ask_end(number)) {
                        if now.0 != "deadline" {
                            return Err(format!("context {number} ended in a sleep with {now:?}"));
                        }
                    }
                }
                if polled.is_pending() {
                    jump.await;
                }
            }
        }
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn ask_end(&self, number: usize) -> Option<Ended> {
        let context = &self.contexts[number];
        let err = context.err().map(|error| match error {
            ContextError::Cancelled => "canceled".to_string(),
            ContextError::DeadlineExceeded => "deadline".to_string(),
            other => other.to_string(),
        });
        let cause = context.cause().map(|cause| cause.to_string());
        assert_eq!(context.is_done(), err.is_some(), "context {number}: is_done and err agree");
        assert_eq!(context.check().is_err(), err.is_some(), "context {number}: check agrees");
        assert_eq!(cause.is_some(), err.is_some(), "context {number}: error and cause go together");
        err.zip(cause)
    }

    fn ask_fixed(&self, number: usize) -> (Option<i64>, BTreeMap<usize, u64>) {
        let context = &self.contexts[number];
        let deadline = context.deadline().map(|at| self.since_start(at.into()));
        let values = KEYS.iter().enumerate();
        let values = values.filter_map(|(at, key)| Some((at, *context.entry(key)?))).collect();
        (deadline, values)
    }

    /// Asks every context everything. Returns the ends that are new.
    fn ask_all(&mut self) -> Result<Vec<(usize, Ended)>, String> {
        let mut changed = Vec::new();
        for number in 0..self.contexts.len() {
            let fixed = self.ask_fixed(number);
            if fixed != self.fixed[number] {
                let before = &self.fixed[number];
                return Err(format!("context {number} answered {before:?}, and now {fixed:?}"));
            }
            let now = self.ask_end(number);
            match (&self.ended[number], now) {
                (None, None) => {}
                (None, Some(now)) => {
                    changed.push((number, now.clone()));
                    self.ended[number] = Some(now);
                }
                (Some(before), now) => {
                    if now.as_ref() != Some(before) {
                        return Err(format!(
                            "context {number} had ended with {before:?}, and now says {now:?}"
                        ));
                    }
                }
            }
        }
        Ok(changed)
    }
}

/// The part of a step that is Go's answer, with its lists sorted.
fn gos_answer(step: &Value) -> Value {
    let names = ["new", "deadline", "values", "changed", "fired", "stopped"];
    let mut answer: serde_json::Map<_, _> =
        names.iter().filter_map(|&name| Some((name.into(), step.get(name)?.clone()))).collect();
    for (name, by) in [("changed", Some("ctx")), ("fired", None)] {
        if let Some(Value::Array(list)) = answer.get_mut(name) {
            list.sort_by_key(|it| by.map_or(it, |by| &it[by]).as_u64());
        }
    }
    // An empty list and no list are the same answer.
    answer.retain(|_, it| it.as_array().is_none_or(|list| !list.is_empty()));
    Value::Object(answer)
}

/// Plays a sequence under a paused clock of its own. `Err` holds the first
/// difference: seed, step, and both answers.
fn replay(trace: &Value, pace: Pace) -> Result<(), String> {
    let seed = &trace["seed"];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        // Some sequences have deadlines before their start.
        tokio::time::advance(Duration::from_secs(100)).await;
        let mut play = Play::new(Instant::now());
        let steps = trace["steps"].as_array().ok_or("a sequence has steps")?;
        for (number, step) in steps.iter().enumerate() {
            let here = format!("seed {seed}, step {number} ({step}), {pace:?}");
            let quells = play.step(step, pace).await.map_err(|why| format!("{here}:\n{why}"))?;
            let gos = gos_answer(step);
            if quells != gos {
                return Err(format!("{here}:\n   Go answered {gos}\nquell answered {quells}"));
            }
        }
        Ok(())
    })
}

fn traces() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/go-context-traces.jsonl");
    let text = std::fs::read_to_string(path).expect("the recorded answers are in tests/data");
    text.lines().map(|line| serde_json::from_str(line).expect("one sequence a line")).collect()
}

fn replay_all(pace: Pace) {
    let traces = traces();
    assert!(traces.len() >= 300, "all sequences are there");
    let failures: Vec<_> = traces.iter().filter_map(|trace| replay(trace, pace).err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} sequences differ; the first ones:\n{}",
        failures.len(),
        traces.len(),
        failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n"),
    );
}

#[test]
fn every_sequence_is_answered_as_go_answered_it() {
    replay_all(Pace::TimerToTimer);
}

#[test]
fn the_answers_are_the_same_where_the_clock_jumps_over_several_deadlines() {
    replay_all(Pace::OneJump);
}

#[test]
fn the_answers_are_the_same_where_contexts_are_asked_before_any_timer_rings() {
    replay_all(Pace::AskedBeforeTimers);
}

/// Wrong answers for one step, each with a name.
fn wrong_answers(step: &Value) -> Vec<(&'static str, Value)> {
    let mut wrong = Vec::new();
    let mut plant = |what, change: &dyn Fn(&mut Value)| {
        let mut step = step.clone();
        change(&mut step);
        wrong.push((what, step));
    };
    if let Some(ms) = step["deadline"].as_i64() {
        plant("a deadline a millisecond later", &|step| step["deadline"] = json!(ms + 1));
        plant("no deadline", &|step| {
            step.as_object_mut().unwrap().remove("deadline");
        });
    } else if step["op"] == "with_cancel" {
        plant("a deadline where none is", &|step| step["deadline"] = json!(1));
    }
    if let Some(values) = step["values"].as_object() {
        let key = values.keys().next().unwrap();
        plant("another value", &|step| step["values"][key] = json!(1_000_000));
        plant("a value missing", &|step| {
            step["values"].as_object_mut().unwrap().remove(key);
        });
    }
    if step["changed"].is_array() {
        plant("another error", &|step| {
            let err = &mut step["changed"][0]["err"];
            *err = json!(if err == "deadline" { "canceled" } else { "deadline" });
        });
        plant("another cause", &|step| step["changed"][0]["cause"] = json!("of no one"));
        plant("a context that did not end", &|step| {
            step["changed"].as_array_mut().unwrap().remove(0);
        });
    } else {
        plant("an end that did not come", &|step| {
            step["changed"] = json!([{"ctx": 0, "err": "canceled", "cause": "context canceled"}]);
        });
    }
    if step["fired"].is_array() {
        plant("a function that did not run", &|step| {
            step["fired"].as_array_mut().unwrap().remove(0);
        });
    } else {
        plant("a function that ran", &|step| step["fired"] = json!([0]));
    }
    if let Some(stopped) = step["stopped"].as_bool() {
        plant("another answer of stop", &|step| step["stopped"] = json!(!stopped));
    }
    wrong
}

#[test]
fn a_wrong_answer_planted_anywhere_in_a_sequence_is_noticed_at_its_step() {
    let mut kinds = BTreeMap::<&str, usize>::new();
    for trace in traces().iter().take(4) {
        assert_eq!(replay(trace, Pace::TimerToTimer), Ok(()), "as it is, it is right");
        let seed = &trace["seed"];
        for (number, step) in trace["steps"].as_array().unwrap().iter().enumerate() {
            for (what, wrong) in wrong_answers(step) {
                let mut mutated = trace.clone();
                mutated["steps"][number] = wrong;
                let told = replay(&mutated, Pace::TimerToTimer).expect_err(what);
                let place = format!("seed {seed}, step {number} ");
                assert!(told.starts_with(&place), "{what} at {place}is reported as: {told}");
                assert!(told.contains("Go answered") && told.contains("quell answered"), "{told}");
                *kinds.entry(what).or_default() += 1;
            }
        }
    }
    assert_eq!(kinds.len(), 12, "a wrong answer of every kind was planted: {kinds:?}");
}
