//! The test of the tests: with one line broken, the model that guards it fails.
//!
//! Each test runs one model again, in a process of its own (a model that finds
//! a deadlock cannot always unwind), with one line of quell broken, and wants to
//! see it fail with the right message.

use quell::planted::Break;
use std::process::Command;

/// Names the line to break in such a process.
pub(crate) const ENV: &str = "QUELL_PLANTED";

/// Breaks the line of this name for the models of this thread.
pub(crate) fn plant(line: &str) {
    let (_, line, ..) = BUGS
        .iter()
        .find(|(name, ..)| *name == line)
        .unwrap_or_else(|| panic!("{ENV}={line}: no such bug"));
    quell::planted::plant(*line);
}

macro_rules! caught {
    ($($test:ident: $line:ident by $model:ident, $message:literal;)*) => {
        const BUGS: &[(&str, Break)] = &[$((stringify!($line), Break::$line)),*];

        $(#[test]
        fn $test() {
            let model = concat!("context::", stringify!($model));
            let broken = Command::new(std::env::current_exe().unwrap())
                .args([model, "--exact", "--nocapture"])
                .env(ENV, stringify!($line))
                .env("RUST_BACKTRACE", "0")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&broken.stderr);
            assert!(!broken.status.success(), "{model} did not notice {}", stringify!($line));
            assert!(said.contains($message), "{model} failed for another reason:\n{said}");
        })*
    };
}

caught! {
    a_value_announced_without_order_is_caught:
        LatchAnnouncesUnordered by error_and_cause_are_always_seen_together, "Causality violation";
    links_let_go_without_order_are_caught:
        LinkDroppedUnordered by the_last_of_two_threads_to_let_go_takes_the_whole_chain_down,
        "Causality violation";
    a_refused_scope_that_goes_on_is_caught:
        RefusedScopeGoesOn by a_child_derived_while_its_parent_is_cancelled_is_cancelled_too,
        "deadlock";
    a_waiter_added_too_late_is_caught:
        WaiterNotChecked by a_waiter_is_woken_whenever_the_cancel_comes, "deadlock";
    a_waker_not_replaced_is_caught:
        WakerNotReplaced by the_waker_of_the_last_poll_is_the_one_that_is_woken, "deadlock";
    a_loser_that_returns_at_once_is_caught:
        LoserReturnsAtOnce by a_cancel_that_lost_returns_only_when_everything_below_it_is_marked,
        "before everything below";
    a_sweep_that_takes_the_waiters_of_another_is_caught:
        SweepTakesOthersWaiters by
        of_two_linked_parents_one_gives_the_cause_and_has_told_everybody, "returned too early";
    a_dead_child_that_stays_is_caught:
        DeadChildStays by a_dropped_child_leaves_its_parent_at_once, "remembers a dead child";
    a_stop_that_takes_nothing_is_caught:
        StopTakesNothing by a_function_runs_once_or_stop_said_true, "and stop said true";
    a_clone_that_is_not_counted_is_caught:
        CloneNotCounted by the_last_canceller_to_go_ends_the_context_and_no_other,
        "while a canceller was alive";
    a_watch_that_trusts_a_look_is_caught:
        WatchTrustsTheLook by
        a_waiter_below_a_deadline_is_woken_though_a_look_found_it_passed_before, "deadlock";
    a_function_added_too_late_is_caught:
        FuncNotChecked by a_function_registered_while_its_context_ends_runs_once, "left: 0";
    a_stop_and_wait_that_does_not_wait_is_caught:
        StopDoesNotWait by stop_and_wait_returns_after_the_function, "left: 0";
    a_sleeper_that_is_not_told_is_caught:
        SleeperNotTold by a_thread_that_waits_is_woken_whenever_the_cancel_comes, "deadlock";
    a_light_cancel_that_gives_up_is_caught:
        LightCancelGivesUp by
        a_context_that_is_cancelled_while_it_gets_its_first_child_takes_it_along, "is_done";
    a_look_that_is_not_written_down_is_caught:
        LookNotWrittenDown by a_cause_once_seen_by_a_child_stays, "left: \"parent\"";
    a_link_to_what_has_ended_is_caught:
        AdoptedTooLate by a_context_linked_to_one_that_is_ending_ends, "deadlock";
}
