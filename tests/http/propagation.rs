//! What goes from service to service.

use super::rig::{Rig, call, text};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use proptest::prelude::*;
use quell::Context;
use quell::http::parse::{format_grpc_timeout, format_millis, grpc_timeout, millis, tracking_id};
use quell::http::{
    Client, Ctx, InvalidHeader, PropagationLayer, RequestExt, TrackingId, propagate,
};
use std::collections::HashSet;
use std::time::Duration;

/// Answers with the time that is left, in milliseconds, and the tracking id.
fn app() -> Router {
    let handler = |Ctx(ctx): Ctx| async move {
        let left = ctx.remaining().map(|left| left.as_millis());
        format!("{left:?} {}", ctx.value::<TrackingId>().unwrap())
    };
    Router::new().route("/", get(handler)).layer(PropagationLayer::new())
}

async fn ask(headers: &[(&str, &str)]) -> String {
    let mut request = Request::new(Body::empty());
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value);
    }
    let answer = call(&app(), request).await.unwrap();
    assert!(answer.status().is_success(), "garbage is never an error");
    text(answer.into_body()).await
}

#[tokio::test(start_paused = true)]
async fn a_callers_deadline_is_taken_over_from_either_header_and_the_shorter_wins() {
    let id = ("x-guid", "7");
    for (headers, left) in [
        (&[("grpc-timeout", "150m"), id][..], "Some(150)"),
        (&[("x-timeout-ms", "250"), id], "Some(250)"),
        (&[("grpc-timeout", "150m"), ("x-timeout-ms", "250"), id], "Some(150)"),
        (&[("grpc-timeout", "2S"), ("x-timeout-ms", "250"), id], "Some(250)"),
        (&[("x-timeout-ms", "250"), ("x-timeout-ms", "50"), id], "Some(50)"),
        (&[("grpc-timeout", "0n"), id], "Some(0)"),
        (&[("x-timeout-ms", "18446744073709551615"), id], "Some(18446744073709551615)"),
        (&[id], "None"),
    ] {
        assert_eq!(ask(headers).await, format!("{left} 7"), "{headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_counts_as_if_it_were_not_there() {
    for garbage in ["", "m", "150", "150x", "-5m", "+5m", "1.5S", "5 m", " 5m", "123456789m", "ñm"]
    {
        let said = ask(&[("grpc-timeout", garbage), ("x-guid", "7")]).await;
        assert_eq!(said, "None 7", "{garbage:?}");
        let said = ask(&[("grpc-timeout", garbage), ("x-timeout-ms", "20"), ("x-guid", "7")]).await;
        assert_eq!(said, "Some(20) 7", "{garbage:?}");
    }
    for garbage in ["", "m", "1e3", "-5", "0x10", "18446744073709551616", "5,5", "٣"] {
        let said = ask(&[("x-timeout-ms", garbage), ("x-guid", "7")]).await;
        assert_eq!(said, "None 7", "{garbage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_shortens_a_limit_and_never_extends_it() {
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(100));
    for (said, left) in [("50", "Some(50)"), ("500", "Some(100)")] {
        let mut request = Request::new(Body::empty());
        request.headers_mut().insert("x-timeout-ms", said.parse().unwrap());
        let request = quell::http::RequestExt::with_context(request, &ctx);
        let answer = call(&app(), request).await.unwrap();
        assert!(text(answer.into_body()).await.starts_with(left));
    }
}

#[tokio::test]
async fn a_tracking_id_is_taken_over_or_made_and_one_that_would_spoil_a_log_is_not() {
    assert_eq!(ask(&[("X-GUID", "order-66")]).await, "None order-66");
    let mut made = HashSet::new();
    let long = "x".repeat(129);
    for bad in [&[][..], &[("x-guid", "")], &[("x-guid", "a b")], &[("x-guid", long.as_str())]] {
        for _ in 0..100 {
            let said = ask(bad).await;
            let id = said.strip_prefix("None ").unwrap().to_string();
            let groups: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
            assert!(id.chars().all(|c| matches!(c, '-' | '0'..='9' | 'a'..='f')), "{id}");
            assert_eq!(&id[14..15], "4", "{id}");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
            assert!(made.insert(id), "made twice");
        }
    }
}

#[tokio::test]
async fn a_client_sends_what_is_left_and_the_id_and_a_server_reads_both() {
    let rig = Rig::new(app()).await;
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_secs(3600));
    let ctx = ctx.with_value("order-66".parse::<TrackingId>().unwrap());
    let answer = Client::new().get(&ctx, rig.url("/")).await.unwrap();
    let said = answer.into_body().text(1000).await.unwrap();
    let (left, id) = said.split_once(' ').unwrap();
    assert_eq!(id, "order-66");
    let left: u64 = left.strip_prefix("Some(").unwrap().strip_suffix(')').unwrap().parse().unwrap();
    assert!((3_000_000..3_600_000).contains(&left), "{left}");
    rig.end().await;
}

#[tokio::test]
async fn another_header_may_carry_the_id() {
    let name = HeaderName::from_static("x-request-id");
    let handler = |Ctx(ctx): Ctx| async move { ctx.value::<TrackingId>().unwrap().to_string() };
    let layer = PropagationLayer::default().tracking_header(name.clone());
    let rig = Rig::new(Router::new().route("/", get(handler)).layer(layer)).await;
    let ctx = Context::background().with_value("42".parse::<TrackingId>().unwrap());
    let client = Client::new().tracking_header(name);
    let answer = client.get(&ctx, rig.url("/")).await.unwrap();
    assert_eq!(answer.into_body().text(1000).await.unwrap(), "42");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_context_does_not_have_is_left_as_it_is_and_what_it_has_replaces() {
    let mut headers = HeaderMap::new();
    headers.insert("x-guid", HeaderValue::from_static("older"));
    headers.insert("grpc-timeout", HeaderValue::from_static("1H"));
    propagate(&Context::background(), &mut headers);
    assert_eq!(
        (&headers["x-guid"], &headers["grpc-timeout"]),
        (&"older".parse().unwrap(), &"1H".parse().unwrap())
    );
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(1500));
    propagate(&ctx.with_value("newer".parse::<TrackingId>().unwrap()), &mut headers);
    assert_eq!(headers.get_all("grpc-timeout").iter().collect::<Vec<_>>(), ["1500000u"]);
    assert_eq!(headers["x-timeout-ms"], "1500");
    assert_eq!(headers["x-guid"], "newer");
}

#[test]
fn each_unit_is_read_and_each_mistake_is_named() {
    let nanos = |value: &str| grpc_timeout(value.as_bytes()).map(|limit| limit.as_nanos());
    assert_eq!(nanos("1n"), Ok(1));
    assert_eq!(nanos("2u"), Ok(2_000));
    assert_eq!(nanos("3m"), Ok(3_000_000));
    assert_eq!(nanos("4S"), Ok(4_000_000_000));
    assert_eq!(nanos("5M"), Ok(300_000_000_000));
    assert_eq!(nanos("6H"), Ok(21_600_000_000_000));
    assert_eq!(nanos("00000001n"), Ok(1));
    assert_eq!(nanos("99999999H"), Ok(359_999_996_400_000_000_000));
    assert_eq!(nanos(""), Err(InvalidHeader::Empty));
    assert_eq!(nanos("S"), Err(InvalidHeader::Empty));
    assert_eq!(nanos("1h"), Err(InvalidHeader::NoUnit));
    assert_eq!(nanos("000000001n"), Err(InvalidHeader::TooLong));
    assert_eq!(nanos("1 S"), Err(InvalidHeader::NotANumber));
    assert_eq!(millis(b"18446744073709551616"), Err(InvalidHeader::TooLong));
    assert_eq!("a\tb".parse::<TrackingId>(), Err(InvalidHeader::NotVisible));
    assert_eq!("é".parse::<TrackingId>(), Err(InvalidHeader::NotVisible));
    assert_eq!("abc".parse::<TrackingId>().unwrap().as_str(), "abc");
    for error in [
        InvalidHeader::Empty,
        InvalidHeader::NotANumber,
        InvalidHeader::TooLong,
        InvalidHeader::NoUnit,
        InvalidHeader::NotVisible,
    ] {
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn no_time_at_all_is_written_as_the_least_there_is_and_never_as_no_limit() {
    assert_eq!(format_grpc_timeout(Duration::ZERO), "1n");
    assert_eq!(format_grpc_timeout(Duration::MAX), "99999999H");
}

fn durations() -> impl Strategy<Value = Duration> {
    // As many small ones as large ones.
    (0_u32..64, any::<u64>(), 0_u32..1_000_000_000)
        .prop_map(|(bits, secs, nanos)| Duration::new(secs >> bits, nanos))
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic_and_what_it_takes_is_what_the_syntax_allows(bytes: Vec<u8>) {
        if grpc_timeout(&bytes).is_ok() {
            let (unit, digits) = bytes.split_last().unwrap();
            prop_assert!(b"HMSmun".contains(unit));
            prop_assert!((1..=8).contains(&digits.len()));
            prop_assert!(digits.iter().all(u8::is_ascii_digit));
        }
        if let Ok(limit) = millis(&bytes) {
            let number: u64 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
            prop_assert_eq!(limit, Duration::from_millis(number));
        }
        if let Ok(id) = tracking_id(&bytes) {
            prop_assert_eq!(id.as_bytes(), &bytes[..]);
            prop_assert!(HeaderValue::from_str(id).is_ok());
        }
    }

    #[test]
    fn every_value_of_the_syntax_is_taken_for_what_it_says(
        number in 0_u64..100_000_000,
        width in 1_usize..=8,
        unit in 0_usize..6,
    ) {
        let (letter, size) = [
            ("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000),
            ("M", 60_000_000_000), ("H", 3_600_000_000_000_u128),
        ][unit];
        let value = format!("{number:0width$}{letter}");
        let limit = grpc_timeout(value.as_bytes()).unwrap();
        prop_assert_eq!(limit.as_nanos(), u128::from(number) * size);
    }

    #[test]
    fn what_is_written_is_read_again_never_longer_and_hardly_shorter(left in durations()) {
        let written = format_grpc_timeout(left);
        let read = grpc_timeout(written.as_bytes()).unwrap();
        prop_assert!(read <= left.max(Duration::from_nanos(1)), "{left:?} {written}");
        prop_assert!(!read.is_zero());
        // What does not fit into eight digits of one unit has at least five in the next.
        let most = Duration::from_secs(99_999_999 * 3600);
        if left > Duration::ZERO && left < most {
            let off = (left - read).as_nanos();
            prop_assert!(off * 99_999 <= left.as_nanos(), "{left:?} {written}");
        }
        if left.as_millis() < u128::from(u64::MAX) {
            let read = millis(format_millis(left).as_bytes()).unwrap();
            prop_assert!(read >= left);
            prop_assert!(read - left < Duration::from_millis(1));
        }
    }
}

/// The warnings of the `tracing` feature.
#[cfg(feature = "tracing")]
mod warnings {
    use super::ask;
    use std::fmt::Write;
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "quell" && *metadata.level() == Level::WARN
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            struct Fields(String);
            impl Visit for Fields {
                fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                    write!(self.0, "{field}={value:?}; ").unwrap();
                }
            }
            let mut fields = Fields(String::new());
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[tokio::test]
    async fn garbage_is_reported_by_the_name_of_its_header_and_not_by_its_value() {
        let lines = Lines::default();
        let default = tracing::subscriber::set_default(lines.clone());
        ask(&[("grpc-timeout", "secret5"), ("x-timeout-ms", "-7"), ("x-guid", "a b")]).await;
        ask(&[("grpc-timeout", "5m"), ("x-timeout-ms", "7"), ("x-guid", "ab")]).await;
        drop(default);
        let lines = lines.0.lock().unwrap();
        assert_eq!(lines.len(), 3, "{lines:?}");
        for (line, header) in lines.iter().zip(["x-guid", "grpc-timeout", "x-timeout-ms"]) {
            assert!(line.contains("header ignored"), "{line}");
            assert!(line.contains(&format!("header={header:?}")), "{line}");
            assert!(!line.contains("secret") && !line.contains("-7"), "{line}");
        }
    }
}

#[tokio::test]
async fn an_id_that_is_there_already_stays_where_the_caller_has_none() {
    use axum::middleware::{Next, from_fn};
    let inside = |Ctx(ctx): Ctx| async move { ctx.value::<TrackingId>().unwrap().to_string() };
    let outside = |request: axum::extract::Request, next: Next| async move {
        let ctx = request.context().with_value("of-the-outer".parse::<TrackingId>().unwrap());
        next.run(request.with_context(&ctx)).await
    };
    let app = Router::new()
        .route("/", get(inside))
        .layer(PropagationLayer::new())
        .layer(from_fn(outside));
    let rig = Rig::new(app).await;
    for (ids, seen) in [(&[][..], "of-the-outer"), (&[("x-guid", "the-callers")], "the-callers")] {
        let mut request = Request::get(rig.url("/"));
        for (name, id) in ids {
            request = request.header(*name, *id);
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = Client::new().send(&Context::background(), request).await.unwrap();
        assert_eq!(answer.into_body().text(100).await.unwrap(), seen);
    }
    rig.end().await;
}
