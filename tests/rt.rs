//! Tasks, sleeping, choosing: the same functions inside and outside a runtime.
#![cfg(all(not(loom), feature = "tokio"))]

mod kit;

use futures::FutureExt;
use kit::{most_between_ticks, ms, paused};
use quell::{Cancelled, Context, Group, channel, rt};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_task_gives_back_what_it_returned() {
    assert_eq!(rt::spawn(async { 7 }).await.unwrap(), 7);
}

#[tokio::test]
async fn a_task_that_panicked_says_its_name_and_what_it_said() {
    let task = rt::spawn_named("fetch", async { panic!("no such host") });
    let error: rt::JoinError = task.await.map(|(): ()| ()).unwrap_err();
    assert!(error.is_panic() && !error.is_aborted());
    assert_eq!(error.to_string(), "the task `fetch` panicked: no such host");
    let payload = error.into_panic().unwrap();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"no such host"));
}

#[tokio::test]
async fn an_aborted_task_drops_what_it_holds_and_says_so() {
    let (held, gone) = tokio::sync::oneshot::channel::<()>();
    let task = rt::spawn(async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
    let line = line!() - 4;
    rt::yield_now().await;
    task.abort();
    let error = task.await.unwrap_err();
    assert!(error.is_aborted());
    assert!(error.to_string().contains(&format!("tests/rt.rs:{line}:")), "{error}");
    assert!(gone.await.is_err());
    let error = error.into_panic().unwrap_err();
    assert!(error.is_aborted(), "it gives the error back");
}

#[tokio::test]
async fn dropping_a_handle_leaves_the_task_running() {
    let (tell, told) = tokio::sync::oneshot::channel();
    drop(rt::spawn(async move {
        rt::yield_now().await;
        tell.send(1).unwrap();
    }));
    assert_eq!(told.await, Ok(1));
}

#[test]
fn who_yields_lets_timers_go_first() {
    let most = most_between_ticks(ms(1), |step| async move {
        for _ in 0..100 {
            step();
            rt::yield_now().await;
        }
    });
    assert!(most <= 8, "{most} steps of a millisecond");
}

/// Runs `test` of this name in a process of its own: a process learns only once how tokio wakes its
/// tasks.
fn in_its_own_process(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "QUELL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let alone = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.success(), "{said}");
}

#[test]
fn who_yields_lets_timers_go_first_though_another_runtime_is_entered_and_never_driven() {
    let name = "who_yields_lets_timers_go_first_though_another_runtime_is_entered_and_never_driven";
    in_its_own_process(name, || {
        let idle = tokio::runtime::Builder::new_current_thread().build().unwrap();
        {
            let _entered = idle.enter();
            futures::executor::block_on(rt::yield_now());
        }
        who_yields_lets_timers_go_first();
    });
}

#[test]
fn who_yields_lets_timers_go_first_though_the_runtime_of_the_first_who_did_is_driven_no_more() {
    let name =
        "who_yields_lets_timers_go_first_though_the_runtime_of_the_first_who_did_is_driven_no_more";
    in_its_own_process(name, || {
        // Its tasks are more than have a turn before it comes back to the future it is given.
        let left = tokio::runtime::Builder::new_current_thread().build().unwrap();
        left.block_on(async {
            (0..100).for_each(|_| drop(rt::spawn(rt::yield_now())));
            tokio::task::yield_now().await;
        });
        who_yields_lets_timers_go_first();
        drop(left);
    });
}

#[test]
fn spawning_where_nobody_runs_tasks_says_what_to_do() {
    let panic = std::panic::catch_unwind(|| drop(rt::spawn(async {}))).unwrap_err();
    let said = panic.downcast_ref::<String>().expect("a text");
    assert!(said.contains("inside a tokio runtime"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn sleeping_takes_as_long_as_it_should() {
    let began = rt::now();
    rt::sleep(SECOND).await;
    assert_eq!(rt::now() - began, SECOND);
    rt::sleep_until(began + 3 * SECOND).await;
    assert_eq!(rt::now() - began, 3 * SECOND);
    rt::sleep_until(began).await;
    assert_eq!(rt::now() - began, 3 * SECOND);
}

#[tokio::test]
async fn a_timeout_holds_for_a_future_that_never_has_to_wait() {
    let began = std::time::Instant::now();
    let busy = async {
        while began.elapsed() < 10 * SECOND {
            tokio::task::consume_budget().await;
        }
    };
    assert!(rt::timeout(SECOND / 20, busy).await.is_err(), "after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_gives_the_result_or_says_that_the_time_is_up() {
    let quick = rt::timeout(SECOND, async { 7 }).await;
    assert_eq!(quick, Ok(7));
    let began = rt::now();
    let slow = rt::timeout(SECOND, std::future::pending::<()>()).await;
    assert_eq!(slow.unwrap_err().to_string(), "the time is up");
    assert_eq!(rt::now() - began, SECOND);
    let error = std::io::Error::from(slow.unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    // A ready result is not thrown away, though its time has passed as well.
    assert_eq!(rt::timeout(Duration::ZERO, async { 7 }).await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn for_ever_is_no_overflow() {
    let ever = rt::timeout(Duration::MAX, rt::sleep(SECOND)).await;
    assert!(ever.is_ok());
    let began = rt::now();
    assert!(rt::timeout(SECOND, rt::sleep(Duration::MAX)).await.is_err());
    assert_eq!(rt::now() - began, SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_interval_ticks_by_its_first_tick_and_makes_up_what_was_missed() {
    let began = rt::now();
    let mut ticks = rt::interval(SECOND);
    assert_eq!(ticks.period(), SECOND);
    assert_eq!(ticks.tick().await, began);
    assert_eq!(ticks.tick().await, began + SECOND);
    rt::sleep(3 * SECOND + SECOND / 2).await;
    for k in 2..=4 {
        assert_eq!(ticks.tick().await, began + k * SECOND);
        assert_eq!(rt::now() - began, 4 * SECOND + SECOND / 2);
    }
    // A tick that is dropped has not been taken.
    assert!(rt::timeout(SECOND / 10, ticks.tick()).await.is_err());
    assert_eq!(ticks.tick().await, began + 5 * SECOND);
    assert_eq!(rt::now() - began, 5 * SECOND);
}

#[tokio::test]
async fn a_loop_of_sleeps_or_ticks_that_are_over_lets_others_run() {
    let end = std::time::Instant::now() + 10 * SECOND;
    for by_ticks in [true, false] {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_stopped = {
            let stop = Arc::clone(&stop);
            move || stop.load(Ordering::Relaxed)
        };
        let task = rt::spawn(async move {
            // Each tick is late by the time that it takes to look at the last.
            let mut ticks = rt::interval(Duration::from_nanos(1));
            while !is_stopped() && std::time::Instant::now() < end {
                if by_ticks {
                    ticks.tick().await;
                } else {
                    rt::sleep(Duration::ZERO).await;
                }
            }
            is_stopped()
        });
        rt::yield_now().await;
        stop.store(true, Ordering::Relaxed);
        assert!(task.await.unwrap(), "by ticks: {by_ticks}");
    }
}

#[test]
#[should_panic(expected = "pass a period above zero")]
fn an_interval_of_zero_says_what_to_pass() {
    let _ = rt::interval(Duration::ZERO);
}

#[test]
fn sleeping_needs_no_runtime() {
    let began = rt::now();
    let milli = Duration::from_millis(1);
    futures::executor::block_on(async {
        rt::sleep(5 * milli).await;
        assert!(rt::timeout(5 * milli, std::future::pending::<()>()).await.is_err());
        let mut ticks = rt::interval(milli);
        ticks.tick().await;
        ticks.tick().await;
    });
    assert!(rt::now() - began >= 11 * milli);
}

#[tokio::test]
async fn to_yield_lets_every_ready_task_go_first() {
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..3)
        .map(|n| {
            let order = order.clone();
            rt::spawn(async move { order.lock().unwrap().push(n) })
        })
        .collect();
    rt::yield_now().await;
    order.lock().unwrap().push(9);
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 9]);
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn a_sleep_outlives_its_runtime() {
    use std::task::{Context, Waker};
    // If the time has passed before the first poll, nothing is shown: then a longer one is tried.
    for millis in [10, 100, 1_000, 10_000] {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let mut sleep = Box::pin(rt::sleep(Duration::from_millis(2 * millis)));
        let time = Duration::from_millis(millis);
        let (ctx, _canceller) = quell::Context::background().with_timeout(time);
        let mut run = Box::pin(ctx.run(rt::sleep(Duration::from_secs(3600))));
        let wait = runtime.block_on(async {
            let mut cx = Context::from_waker(Waker::noop());
            let sleeps = sleep.as_mut().poll(&mut cx).is_pending();
            run.as_mut().poll(&mut cx).is_pending() && sleeps
        });
        drop(runtime);
        if wait {
            futures::executor::block_on(sleep);
            let ended = futures::executor::block_on(run).unwrap_err();
            assert_eq!(ended.error(), quell::ContextError::DeadlineExceeded);
            return;
        }
    }
    panic!("they never wait");
}

#[test]
fn of_a_sleep_that_outlives_its_runtime_what_was_left_is_waited_for_however_its_clock_was_moved() {
    for stands_still in [false, true] {
        let runtime = paused();
        let mut sleep = None;
        runtime.block_on(async {
            tokio::time::advance(Duration::from_secs(7200)).await;
            if !stands_still {
                tokio::time::resume();
            }
            let sleep = sleep.insert(Box::pin(rt::sleep(Duration::from_millis(500))));
            assert!(sleep.as_mut().now_or_never().is_none());
        });
        drop(runtime);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            futures::executor::block_on(sleep.unwrap());
            tell.send(()).unwrap();
        });
        told.recv_timeout(Duration::from_secs(30)).expect("it goes by a clock two hours ahead");
    }
}

#[test]
fn a_sleep_needs_no_timers_of_its_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        rt::sleep(Duration::from_millis(2)).await;
        let never = std::future::pending::<()>();
        assert!(rt::timeout(Duration::from_millis(2), never).await.is_err());
    });
}

/// The hook belongs to the process: two tests must not take it and set it at the same time.
fn hear_panics_of_this_thread(tell: impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap();
    let (here, before) = (std::thread::current().id(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == here { tell(info) } else { before(info) }
    }));
}

#[test]
fn of_a_runtime_without_timers_tokio_complains_once_and_not_for_each_sleep() {
    let complaints = Arc::new(AtomicUsize::new(0));
    let count = complaints.clone();
    hear_panics_of_this_thread(move |_| _ = count.fetch_add(1, Ordering::SeqCst));
    tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
        for _ in 0..10 {
            rt::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(complaints.load(Ordering::SeqCst), 1);
}

#[test]
fn a_call_that_is_refused_panics_at_the_line_that_made_it() {
    type Call = (fn(), u32);
    let calls: [Call; 4] = [
        (|| _ = rt::choose(0), line!()),
        (|| _ = rt::interval(Duration::ZERO), line!()),
        (|| drop(rt::spawn(async {})), line!()),
        (|| drop(rt::spawn_named("named", async {})), line!()),
    ];
    let lines = Arc::new(Mutex::new(Vec::new()));
    let told = lines.clone();
    hear_panics_of_this_thread(move |info| {
        let at = info.location().expect("a line");
        told.lock().unwrap().push((at.file().to_string(), at.line()));
    });
    for (call, line) in calls {
        std::panic::catch_unwind(call).unwrap_err();
        // The hook takes the lock: an assertion that fails must not hold it.
        let at = lines.lock().unwrap().pop();
        assert_eq!(at, Some(("tests/rt.rs".to_string(), line)));
    }
}

#[tokio::test]
async fn a_future_that_has_given_its_output_says_which_it_is_when_it_is_polled_again() {
    async fn again(future: impl Future) -> String {
        let mut future = std::pin::pin!(future);
        drop(future.as_mut().await);
        let again = AssertUnwindSafe(future).catch_unwind().await;
        let payload = again.err().expect("it panics");
        let text = payload.downcast_ref::<&str>().copied().map(str::to_string);
        text.or_else(|| payload.downcast_ref().cloned()).expect("a text")
    }
    let (ctx, (sender, _receiver)) = (Context::background(), channel::bounded(1));
    let group = Group::new(&ctx);
    let task = |_| async { Ok::<_, Cancelled>(()) };
    assert!(again(ctx.run(async {})).await.contains("`Run`"));
    assert!(again(sender.send(1)).await.contains("`Send`"));
    assert!(again(group.spawn("task", task)).await.contains("`Spawn`"));
    assert!(again(rt::spawn(async {})).await.contains("JoinHandle"));
    group.wait().await.unwrap();
}

#[test]
fn a_choice_is_among_what_there_is_and_reaches_all_of_it() {
    let mut seen = [0; 3];
    for _ in 0..1000 {
        seen[rt::choose(3)] += 1;
    }
    assert!(seen.iter().all(|&times| times > 200), "{seen:?}");
    assert_eq!(rt::choose(1), 0);
}

#[test]
#[should_panic(expected = "pass 1 or more")]
fn a_choice_of_nothing_says_what_to_pass() {
    let _ = rt::choose(0);
}

#[test]
fn whoever_blocks_a_worker_by_another_executor_gets_on_though_he_lets_others_go_first() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let task = runtime.spawn(async {
        let (items, mut read) = quell::channel::bounded(1_000);
        for n in 0..1_000 {
            items.send(n).await.unwrap();
        }
        drop(items);
        // Twice: by the second time it is known how tokio wakes its tasks.
        for _ in 0..2 {
            rt::yield_now().await;
            futures::executor::block_on(async {
                for _ in 0..500 {
                    rt::yield_now().await;
                    read.recv().await.unwrap();
                }
            });
        }
    });
    runtime.block_on(task).unwrap();
}

#[test]
fn another_executor_inside_a_task_gets_past_any_number_of_sleeps_that_are_over() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let task = runtime.spawn(async {
        futures::executor::block_on(async {
            for _ in 0..1_000 {
                rt::sleep(Duration::ZERO).await;
            }
        });
    });
    runtime.block_on(task).unwrap();
}

#[tokio::test]
async fn who_asks_again_and_again_whether_a_time_has_come_hears_of_all_and_lets_others_run() {
    let end = std::time::Instant::now() + 10 * SECOND;
    let others = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&others);
    let asks = rt::spawn(async move {
        let (mut ticks, mut ticked) = (rt::interval(Duration::from_micros(1)), 0);
        while ticked < 1_000 && std::time::Instant::now() < end {
            ticked += usize::from(rt::timeout(Duration::ZERO, ticks.tick()).await.is_ok());
        }
        (ticked, counts.load(Ordering::Relaxed))
    });
    let other = rt::spawn(async move { others.fetch_add(1, Ordering::Relaxed) });
    assert_eq!(asks.await.unwrap(), (1_000, 1));
    other.await.unwrap();
}
