//! Connections, which workers take turns to use.
//!
//! A worker takes the seat that was left last, sends over its connection, and leaves the seat to
//! the next worker. So there are no more connections than concurrent requests.
//!
//! # Invariants
//!
//! 1. The lock is held for a push or a pop, never while anything is awaited or
//!    dropped.
//! 2. A seat comes back only when its connection has no request under way: if its worker is
//!    dropped, the seat is dropped too, and closes the connection.

use super::connect::Stream;
use super::h1::{self, Answer, Progress};
use super::h2;
use super::job::Job;
use super::{ErrorKind, Hit};
use crate::rt;
use crate::sync::Mutex;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll};
use std::time::Instant;

/// All free seats, and what is sent from them.
pub(super) struct Seats {
    job: Job,
    free: Mutex<Vec<Seat>>,
}

impl Seats {
    pub(super) fn new(job: Job) -> Seats {
        Seats { job, free: Mutex::new(Vec::new()) }
    }

    /// Sends one request, and measures it from `began` on.
    pub(super) async fn send(&self, began: Instant) -> Hit {
        let seat = self.free.lock().pop();
        let mut seat = seat.unwrap_or_default();
        let until = self.job.timeout.and_then(|timeout| rt::now().checked_add(timeout));
        let answer = match until {
            None => seat.connection.send(&self.job).await,
            Some(until) => {
                let sending = pin!(seat.connection.send(&self.job));
                let in_time = seat.timer.within(until, sending).await;
                in_time.unwrap_or(Err(ErrorKind::Timeout))
            }
        };
        let took = rt::now().saturating_duration_since(began);
        if answer.is_err() {
            seat.connection = Connection::None;
        }
        // Invariant 1: a vector that grows drops none of its elements.
        self.free.lock().push(seat);
        match answer {
            Ok(answer) => Hit::answered(answer.status, answer.bytes, took),
            Err(kind) => Hit::failed(kind, took),
        }
    }
}

#[derive(Default)]
struct Seat {
    connection: Connection,
    timer: Timer,
}

#[derive(Default)]
enum Connection {
    #[default]
    None,
    One(Box<h1::Connection<Stream>>),
    Two(Box<h2::Connection>),
}

impl Connection {
    async fn send(&mut self, job: &Job) -> Result<Answer, ErrorKind> {
        let mut kept = true;
        loop {
            if !self.is_open() {
                // Close first: as many connections as workers, and not one more.
                *self = Connection::None;
                *self = Connection::open(job).await?;
                kept = false;
            }
            let answer = match self {
                Connection::One(one) => one.exchange(&job.wire, job.head_only).await,
                Connection::Two(two) => two.exchange(job).await,
                Connection::None => unreachable!("one that is open is one"),
            };
            if !answer.is_ok_and(|answer| answer.keep && job.keepalive) {
                *self = Connection::None;
            }
            let failure = match answer {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            // The server may close a kept connection while the request is on its way.
            let closed = matches!(failure.kind, ErrorKind::Closed | ErrorKind::Reset);
            let again = match failure.taken {
                Progress::No => true,
                Progress::Perhaps => job.idempotent,
                Progress::Yes => false,
            };
            if !(kept && closed && again) {
                return Err(failure.kind);
            }
        }
    }

    /// Whether it can take a request, as far as is known here.
    fn is_open(&mut self) -> bool {
        match self {
            Connection::None => false,
            Connection::One(one) => one.is_open(),
            Connection::Two(two) => two.is_open(),
        }
    }

    async fn open(job: &Job) -> Result<Connection, ErrorKind> {
        let stream = job.target.connect().await?;
        if job.parts.is_some() {
            return Ok(Connection::Two(Box::new(h2::Connection::open(stream).await?)));
        }
        Ok(Connection::One(Box::new(h1::Connection::new(stream))))
    }
}

/// A timer that is set again only when it rings: for requests that are answered in time, which is
/// nearly all, no timer is set.
#[derive(Default)]
struct Timer(Option<Pin<Box<rt::Sleep>>>);

impl Timer {
    /// Returns `None` if the time was up first.
    ///
    /// The time is checked first, so that a future that is always ready cannot run past it.
    async fn within<F: Future>(
        &mut self,
        until: Instant,
        future: Pin<&mut F>,
    ) -> Option<F::Output> {
        let sleep = match &mut self.0 {
            Some(sleep) if sleep.until().is_some_and(|at| at <= until) => sleep,
            other => other.insert(Box::pin(rt::sleep_until(until))),
        };
        let mut future = future;
        poll_fn(|task: &mut Task<'_>| {
            while sleep.as_mut().poll(task).is_ready() {
                if rt::now() >= until {
                    return Poll::Ready(None);
                }
                sleep.set(rt::sleep_until(until));
            }
            future.as_mut().poll(task).map(Some)
        })
        .await
    }
}
