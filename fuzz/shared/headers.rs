//! Reads bytes as each of the headers that a request may carry, and writes again what could be
//! read: a peer must never be given more time than there was.

use quell::http::parse;
use std::time::Duration;

pub(crate) fn run(bytes: &[u8]) {
    if let Ok(left) = parse::grpc_timeout(bytes) {
        let again = parse::format_grpc_timeout(left);
        let read = parse::grpc_timeout(again.as_bytes()).expect("what was written can be read");
        // Zero is never written, because some servers take it for no limit.
        assert!(read <= left.max(Duration::from_nanos(1)), "{again:?} is more than {left:?}");
        assert!(!read.is_zero(), "{again:?}");
    }
    if let Ok(left) = parse::millis(bytes) {
        let again = parse::format_millis(left);
        let read = parse::millis(again.as_bytes()).expect("what was written can be read");
        assert!(read <= left, "{again:?} is more than {left:?}");
    }
    if let Ok(id) = parse::tracking_id(bytes) {
        assert_eq!(id.as_bytes(), bytes, "an id is taken over as it is");
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()), "{id:?}");
    }
}
