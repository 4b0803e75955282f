//! Random pipelines under random schedules.
#![cfg(all(not(loom), feature = "check", feature = "proptest"))]

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{TestError, TestRunner};
use quell::check::Checker;
use quell::check::strategies::{Shape, schedules, shapes};

async fn everything_is_conserved(shape: Shape, ctx: quell::Context) {
    let mut results = shape.pipeline(&ctx).run();
    while results.next().await.is_some() {}
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pipeline_stops_under_every_schedule(shape in shapes(), schedule in schedules()) {
        let report = schedule.checker().run(|ctx| everything_is_conserved(shape.clone(), ctx));
        prop_assert!(report.is_clean(), "{}", report);
    }
}

#[test]
fn what_fails_shrinks_in_both() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(Default::default()),
    );
    // "Fails" when there are three items or more and the context is cancelled.
    let found = runner.run(&(shapes(), schedules()), |(shape, schedule)| {
        let cancelled = format!("{schedule:?}").starts_with("cancel");
        prop_assert!(!(shape.items >= 3 && cancelled));
        Ok(())
    });
    let Err(TestError::Fail(_, (shape, schedule))) = found else { panic!("{found:?}") };
    assert_eq!((shape.items, shape.stages.len()), (3, 0));
    assert_eq!(format!("{schedule:?}"), "cancel at point 0, choices []");
    let _: Checker = schedule.checker();
}

#[test]
fn schedules_are_made_with_an_injection_of_any_kind() {
    let mut runner = TestRunner::deterministic();
    let made: Vec<_> = (0..200)
        .map(|_| format!("{:?}", schedules().new_tree(&mut runner).unwrap().current()))
        .collect();
    for kind in ["cancel", "drop", "deadline", "panic", "nothing"] {
        assert!(made.iter().any(|one| one.starts_with(kind)), "{kind}");
    }
}
