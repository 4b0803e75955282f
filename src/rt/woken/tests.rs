//! What turns keep, a step at a time: no pipeline runs.
//!
//! # Invariants
//!
//! 1. The timer thread looks only in tests that are about that: it goes by the clock.

use super::*;
use crate::rt::runtime::Builder;
use crate::sync::atomic::{AtomicUsize, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Wake;
use std::time::Duration;

fn now() -> Instant {
    real_now().expect("no checker is here")
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn woken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tasks of a pipeline on `threads` threads.
struct Crew {
    runtime: crate::rt::runtime::Runtime,
    woken: KeptWakers,
    turns: Turns,
    count: Arc<Count>,
    waker: Waker,
}

impl Crew {
    /// For a machine that may be slow: the timer thread does not look.
    fn on(threads: usize) -> Crew {
        let crew = Crew::looked_after(threads);
        if let Some(shared) = &crew.woken.shared {
            shared.kept.lock().looked_after = true;
        }
        crew
    }

    fn looked_after(threads: usize) -> Crew {
        let runtime = match threads {
            0 => Builder::new_current_thread().build(),
            _ => Builder::new_multi_thread().worker_threads(threads).build(),
        };
        let runtime = runtime.expect("a runtime");
        let there = runtime.enter();
        let woken = KeptWakers::here();
        drop(there);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        Crew { runtime, turns: woken.turns(), woken, count, waker }
    }

    /// Wakes a task that waits at a channel of the pipeline.
    fn wake(&self) {
        wake_at(self.woken.id(), [self.waker.clone()]);
    }

    /// How many wakes there have been, and whether this turn has one to free.
    fn seen(&self) -> (usize, bool) {
        (self.count.woken(), has_woken())
    }

    /// Whether a wake is kept now.
    fn keeps(&self) -> bool {
        let before = self.count.woken();
        self.wake();
        self.count.woken() == before
    }
}

/// Waits for what happens at once on a machine that is not slow itself.
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        crate::sync::thread::yield_now();
    }
}

fn brisk() {
    (0..STEPS).for_each(|_| step());
}

/// Steps until it keeps wakers.
fn gets_brisk(crew: &Crew) {
    soon("it is never brisk", || {
        brisk();
        KEEPS.get() != PipelineId::NONE
    });
    assert!(crew.keeps());
}

#[test]
fn who_is_kept_is_woken_when_the_turn_ends() {
    let crew = Crew::on(2);
    crew.turns.turn(|| {
        set_keeping(true);
        crew.wake();
        crew.wake();
        assert_eq!(crew.seen(), (0, false));
    });
    assert_eq!(crew.count.woken(), 2);
    // Keeping lasts from turn to turn.
    crew.turns.turn(|| assert!(crew.keeps()));
    assert_eq!(crew.count.woken(), 3);
}

#[test]
fn who_is_kept_is_woken_when_the_turn_ends_by_a_panic() {
    let crew = Crew::on(2);
    let panics = || {
        crew.turns.turn(|| {
            set_keeping(true);
            crew.wake();
            std::panic::resume_unwind(Box::new(()))
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!(crew.count.woken(), 1);
}

#[test]
fn whoever_two_tasks_keep_is_woken_by_the_first_whose_turn_ends() {
    let crew = Crew::on(2);
    let (other, pipeline) = (crew.woken.turns(), crew.woken.id());
    crew.turns.turn(|| {
        set_keeping(true);
        crew.wake();
        let (count, waker) = (Arc::clone(&crew.count), crew.waker.clone());
        let elsewhere = move || {
            other.turn(|| {
                set_keeping(true);
                wake_at(pipeline, [waker]);
                assert_eq!(count.woken(), 0);
            });
        };
        crate::sync::thread::spawn(elsewhere).join().expect("it does not panic");
        assert_eq!(crew.count.woken(), 2);
    });
    assert_eq!(crew.count.woken(), 2);
}

#[test]
fn who_is_kept_is_woken_when_the_pipeline_ends_whatever_turn_is_had() {
    let crew = Crew::on(2);
    crew.turns.turn(|| {
        set_keeping(true);
        crew.wake();
        crew.woken.send();
        assert_eq!(crew.seen(), (1, true));
        free_woken();
        crew.woken.send();
        assert_eq!(crew.seen(), (1, false), "there is nobody");
    });
}

#[test]
fn who_is_kept_is_free_when_the_input_of_a_task_ends() {
    let crew = Crew::on(2);
    crew.turns.turn(|| {
        gets_brisk(&crew);
        let before = crew.count.woken();
        stop_keeping();
        let (woken, is_mine) = crew.seen();
        assert!(woken > before && !is_mine);
        // However brisk it is from here on.
        brisk();
        assert!(!crew.keeps());
    });
}

#[test]
fn nobody_is_kept_outside_of_a_turn_nor_by_a_task_that_is_not_brisk_any_more() {
    let crew = Crew::on(2);
    crew.turns.turn(|| {
        set_keeping(true);
        crew.wake();
        set_keeping(false);
        assert_eq!(crew.seen(), (1, true));
        free_woken();
        crew.wake();
        assert_eq!(crew.seen(), (2, true));
    });
    crew.turns.turn(|| set_keeping(true));
    assert!(!crew.keeps());
}

#[test]
fn nobody_is_kept_who_waits_at_a_channel_that_is_not_of_the_pipeline() {
    let (crew, other) = (Crew::on(2), Crew::on(2));
    crew.turns.turn(|| {
        set_keeping(true);
        wake_now([crew.waker.clone()]);
        assert_eq!(crew.seen(), (1, true));
        assert!(!other.keeps());
        // A pipeline that user code runs meanwhile, on this thread.
        for threads in [0, 2] {
            let inner = Crew::on(threads);
            inner.turns.turn(|| {
                assert!(!crew.keeps() && !inner.keeps());
                set_keeping(true);
                assert!(!crew.keeps());
                assert_eq!(inner.keeps(), threads > 1);
            });
            assert!(crew.keeps() && !inner.keeps());
        }
        free_woken();
        for woken in [false, true] {
            other.turns.turn(free_woken);
            assert_eq!(has_woken(), woken);
            wake_now([crew.waker.clone()]);
        }
    });
}

#[test]
fn nobody_is_kept_and_nobody_nudged_where_there_is_one_thread() {
    for threads in [0, 1] {
        let crew = Crew::on(threads);
        crew.turns.turn(|| {
            set_keeping(true);
            crew.wake();
            assert_eq!(crew.seen(), (1, false));
        });
    }
}

#[test]
fn whoever_is_kept_by_a_turn_that_hangs_is_woken_all_the_same_and_the_next_at_once() {
    let crew = Crew::looked_after(2);
    crew.turns.turn(|| {
        set_keeping(true);
        crew.wake();
        soon("it is not woken", || crew.count.woken() > 0);
        for _ in 0..UNKEPT {
            assert!(!crew.keeps());
        }
        assert!(crew.keeps(), "that is forgiven");
    });
}

#[test]
fn nobody_looks_after_nobody() {
    let crew = Crew::looked_after(2);
    let kept = &crew.woken.shared.as_ref().expect("there are two threads").kept;
    for before in 0..2 {
        crew.turns.turn(|| {
            set_keeping(true);
            crew.wake();
            // Unless this turn took so long that the timer thread woke it.
            assert!(kept.lock().looked_after || crew.count.woken() > before);
        });
        kept.lock().unkept = 0;
        soon("it is looked at for ever", || !kept.lock().looked_after);
    }
}

#[test]
fn a_task_keeps_others_that_has_been_brisk_for_a_while_and_not_once_it_was_slow() {
    let crew = Crew::on(2);
    crew.turns.turn(|| {
        // The first only notes when the next began.
        (0..BRISK).for_each(|_| brisk());
        assert!(!crew.keeps());
        gets_brisk(&crew);
        (1..STEPS).for_each(|_| step());
        assert!(crew.keeps());
        let (before, began) = (crew.count.woken(), now());
        while began.elapsed() < 2 * Turn::TIME {}
        step();
        assert!(crew.count.woken() > before && !has_woken(), "they have to wait for this turn");
        assert!(!crew.keeps());
    });
}

#[test]
fn a_task_that_has_no_long_turns_any_more_keeps_nobody() {
    let crew = Crew::on(2);
    crew.turns.turn(|| gets_brisk(&crew));
    for _ in 0..TURNS {
        crew.turns.turn(|| assert!(crew.keeps()));
    }
    crew.turns.turn(|| assert!(!crew.keeps()));
    // However brisk its few steps are.
    for _ in 0..4 * STEPS {
        crew.turns.turn(|| {
            step();
            assert!(!crew.keeps());
        });
    }
}

#[test]
fn a_nudge_is_a_task_of_nothing_and_comes_once_for_all_who_have_been_woken() {
    let crew = Crew::on(2);
    let alive = || crew.runtime.metrics().num_alive_tasks();
    // Both threads are busy, so the nudge does not run yet.
    let (begun, may_end) = (Arc::new(Count::default()), Arc::new(Count::default()));
    for _ in 0..2 {
        let (begun, may_end) = (Arc::clone(&begun), Arc::clone(&may_end));
        drop(crew.runtime.spawn(async move {
            begun.wake();
            soon("they may not end", || may_end.woken() > 0);
        }));
    }
    soon("they do not begin", || begun.woken() == 2);
    crew.turns.turn(|| {
        free_woken();
        assert_eq!(alive(), 2, "nobody has been woken");
        crew.wake();
        crew.wake();
        free_woken();
        free_woken();
        assert_eq!(alive(), 3);
    });
    may_end.wake();
    soon("it does not end", || alive() == 0);
}
