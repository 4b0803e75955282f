//! A checker for async code: shows, or refutes, that a body stops when it is told to, with no task
//! leaked and no stage blocked, under any schedule, whenever the end comes. Begin with [`Checker`],
//! and with [the guide](crate::guide::checker).

// | file | what it is |
// |---|---|
// | `checker` | how to check: which schedules, which injections, how much of it |
// | `engine`, `current`, `task`, `step`, `clock` | the state of the running schedule (looks and the injection in files apart), where to find it, its tasks, what is next, and its time |
// | `explorer` | the run of one schedule |
// | `session` | a body in its world: its schedules one by one, and telling what one has shown |
// | `exploration` | going through all of them, and what was found |
// | `strategy`, `strategies` | which schedules; random pipelines for proptest |
// | `subject` | the body under test, whatever its type |
// | `inject` | what befalls a body while it runs |
// | `on_tokio`, `apart` | an unmodified tokio program; a check inside a tokio runtime |
// | `signal`, `pulse`, `quiet` | wakers, the watchdog, panics that are kept instead of printed |
// | `label`, `place`, `log` | names of tasks, lines of code, what happened step by step |
// | `verdict`, `violation`, `vacuous`, `tracked` | what is wrong with a schedule or a check; items that must not be lost |
// | `shrink`, `token` | a simpler schedule that shows the same, and a schedule as a word |
// | `report`, `story`, `html` | how it is told |

#[cfg(feature = "tokio")]
mod apart;
mod checker;
mod clock;
mod current;
mod engine;
mod exploration;
mod explorer;
mod html;
mod inject;
mod label;
mod log;
#[cfg(feature = "tokio")]
mod on_tokio;
mod place;
mod pulse;
mod quiet;
mod report;
mod session;
mod shrink;
mod signal;
mod step;
mod story;
#[cfg(feature = "proptest")]
pub mod strategies;
mod strategy;
mod subject;
mod task;
mod token;
mod tracked;
mod vacuous;
mod verdict;
mod violation;

pub use checker::Checker;
pub use inject::{Inject, Injections};
pub use place::Place;
pub use report::Report;
pub use token::ReplayError;
pub use tracked::Tracked;
pub use violation::{Violation, ViolationKind};

/// The deadline of a root, in nanoseconds: one virtual hour away.
const DEADLINE: u64 = 3_600_000_000_000;

/// Marks a point at which [`Inject::Panic`] may make a body panic. Otherwise it does nothing, and
/// nothing while a panic unwinds: a second one, in a drop, would end the process.
pub fn fault(name: &'static str) {
    if std::thread::panicking() {
        return;
    }
    if let Some(onlooker) = crate::rt::world::onlooker() {
        onlooker.fault(name);
    }
}

/// Says that `condition` must hold here in some schedule. If it never does, the check has not tried
/// what it should, which is a violation. Put it where schedules come by, with the condition as its
/// argument: in a branch that no schedule takes, nothing hears of it.
///
/// Does nothing outside a checker.
pub fn sometimes(name: &'static str, condition: bool) {
    crate::rt::world::tell(|onlooker| onlooker.sometimes(name, condition));
}
