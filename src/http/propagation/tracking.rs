//! The tracking id, which all requests made on behalf of one have in common.

use super::parse::{self, InvalidHeader};
use ::http::HeaderValue;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

/// An id that accompanies a request through every service that takes part in it.
///
/// It is a value of the request's context, so the code in between need not know of it. A
/// [`PropagationLayer`](crate::http::PropagationLayer) puts it there, a
/// [`Client`](crate::http::Client) sends it on, and code that writes a log asks for it:
///
/// ```
/// use quell::Context;
/// use quell::http::TrackingId;
///
/// fn log(ctx: &Context, message: &str) -> String {
///     match ctx.value::<TrackingId>() {
///         Some(id) => format!("[{id}] {message}"),
///         None => message.to_string(),
///     }
/// }
///
/// let ctx = Context::background().with_value("7e2f".parse::<TrackingId>().unwrap());
/// assert_eq!(log(&ctx, "starting"), "[7e2f] starting");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrackingId(Box<str>);

impl TrackingId {
    /// Creates an id in the form of a random UUID: unlikely to be made twice, but no secret.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "no two are the same")]
    pub fn new() -> Self {
        // Each state has its own random keys.
        let half = || u128::from(RandomState::new().build_hasher().finish());
        let random = (half() << 64) | half();
        // Version 4, variant 1.
        let id = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let digits = format!("{id:032x}");
        let (a, rest) = digits.split_at(8);
        let (b, rest) = rest.split_at(4);
        let (c, rest) = rest.split_at(4);
        let (d, e) = rest.split_at(4);
        TrackingId(format!("{a}-{b}-{c}-{d}-{e}").into())
    }

    /// An id that has already been checked.
    pub(super) fn known(id: &str) -> Self {
        TrackingId(id.into())
    }

    /// Returns the id as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("visible ASCII only")
    }
}

impl FromStr for TrackingId {
    type Err = InvalidHeader;

    /// # Errors
    ///
    /// When it is empty, longer than 128 bytes, or not visible ASCII throughout.
    fn from_str(id: &str) -> Result<Self, InvalidHeader> {
        parse::tracking_id(id.as_bytes()).map(TrackingId::known)
    }
}

impl fmt::Display for TrackingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
