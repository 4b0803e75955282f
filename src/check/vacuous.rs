//! What to say of a check that has checked nothing, and what to do about it.

use super::inject::Inject;
use super::report::{Covered, Report};
use super::story::Story;
use super::violation::{Violation, ViolationKind};

/// What to do if there may have been too few schedules for something to come up.
pub(super) fn advice(covered: &[Covered]) -> &'static str {
    if covered.iter().any(|covered| covered.cut) {
        return "; a maximum has cut this check short: raise it";
    }
    match covered.iter().map(|covered| covered.schedules).sum() {
        0 => "; there are fewer schedules than injections: run more",
        // If all schedules have been run, there is no other.
        1 if covered.iter().any(|covered| !covered.everywhere) => {
            "; one schedule shows little: run more"
        }
        _ => "",
    }
}

/// The violations of a whole check. `looked`: a schedule looked at its context, or something was
/// found; then something was checked.
pub(super) fn of_the_whole(report: &Report, looked: bool) -> Vec<Violation> {
    let advice = advice(&report.covered);
    let mut all = Vec::new();
    if !looked && report.covered.iter().any(|covered| covered.kind.comes_at_a_look()) {
        let why = "no schedule ever looked at the context or one derived from it, so its end \
                   cannot have made a difference";
        all.push(vacuous(Inject::Cancel, format!("{why}{advice}")));
    }
    // A check that ended early has not come to all there is.
    let never = report.sometimes.iter().filter(|(_, reached)| !reached && !report.ended_early());
    all.extend(never.map(|(name, _)| {
        vacuous(Inject::None, format!("in no schedule did this ever hold: `{name}`{advice}"))
    }));
    all
}

/// The violation of an injection that has landed in none of its schedules.
pub(super) fn nowhere(covered: &Covered) -> Violation {
    let why = match covered.kind {
        Inject::Panic => "no injection landed: the body has come to no `check::fault` point",
        _ => "no injection landed",
    };
    let advice = advice(std::slice::from_ref(covered));
    vacuous(covered.kind, format!("{why}{advice}"))
}

/// The violation of a check in which panics of tasks were not seen.
#[cfg(feature = "tokio")]
pub(super) fn unheard() -> Violation {
    let why = "another panic hook was set meanwhile, and passes nothing on, so panics of tasks were not \
               seen: set it before the check, or have it call the one that `take_hook` gives";
    vacuous(Inject::None, why.to_string())
}

fn vacuous(kind: Inject, why: String) -> Violation {
    let headline = "this check has checked nothing".to_string();
    let story = Story::without_a_schedule(headline, kind);
    Violation { count: 0, ..Violation::of_no_task(ViolationKind::Vacuous, why, story) }
}
