//! The notifications of an end, collected under locks and made after all locks are released.
//!
//! # Invariants
//!
//! 1. A harvest is run, or its pieces dropped, while no lock of quell's is held.
//! 2. Wakers come first, then quell's own functions, then user code, which therefore delays no
//!    waiter and no pipeline's stop. User code includes subscribers, the `Display` and drop of a
//!    cause, and whatever is dropped with the last handle of a context. Tokens come after quell's
//!    own functions, because cancelling one may end a context that has functions. On a thread
//!    where user code must not run, it is left to another thread.
//! 3. A panic in one notification is caught and prevents no other. Dropping an alarm that is no
//!    longer needed counts as one, for that may drop the last handle of a cause.
//! 4. Ends nested deep inside others are told later, but before the outermost returns (`nested`).
//!    Wakers and quell's own functions are the last to be deferred, at twice the depth.

use super::Context;
use super::after::Func;
use super::cause::Cause;
use super::members::{Member, Members};
use super::scope::End;
use crate::rt::{self, Work, contain_panic};
use crate::sync::{Arc, Mutex};
use std::task::Waker;

#[derive(Default)]
pub(super) struct Harvest {
    /// The first scope's list, taken whole. Usually there is nothing else.
    first: Members,
    wakers: Vec<Waker>,
    ours: Ours,
    users: Users,
}

/// Quell's own work, which may take a while.
#[derive(Default)]
struct Ours {
    funcs: Vec<Func>,
    #[cfg(all(feature = "tokio-util", not(loom)))]
    tokens: Vec<super::token::Root>,
    /// Alarms that are no longer needed.
    alarms: Vec<rt::Alarm>,
}

/// Everything that runs user code, which comes last.
#[derive(Default)]
struct Users {
    /// Causes of the contexts that this sweep ended for a reason of their own, for subscribers.
    ended: Vec<Cause>,
    funcs: Vec<Func>,
    /// Ends that came too late; dropping one may drop a user's error.
    late: Vec<End>,
    /// Contexts that quell's own functions have kept alive.
    kept: Vec<Context>,
}

impl Harvest {
    /// Takes the whole of a list without children, if this harvest is still empty. Later lists come
    /// after it.
    pub(super) fn takes_all(&mut self, list: &mut Members) -> bool {
        let is_first = self.is_empty();
        if is_first {
            std::mem::swap(&mut self.first, list);
        }
        is_first
    }

    pub(super) fn add(&mut self, member: Member) {
        match member {
            Member::Waiter(waker) => self.wakers.push(waker),
            Member::Func(func) if func.is_ours() => self.ours.funcs.push(func),
            Member::Func(func) => self.users.funcs.push(func),
            Member::Child(_) => unreachable!("children stay"),
        }
    }

    pub(super) fn disarm(&mut self, alarm: rt::Alarm) {
        self.ours.alarms.push(alarm);
    }

    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) fn add_token(&mut self, token: super::token::Root) {
        self.ours.tokens.push(token);
    }

    /// Adds what another sweep has found.
    #[cfg(all(unix, not(loom)))]
    pub(super) fn join(&mut self, other: Harvest) {
        let Harvest { first, wakers, ours, users } = other;
        first.into_all().for_each(|member| self.add(member));
        self.wakers.extend(wakers);
        self.ours.append(ours);
        self.users.append(users);
    }

    pub(super) fn report(&mut self, ended: &Cause) {
        if super::trace::is_heard() {
            self.users.ended.push(ended.clone());
        }
    }

    pub(super) fn came_too_late(&mut self, end: End) {
        self.users.late.push(end);
    }

    /// Makes all notifications, on this thread if user code may run here.
    pub(super) fn run(&mut self) {
        #[cfg(not(loom))]
        if !self.is_empty() {
            return super::nested::tell(self);
        }
        self.tell();
    }

    /// The same, however deeply this end is nested.
    pub(super) fn tell(&mut self) {
        let (ours, mut users) = self.wake();
        users.kept.extend(ours.run());
        users.tell();
    }

    /// Wakes the wakers and runs quell's own functions, and gives back the rest.
    #[cfg(not(loom))]
    pub(super) fn wake_and_run_own(&mut self) -> Harvest {
        let (mut ours, mut users) = self.wake();
        users.kept.extend(ours.run_funcs());
        Harvest { ours, users, ..Harvest::default() }
    }

    /// Whether there is nothing to wake or run.
    fn is_empty(&self) -> bool {
        self.first.is_empty()
            && self.wakers.is_empty()
            && self.ours.is_empty()
            && self.users.funcs.is_empty()
    }

    /// Wakes all wakers, and returns the rest as work for another thread.
    pub(super) fn wake_and_leave_the_rest(mut self) -> Option<Work> {
        let (ours, mut users) = self.wake();
        if ours.is_empty() {
            let _nobodys = ours.run();
            return (!users.is_empty()).then(|| Work::users(|| users.run()));
        }
        // The contexts that quell's own functions kept are dropped with the user code, which runs
        // after them.
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&kept);
        let work = Work::ours(move || *keeps.lock() = ours.run());
        Some(work.and_then(move || {
            users.kept.append(&mut kept.lock());
            users.run();
        }))
    }

    /// Wakes all wakers, and gives back the rest.
    fn wake(&mut self) -> (Ours, Users) {
        // These come after the ones in `first`.
        let (ours, users) = (std::mem::take(&mut self.ours), std::mem::take(&mut self.users));
        for member in std::mem::take(&mut self.first).into_all() {
            match member {
                Member::Waiter(waker) => rt::wake_now([waker]),
                func => self.add(func),
            }
        }
        self.ours.append(ours);
        self.users.append(users);
        rt::wake_now(self.wakers.drain(..));
        (std::mem::take(&mut self.ours), std::mem::take(&mut self.users))
    }
}

impl Users {
    /// Runs on this thread, unless it is one of quell's own.
    fn tell(self) {
        if !self.is_empty() {
            rt::for_users(move || self.run());
        }
    }

    fn run(self) {
        // Tasks that were woken on this thread must not wait for user code.
        if !self.is_empty() {
            rt::free_woken();
        }
        for cause in self.ended {
            contain_panic(move || super::trace::ended(cause.seen()));
        }
        for func in self.funcs {
            contain_panic(|| drop(func.run()));
        }
        for end in self.late {
            contain_panic(|| drop(end));
        }
        for context in self.kept {
            contain_panic(|| drop(context));
        }
    }

    fn append(&mut self, later: Users) {
        self.ended.extend(later.ended);
        self.funcs.extend(later.funcs);
        self.late.extend(later.late);
        self.kept.extend(later.kept);
    }

    fn is_empty(&self) -> bool {
        let Users { ended, funcs, late, kept } = self;
        ended.is_empty() && funcs.is_empty() && late.is_empty() && kept.is_empty()
    }
}

impl Ours {
    /// Whether there is nothing to run or cancel. (Alarms are only dropped.)
    fn is_empty(&self) -> bool {
        #[cfg(all(feature = "tokio-util", not(loom)))]
        if !self.tokens.is_empty() {
            return false;
        }
        self.funcs.is_empty()
    }

    fn append(&mut self, later: Ours) {
        self.funcs.extend(later.funcs);
        #[cfg(all(feature = "tokio-util", not(loom)))]
        self.tokens.extend(later.tokens);
        self.alarms.extend(later.alarms);
    }

    /// Runs the functions, and gives back the contexts that they have kept alive.
    fn run_funcs(&mut self) -> Vec<Context> {
        let run = self.funcs.drain(..).map(|func| contain_panic(|| func.run()).flatten());
        run.flatten().collect()
    }

    /// The same; then cancels the tokens and drops the alarms.
    fn run(mut self) -> Vec<Context> {
        let kept = self.run_funcs();
        #[cfg(all(feature = "tokio-util", not(loom)))]
        self.tokens.drain(..).for_each(super::token::Root::cancel);
        for alarm in self.alarms {
            contain_panic(move || drop(alarm));
        }
        kept
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Condvar, wait};

    /// What has been told, by any thread.
    #[derive(Clone)]
    struct Told(Arc<(Mutex<Vec<&'static str>>, Condvar)>);

    impl Told {
        fn nothing() -> Self {
            Told(Arc::new((Mutex::new(Vec::new()), Condvar::new())))
        }

        fn tell(&self, what: &'static str) -> impl Fn() + Send + Sync + 'static {
            let told = self.clone();
            move || {
                told.0.0.lock().push(what);
                told.0.1.notify_all();
            }
        }

        fn wait_for(&self, count: usize) -> Vec<&'static str> {
            let mut told = self.0.0.lock();
            while told.len() < count {
                told = wait(&self.0.1, told);
            }
            told.clone()
        }
    }

    struct Value<F: Fn()>(F);

    impl<F: Fn()> Drop for Value<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    /// Has a function of quell's own hold the last handle of a context, with a value whose drop
    /// does this.
    fn keep_value(ctx: &Context, drops: impl Fn() + Send + Sync + 'static) {
        ctx.with_value(Value(drops)).own_func_at_end(|| {});
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn what_goes_with_a_context_goes_after_all_functions_whatever_ends_it() {
        use std::time::Duration;
        for ends in ["a cancel", "a deadline", "a deadline of tokio's"] {
            let runtime = rt::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let entered = (ends == "a deadline of tokio's").then(|| runtime.enter());
            let millis = if ends == "a cancel" { 3_600_000 } else { 50 };
            let (ctx, canceller) =
                Context::background().with_timeout(Duration::from_millis(millis));
            drop(entered);
            let told = Told::nothing();
            keep_value(&ctx, told.tell("the value"));
            ctx.after_func(told.tell("the user's function"));
            ctx.own_func_at_end(told.tell("quell's function"));
            match ends {
                "a cancel" => canceller.cancel(),
                "a deadline" => {}
                _ => runtime.block_on(async {
                    ctx.done().await;
                    rt::sleep(Duration::from_millis(20)).await;
                }),
            }
            let all = told.wait_for(3);
            assert_eq!(all, ["quell's function", "the user's function", "the value"], "{ends}");
        }
    }

    #[test]
    fn values_that_explode_with_the_last_of_their_contexts_are_not_the_cancellers_affair() {
        let (ctx, canceller) = Context::background().with_cancel();
        let told = Told::nothing();
        // If the panic of one went further, that of the other would end the process.
        for which in ["one", "other"] {
            let explodes = told.tell(which);
            keep_value(&ctx, move || {
                explodes();
                panic!("a bomb in a value");
            });
        }
        canceller.cancel();
        assert_eq!(told.wait_for(2), ["one", "other"]);
    }
}
