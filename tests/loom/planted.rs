//! The test of the tests: with one line broken, the model that guards it fails.
//!
//! Each test runs one model again, with one line of quell broken, in a process of
//! its own (a model that finds a deadlock cannot always unwind), and expects it to
//! fail with the right message.

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
    ($($test:ident: $line:ident by $room:ident::$model:ident, $message:literal;)*) => {
        const BUGS: &[(&str, Break)] = &[$((stringify!($line), Break::$line)),*];

        $(#[test]
        fn $test() {
            let model = concat!(stringify!($room), "::", stringify!($model));
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
        LatchAnnouncesUnordered by context::error_and_cause_are_always_seen_together, "Causality violation";
    links_let_go_without_order_are_caught:
        LinkDroppedUnordered by context::the_last_of_two_threads_to_let_go_takes_the_whole_chain_down,
        "Causality violation";
    a_refused_scope_that_goes_on_is_caught:
        RefusedScopeGoesOn by context::a_child_derived_while_its_parent_is_cancelled_is_cancelled_too,
        "deadlock";
    a_waiter_added_too_late_is_caught:
        WaiterNotChecked by context::a_waiter_is_woken_whenever_the_cancel_comes, "deadlock";
    a_waker_not_replaced_is_caught:
        WakerNotReplaced by context::the_waker_of_the_last_poll_is_the_one_that_is_woken, "deadlock";
    a_loser_that_returns_at_once_is_caught:
        LoserReturnsAtOnce by context::a_cancel_that_lost_returns_only_when_everything_below_it_is_marked,
        "before everything below";
    a_sweep_that_takes_the_waiters_of_another_is_caught:
        SweepTakesOthersWaiters by
        context::of_two_linked_parents_one_gives_the_cause_and_has_told_everybody, "returned too early";
    a_dead_child_that_stays_is_caught:
        DeadChildStays by context::a_dropped_child_leaves_its_parent_at_once, "remembers a dead child";
    a_stop_that_takes_nothing_is_caught:
        StopTakesNothing by context::a_function_runs_once_or_stop_said_true, "and stop said true";
    a_clone_that_is_not_counted_is_caught:
        CloneNotCounted by context::the_last_canceller_to_go_ends_the_context_and_no_other,
        "while a canceller was alive";
    a_watch_that_trusts_a_look_is_caught:
        WatchTrustsTheLook by
        context::a_waiter_below_a_deadline_is_woken_though_a_look_found_it_passed_before, "deadlock";
    a_function_added_too_late_is_caught:
        FuncNotChecked by context::a_function_registered_while_its_context_ends_runs_once, "left: 0";
    a_stop_and_wait_that_does_not_wait_is_caught:
        StopDoesNotWait by context::stop_and_wait_returns_after_the_function, "left: 0";
    a_sleeper_that_is_not_told_is_caught:
        SleeperNotTold by context::a_thread_that_waits_is_woken_whenever_the_cancel_comes, "deadlock";
    a_light_cancel_that_gives_up_is_caught:
        LightCancelGivesUp by
        context::a_context_that_is_cancelled_while_it_gets_its_first_child_takes_it_along,
        "was dropped";
    a_look_that_is_not_written_down_is_caught:
        LookNotWrittenDown by context::a_cause_once_seen_by_a_child_stays, "left: \"parent\"";
    a_link_to_what_has_ended_is_caught:
        AdoptedTooLate by context::a_context_linked_to_one_that_is_ending_ends, "deadlock";
    a_look_at_a_deadline_that_is_not_written_down_is_caught:
        ExpiryNotWrittenDown by context::of_a_cancel_and_a_deadline_one_wins_and_everybody_agrees,
        "an error changed after it was seen";
    a_value_dropped_without_order_is_caught:
        LinkDroppedUnordered by context::a_value_is_seen_by_whoever_gets_the_context,
        "Causality violation";
    a_cause_announced_without_order_is_caught:
        LatchAnnouncesUnordered by
        context::of_two_cancels_one_cause_wins_and_everybody_agrees, "Causality violation";
    a_scope_announced_without_order_is_caught:
        WordAnnouncesUnordered by
        context::a_context_that_is_cancelled_while_it_gets_its_first_child_takes_it_along,
        "Causality violation";

    room_that_is_not_offered_is_caught:
        RoomNotOffered by channel::what_is_sent_arrives_whenever_its_reader_looks, "deadlock";
    a_sender_that_waits_unannounced_is_caught:
        WaiterNotAnnounced by
        channel::the_room_of_an_item_is_there_while_its_reader_is_busy_with_it, "deadlock";
    a_promise_that_is_not_passed_on_is_caught:
        PromiseNotPassedOn by
        channel::room_that_is_promised_to_a_sender_who_leaves_goes_to_the_next, "deadlock";
    a_reader_that_is_not_woken_is_caught:
        ReaderNotWoken by channel::what_is_sent_arrives_whenever_its_reader_looks, "deadlock";
    a_reader_that_looks_only_once_is_caught:
        ReaderTrustsFirstLook by channel::what_is_sent_arrives_whenever_its_reader_looks,
        "deadlock";
    a_last_sender_that_says_nothing_is_caught:
        LastSenderSilent by channel::the_last_sender_to_go_ends_the_channel, "deadlock";
    a_reader_that_forgets_who_waits_is_caught:
        CloseForgetsWriters by channel::a_reader_who_leaves_sends_everybody_home, "deadlock";
    an_idle_taker_that_is_not_noted_is_caught:
        IdleTakerNotNoted by channel::each_item_finds_a_taker_while_there_is_one, "deadlock";
    a_taker_that_leaves_with_its_room_is_caught:
        LeaverKeepsRoom by channel::each_item_finds_a_taker_while_there_is_one, "deadlock";
    a_taker_who_goes_alone_and_calls_nobody_is_caught:
        LoneTakerCallsNobody by channel::who_goes_alone_calls_another_before_it_waits, "deadlock";
    a_call_that_is_not_passed_on_is_caught:
        CallNotPassedOn by channel::a_call_to_a_taker_who_leaves_goes_to_another, "deadlock";

    an_echo_taken_for_a_failure_is_caught:
        EchoTakenForFailure by
        group::a_shutdown_has_nothing_to_abort_where_all_end_by_themselves, "the group was shut down";
    a_second_failure_that_is_the_cause_is_caught:
        SecondFailureIsTheCause by group::of_two_errors_the_first_is_the_cause_everywhere,
        "ended for one error, and reports another";
    a_place_that_is_not_offered_is_caught:
        PlaceNotOffered by group::a_place_that_comes_free_goes_to_the_spawn_that_waits, "deadlock";
    a_place_that_is_not_passed_on_is_caught:
        PlaceNotPassedOn by
        group::a_place_that_is_promised_to_a_spawn_that_leaves_goes_to_the_next, "deadlock";
    a_task_that_is_started_as_if_nobody_shut_down_is_caught:
        StartNotAnnounced by
        group::a_task_that_is_started_while_the_group_is_shut_down_is_waited_for_or_never_runs,
        "after the shutdown has returned";
    a_spawn_that_does_not_look_is_caught:
        SpawnIgnoresTheEnd by group::a_spawn_at_the_limit_hears_of_the_end, "deadlock";
    tasks_that_are_written_down_too_soon_are_caught:
        LateNotedTooSoon by
        group::a_task_that_is_started_while_the_others_are_aborted_is_aborted_and_reported, "left: 0";
    a_shutdown_that_hides_the_parents_end_is_caught:
        OwnEndHidesParents by group::a_shutdown_while_the_parent_ends_hides_no_cause,
        "it ended because: stop";

    stages_that_are_not_stopped_are_caught:
        StagesNotStopped by pipeline::a_worker_that_waits_for_ever_is_stopped_by_the_cancel,
        "deadlock";
    a_throttle_that_does_not_look_at_its_context_is_caught:
        ThrottleNotStopped by
        pipeline::a_throttle_that_waits_for_its_time_is_stopped_by_the_cancel, "deadlock";
    workers_that_do_not_look_at_their_context_are_caught:
        WorkersNotStopped by
        pipeline::a_worker_that_waits_for_ever_is_stopped_by_the_cancel, "deadlock";
    an_end_that_is_seen_before_its_reason_is_caught:
        EndBeforeEnding by pipeline::an_error_is_known_before_its_reader_sees_the_end,
        "completed; 0 read";
    a_source_that_looks_too_soon_is_caught:
        SourceLooksTooSoon by pipeline::a_drain_does_not_wait_for_a_source_that_blocks, "deadlock";
    a_turn_that_is_not_passed_on_is_caught:
        TurnNotPassedOn by pipeline::results_in_order_pass_their_turn_on, "deadlock";
    what_is_left_and_not_counted_is_caught:
        LeftNotCounted by pipeline::a_reader_may_finish_while_another_cancels, "discarded";
}
