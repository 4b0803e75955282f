//! From headers to a context's limit, and back.

use super::TrackingId;
use super::parse::{self, InvalidHeader};
use crate::context::Context;
use crate::http::trace;
use ::http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// How long the caller waits, as gRPC writes it: one to eight digits and one of
/// `H M S m u n`, such as `150m` for 150 ms.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long the caller waits, in milliseconds.
pub const TIMEOUT_MILLIS: HeaderName = HeaderName::from_static("x-timeout-ms");

/// The header of the [`TrackingId`], unless another is set: `X-GUID`.
pub const TRACKING_ID: HeaderName = HeaderName::from_static("x-guid");

/// Writes what the called service should know of `ctx`: the time left until its deadline, and its
/// [`TrackingId`]. A header for which `ctx` has no value is left as it is.
///
/// [`Client`](crate::http::Client) does this by itself. For any other client:
///
/// ```
/// use http::HeaderMap;
/// use quell::Context;
/// use quell::http::propagate;
/// use std::time::Duration;
///
/// let (ctx, _canceller) = Context::background().with_timeout(Duration::from_secs(2));
/// let mut headers = HeaderMap::new();
/// propagate(&ctx, &mut headers);
/// assert_eq!(headers["x-timeout-ms"], "2000");
/// ```
pub fn propagate(ctx: &Context, headers: &mut HeaderMap) {
    propagate_as(ctx, headers, &TRACKING_ID);
}

pub(in crate::http) fn propagate_as(ctx: &Context, headers: &mut HeaderMap, id: &HeaderName) {
    if let Some(left) = ctx.remaining() {
        for (name, value) in [
            (GRPC_TIMEOUT, parse::format_grpc_timeout(left)),
            (TIMEOUT_MILLIS, parse::format_millis(left)),
        ] {
            let value = HeaderValue::try_from(value).expect("digits, and a letter perhaps");
            headers.insert(name, value);
        }
    }
    if let Some(tracking) = ctx.value::<TrackingId>() {
        headers.insert(id, tracking.to_header());
    }
}

/// How long the caller waits: the shortest time in any of its headers. A value that cannot be read
/// is reported and otherwise ignored.
pub(super) fn peers_limit(headers: &HeaderMap) -> Option<Duration> {
    type Parse = fn(&[u8]) -> Result<Duration, InvalidHeader>;
    let kinds: [(HeaderName, Parse); 2] =
        [(GRPC_TIMEOUT, parse::grpc_timeout), (TIMEOUT_MILLIS, parse::millis)];
    let mut shortest = None;
    for (name, parse) in kinds {
        for value in headers.get_all(&name) {
            match parse(value.as_bytes()) {
                Ok(limit) => shortest = Some(shortest.map_or(limit, |least| limit.min(least))),
                Err(why) => trace::ignored(name.as_str(), &why),
            }
        }
    }
    shortest
}

/// The caller's tracking id, if it sent a valid one.
pub(super) fn peers_id(headers: &HeaderMap, name: &HeaderName) -> Option<TrackingId> {
    let value = headers.get(name)?;
    match parse::tracking_id(value.as_bytes()) {
        Ok(id) => Some(TrackingId::known(id)),
        Err(why) => {
            trace::ignored(name.as_str(), &why);
            None
        }
    }
}
