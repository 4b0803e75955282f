//! The pipeline: `n` requests, at a rate, a limited number at once.

use super::job::Job;
use super::quota::{Quota, Share};
use super::results::{Departures, Results};
use super::seats::Seats;
use super::timetable::{Timetable, UnderWay};
use super::{Error, ErrorKind, Hit, Options};
use crate::context::Context;
use crate::pipeline::{OnCancel, Pipeline, Rate};
use crate::rt;
use crate::sync::Arc;
use ::http::Request;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Results wait for their reader for as long as it likes: when the context ends, requests end by
/// themselves, and what was measured is drained.
const GRACE: Duration = Duration::MAX;

/// Sends a request `n` times, and returns what was measured of each, as responses come back.
///
/// Nothing is sent before the results are first polled. Dropping them ends everything: the requests
/// that are under way, and the connections. When `ctx` ends, no more are sent, those under way end
/// as [`ErrorKind::Stopped`], and every result so far can still be read.
///
/// ```
/// use http::Request;
/// use quell::Context;
/// use quell::hit::{Options, send_n};
///
/// let request = Request::get("http://localhost/").body("").unwrap();
/// let none = send_n(&Context::background(), 0, request, Options::new());
/// assert_eq!(none.unwrap_err().to_string(), "n must be positive: got 0");
/// ```
///
/// # Errors
///
/// When `n`, the concurrency or the rate is zero, when latency is to be corrected without a rate,
/// when the request or its URL is not valid, and when `https` lacks the feature `tls` or
/// certificates to trust. The failure of one request is no error: its [`Hit`] has it.
#[track_caller]
pub fn send_n<B: Into<Bytes>>(
    ctx: &Context,
    n: usize,
    request: Request<B>,
    options: Options,
) -> Result<Results, Error> {
    send_shared(ctx, &Quota::new(n), request, options)
}

/// [`send_n`] for several senders that send `n` together, each as fast as it can: pipelines on
/// threads of their own, say.
///
/// A request is taken from the quota by the worker that sends it. So a sender whose server stands
/// still leaves the rest to the others.
///
/// ```
/// use http::Request;
/// use quell::Context;
/// use quell::hit::{Options, Quota, send_shared};
///
/// # fn main() -> Result<(), quell::hit::Error> {
/// let (ctx, quota) = (Context::background(), Quota::new(1000));
/// let request = Request::get("http://localhost/").body("").unwrap();
/// let one = send_shared(&ctx, &quota, request.clone(), Options::new().concurrency(8))?;
/// let two = send_shared(&ctx, &quota, request, Options::new().concurrency(8))?;
/// assert_eq!(quota.left(), 1000); // until they are polled
/// # drop((one, two));
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// As for [`send_n`], where `n` is what is left now.
#[track_caller]
pub fn send_shared<B: Into<Bytes>>(
    ctx: &Context,
    quota: &Quota,
    request: Request<B>,
    options: Options,
) -> Result<Results, Error> {
    options.check(quota.left())?;
    let job = Job::new(request.map(Into::into), &options)?;
    let seats = Arc::new(Seats::new(job));
    run(ctx, quota, options, move |_ctx, began| {
        let seats = Arc::clone(&seats);
        async move { seats.send(began).await }
    })
}

/// [`send_n`] with your own way of sending: another protocol, or none at all.
///
/// The closure gets the pipeline's context and the instant from which the request counts: now or,
/// with [`latency_correction`](Options::latency_correction), earlier by its wait for a worker. Its
/// future returns what it measured, and is dropped where it awaits when `ctx` ends.
///
/// ```
/// use quell::Context;
/// use quell::hit::{Hit, Options, send_n_with};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let send = |_ctx, _began| async { Hit::answered(200, 10, Duration::from_millis(100)) };
/// let mut results =
///     send_n_with(&Context::background(), 3, Options::new(), send).expect("three is enough");
/// while let Some(hit) = results.next().await {
///     println!("{hit}"); // 200, 10 bytes in 100ms
/// }
/// # }
/// ```
///
/// # Errors
///
/// When `n`, the concurrency or the rate is zero, and for latency correction without a rate.
#[track_caller]
pub fn send_n_with<F, Fut>(
    ctx: &Context,
    n: usize,
    options: Options,
    send: F,
) -> Result<Results, Error>
where
    F: Fn(Context, Instant) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Hit> + Send + 'static,
{
    options.check(n)?;
    run(ctx, &Quota::new(n), options, send)
}

/// Builds the pipeline and runs it.
#[track_caller]
fn run<F, Fut>(ctx: &Context, quota: &Quota, options: Options, send: F) -> Result<Results, Error>
where
    F: Fn(Context, Instant) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Hit> + Send + 'static,
{
    let departures = Departures::new();
    let (n, corrected) = (quota.left(), options.latency_correction);
    let workers = options.concurrency.min(n);
    let timetable = Arc::new(Timetable::new(workers));
    let share = Share::of(quota);
    let same = share.clone();
    let tickets = tickets(n, options.rps, corrected).take_while(move |_| !same.is_over());
    let mut requests = Pipeline::from_iter(ctx, tickets);
    if let Some(rps) = options.rps {
        // With the correction, the rate does not depend on the server: what could not be sent in
        // time is made up for. Without it, it is not. At most a few milliseconds' worth waits
        // behind the throttle.
        let burst = if corrected { u32::MAX } else { 1 };
        let ahead = (rps / 128).clamp(1, 64) as usize;
        requests = requests.throttle(Rate::per_second(rps).burst(burst)).buffer(ahead);
    }
    let (outer, departed) = (ctx.clone(), departures.clone());
    let hits = requests.dispatch(workers, move |inner, due: Option<Instant>| {
        // A request that was still on its way to a worker when the context ended is not sent, nor
        // is one that others have sent meanwhile.
        let sending = (!outer.is_done() && share.take()).then(|| {
            departed.one_more();
            let under_way = due.map(|due| timetable.begin(due));
            let began = under_way.as_ref().map_or_else(rt::now, UnderWay::began);
            (began, under_way, outer.run(send(inner, began)))
        });
        async move {
            let (began, _ride, sending) = sending?;
            let stopped = |_| Hit::failed(ErrorKind::Stopped, rt::now() - began);
            Some(sending.await.unwrap_or_else(stopped))
        }
    });
    let hits = hits.on_cancel(OnCancel::Drain { grace: GRACE }).run();
    Ok(Results::new(ctx, hits, departures))
}

/// One ticket for each request; with the correction, it says when that is due.
fn tickets(
    n: usize,
    rps: Option<u32>,
    corrected: bool,
) -> impl Iterator<Item = Option<Instant>> + Send {
    let mut began = None;
    (0..n).map(move |k| {
        let rps = rps.filter(|_| corrected)?;
        let began = *began.get_or_insert_with(rt::now);
        let seconds = (k / rps as usize) as u64;
        let rest = (k % rps as usize) as u64 * 1_000_000_000 / u64::from(rps);
        began.checked_add(Duration::new(seconds, rest as u32))
    })
}
