//! The load generator as a library: real servers, the ones that misbehave too.

#![cfg(all(feature = "http", not(loom)))]

use bytes::Bytes;
use http::Request;
use quell::hit::{ErrorKind, Hit, Options, Results, Summary, send_n, send_n_with};
use quell::{Context, Outcome};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// How long anything may take before a test has failed.
const LONG: Duration = Duration::from_secs(60);

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// A server that takes connections and does with each what it is told, and how
/// many it has taken.
async fn server<F, Fut>(talk: F) -> (String, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let counts = taken.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counts.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(talk(stream));
        }
    });
    (url, taken)
}

/// The next request's head and body; `None` when there is none.
async fn heard(stream: &mut TcpStream) -> Option<String> {
    let mut heard = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&heard).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        match stream.read(&mut chunk).await {
            Ok(more @ 1..) => heard.extend_from_slice(&chunk[..more]),
            _ => return None,
        }
    }
}

/// Answers every request with this.
async fn answering(answer: &'static str) -> (String, Arc<AtomicUsize>) {
    server(move |mut stream| async move {
        while heard(&mut stream).await.is_some() {
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

fn get(url: &str) -> Request<&'static str> {
    Request::get(url).body("").unwrap()
}

fn send(n: usize, url: &str, options: Options) -> Results {
    send_n(&Context::background(), n, get(url), options).unwrap()
}

async fn all(mut results: Results) -> Vec<Hit> {
    let reading = async {
        let mut hits = Vec::new();
        while let Some(hit) = results.next().await {
            hits.push(hit);
        }
        hits
    };
    tokio::time::timeout(LONG, reading).await.expect("the results to end")
}

/// What all of them failed of.
async fn errors(n: usize, url: &str, options: Options) -> Vec<ErrorKind> {
    let hits = all(send(n, url, options)).await;
    assert_eq!(hits.len(), n);
    let kinds: HashSet<_> = hits.iter().map(|hit| hit.error().expect("no response")).collect();
    kinds.into_iter().collect()
}

/// Waits for the thing itself.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

// -------------------------------------------------------------------- sending

#[tokio::test]
async fn n_requests_get_n_results_over_no_more_connections_than_workers() {
    let (url, connections) = answering(OK).await;
    let hits = all(send(500, &url, Options::new().concurrency(7))).await;
    assert_eq!(hits.len(), 500);
    assert!(hits.iter().all(|hit| hit.status() == Some(200) && hit.bytes() == 5), "{hits:?}");
    assert!(hits.iter().all(|hit| hit.is_success() && !hit.duration().is_zero()));
    let connections = connections.load(Ordering::SeqCst);
    assert!((1..=7).contains(&connections), "{connections} connections");
}

#[tokio::test]
async fn without_keepalive_every_request_has_a_connection_of_its_own() {
    let (said, mut says) = mpsc::unbounded_channel();
    let (url, connections) = server(move |mut stream| {
        let said = said.clone();
        async move {
            while let Some(request) = heard(&mut stream).await {
                said.send(request).unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let hits = all(send(20, &url, Options::new().concurrency(4).keepalive(false))).await;
    assert!(hits.iter().all(Hit::is_success), "{hits:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 20);
    assert!(says.recv().await.unwrap().contains("\r\nconnection: close\r\n"));
}

#[tokio::test]
async fn a_request_arrives_as_it_was_made() {
    let (said, mut says) = mpsc::unbounded_channel();
    let (url, _) = server(move |mut stream| {
        let said = said.clone();
        async move {
            while let Some(request) = heard(&mut stream).await {
                said.send(request).unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let request = Request::put(format!("{url}a/b?c=d")).header("X-One", "1").body("a body");
    let results = send_n(&Context::background(), 2, request.unwrap(), Options::new()).unwrap();
    assert_eq!(all(results).await.len(), 2);
    for _ in 0..2 {
        let heard = says.recv().await.unwrap();
        assert!(heard.starts_with("PUT /a/b?c=d HTTP/1.1\r\nhost: 127.0.0.1:"), "{heard}");
        assert!(heard.contains("\r\nx-one: 1\r\n"), "{heard}");
        assert!(
            heard.ends_with("\r\ncontent-length: 6\r\naccept: */*\r\n\r\na body") || {
                heard.contains("\r\ncontent-length: 6\r\n") && heard.ends_with("\r\n\r\na body")
            }
        );
    }
}

#[tokio::test]
async fn every_way_to_end_a_body_is_understood() {
    let answers = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, 0),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, 0),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", 304, 0),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 200, 2),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
            200,
            4,
        ),
    ];
    for (answer, status, bytes) in answers {
        let (url, connections) = answering(answer).await;
        let hits = all(send(3, &url, Options::new().concurrency(1))).await;
        assert_eq!(hits.len(), 3);
        for hit in hits {
            assert_eq!((hit.status(), hit.bytes()), (Some(status), bytes), "{answer}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_gone_is_an_answer() {
    let (url, connections) = server(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    // More than fits into the buffers between the two.
    let request = Request::post(&url).body(vec![b'x'; 32 << 20]).unwrap();
    let options = Options::new().concurrency(1);
    let hits = all(send_n(&Context::background(), 2, request, options).unwrap()).await;
    assert!(hits.iter().all(|hit| hit.status() == Some(413)), "{hits:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 2, "the rest of a request is no request");
}

#[tokio::test]
async fn a_body_may_end_with_its_connection() {
    let (url, connections) = server(|mut stream| async move {
        heard(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nto the end").await.unwrap();
    })
    .await;
    let hits = all(send(3, &url, Options::new().concurrency(1))).await;
    assert!(hits.iter().all(|hit| (hit.status(), hit.bytes()) == (Some(200), 10)), "{hits:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_response_to_head_has_no_body_whatever_it_says() {
    let (url, connections) = answering("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n").await;
    let request = Request::head(&url).body("").unwrap();
    let options = Options::new().concurrency(1);
    let hits = all(send_n(&Context::background(), 2, request, options).unwrap()).await;
    assert!(hits.iter().all(|hit| (hit.status(), hit.bytes()) == (Some(200), 0)), "{hits:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_closes_kept_connections_costs_no_request() {
    // Two requests for each connection, and no word of it.
    let (url, connections) = server(|mut stream| async move {
        for _ in 0..2 {
            if heard(&mut stream).await.is_some() {
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let hits = all(send(40, &url, Options::new().concurrency(4))).await;
    assert!(hits.iter().all(Hit::is_success), "{hits:?}");
    assert!(connections.load(Ordering::SeqCst) >= 20);
}

#[tokio::test]
async fn http2_sends_over_one_connection_for_each_worker() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (url, connections) = server(|stream| async move {
        let service = hyper::service::service_fn(|request: hyper::Request<_>| async move {
            assert_eq!(request.version(), http::Version::HTTP_2);
            let _: &hyper::body::Incoming = request.body();
            Ok::<_, std::convert::Infallible>(hyper::Response::new("hello".to_string()))
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    let hits = all(send(100, &url, Options::new().concurrency(3).http2(true))).await;
    assert_eq!(hits.len(), 100);
    assert!(hits.iter().all(|hit| (hit.status(), hit.bytes()) == (Some(200), 5)), "{hits:?}");
    assert!(connections.load(Ordering::SeqCst) <= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_leave_of_http2_connections_costs_no_request() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    // After two requests it says that it takes no more.
    let (url, connections) = server(|stream| async move {
        let (seen, enough) = (AtomicUsize::new(0), tokio::sync::Notify::new());
        let service = hyper::service::service_fn(|_: hyper::Request<hyper::body::Incoming>| {
            if seen.fetch_add(1, Ordering::SeqCst) == 1 {
                enough.notify_one();
            }
            async { Ok::<_, std::convert::Infallible>(hyper::Response::new("hello".to_string())) }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = &mut serving => return,
            () = enough.notified() => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    })
    .await;
    let hits = all(send(200, &url, Options::new().concurrency(4).http2(true))).await;
    let failed = hits.iter().filter(|hit| !hit.is_success()).count();
    assert_eq!(failed, 0, "{hits:?}");
    assert!(connections.load(Ordering::SeqCst) > 4);
}

/// Of HTTP/2: what kind, which flags and stream, and what it holds.
fn frame(kind: u8, flags: u8, stream: u32, holds: &[u8]) -> Vec<u8> {
    let length = (holds.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), holds].concat()
}

#[tokio::test]
async fn a_request_that_http2_has_not_taken_is_sent_again_over_another_connection() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let refused = frame(3, 0, 3, &[0, 0, 0, 7]);
    let goodbye = frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    for to_the_second in [refused, goodbye] {
        let (url, connections) = server(move |mut stream| {
            let to_the_second = to_the_second.clone();
            async move {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                let mut head = [0; 9];
                while stream.read_exact(&mut head).await.is_ok() {
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                    let mut holds = vec![0; length as usize];
                    stream.read_exact(&mut holds).await.unwrap();
                    let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let answer = match (head[3], number) {
                        // A status of 200, and no body.
                        (HEADERS, 1) => frame(HEADERS, 5, 1, &[0x88]),
                        (HEADERS, _) => to_the_second.clone(),
                        (SETTINGS, _) if head[4] == 0 => frame(SETTINGS, 1, 0, &[]),
                        _ => continue,
                    };
                    stream.write_all(&answer).await.unwrap();
                }
            }
        })
        .await;
        let hits = all(send(3, &url, Options::new().concurrency(1).http2(true))).await;
        assert!(hits.iter().all(|hit| hit.status() == Some(200)), "{hits:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test]
async fn http2_tells_a_stream_that_is_reset_from_a_connection_that_is_closed_or_speaks_otherwise() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let http2 = || Options::new().concurrency(2).http2(true);
    let (url, _) = server(|stream| async move {
        let service =
            hyper::service::service_fn(|_: hyper::Request<hyper::body::Incoming>| async {
                Err::<hyper::Response<String>, _>(std::io::Error::other("not today"))
            });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    assert_eq!(errors(5, &url, http2()).await, [ErrorKind::Reset]);
    let (url, _) = server(|stream| async move { drop(stream) }).await;
    let found = errors(5, &url, http2()).await;
    assert!(
        found.iter().all(|kind| [ErrorKind::Closed, ErrorKind::Reset].contains(kind)),
        "{found:?}"
    );
    let (url, _) = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 What\r\n\r\n").await;
        let mut rest = [0; 1024];
        while let Ok(1..) = stream.read(&mut rest).await {}
    })
    .await;
    assert_eq!(errors(5, &url, http2()).await, [ErrorKind::Protocol]);
}

// ----------------------------------------------------------- servers that fail

#[tokio::test]
async fn a_server_that_refuses_is_refused_n_times() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(errors(10, &url, Options::new()).await, [ErrorKind::Refused]);
    assert_eq!(errors(3, &url, Options::new().http2(true)).await, [ErrorKind::Refused]);
}

#[tokio::test]
async fn a_host_without_an_address_is_an_error_of_each_request() {
    let found = errors(2, "http://nowhere.invalid/", Options::new()).await;
    assert_eq!(found, [ErrorKind::Resolve]);
}

#[tokio::test]
async fn a_server_that_hangs_is_given_its_time_and_no_more() {
    let (url, _) = server(|mut stream| async move {
        heard(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let time = Duration::from_millis(50);
    for options in [Options::new(), Options::new().http2(true)] {
        let hits = all(send(3, &url, options.timeout(time))).await;
        for hit in hits {
            assert_eq!(hit.error(), Some(ErrorKind::Timeout));
            assert!(hit.duration() >= time, "{hit}");
        }
    }
}

#[tokio::test]
async fn a_timeout_does_not_count_against_the_next_request() {
    // Each answer comes after more than half of the time.
    let (url, connections) = server(|mut stream| async move {
        while heard(&mut stream).await.is_some() {
            tokio::time::sleep(Duration::from_millis(600)).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let options = Options::new().concurrency(1).timeout(Duration::from_secs(1));
    let hits = all(send(3, &url, options)).await;
    assert!(hits.iter().all(Hit::is_success), "{hits:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_resets_is_told_from_one_that_closes() {
    let (url, _) = server(|mut stream| async move {
        heard(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(errors(5, &url, Options::new()).await, [ErrorKind::Reset]);

    let (url, _) = server(|mut stream| async move {
        heard(&mut stream).await;
    })
    .await;
    assert_eq!(errors(5, &url, Options::new()).await, [ErrorKind::Closed]);
}

#[tokio::test]
async fn a_server_that_closes_early_has_not_answered() {
    for part in [
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let (url, _) = server(move |mut stream| async move {
            heard(&mut stream).await;
            stream.write_all(part.as_bytes()).await.unwrap();
        })
        .await;
        assert_eq!(errors(3, &url, Options::new()).await, [ErrorKind::Closed], "{part}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_said_to_be_none() {
    let (url, _) = answering("220 mail.example.org ESMTP\r\n").await;
    assert_eq!(errors(3, &url, Options::new()).await, [ErrorKind::Protocol]);
    let endless = "a".repeat(64 * 1024);
    let head: &'static str = format!("HTTP/1.1 200 OK\r\nx: {endless}").leak();
    let (url, _) = answering(head).await;
    assert_eq!(errors(1, &url, Options::new()).await, [ErrorKind::Protocol]);
}

#[tokio::test]
async fn a_status_of_500_is_a_response_and_no_success() {
    let (url, _) = answering("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno").await;
    let mut summary = Summary::new();
    let hits = all(send(10, &url, Options::new())).await;
    summary.extend(&hits);
    assert_eq!((summary.requests(), summary.successes(), summary.bytes()), (10, 0, 20));
    assert_eq!(summary.statuses().collect::<Vec<_>>(), [(500, 10)]);
    assert_eq!(summary.errors().next(), None);
}

#[tokio::test]
async fn an_endless_body_ends_with_the_time_and_is_not_kept() {
    for head in ["", "transfer-encoding: chunked\r\n", "content-length: 99999999999\r\n"] {
        let (url, _) = server(move |mut stream| async move {
            heard(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
        })
        .await;
        let options = Options::new().timeout(Duration::from_millis(200));
        assert_eq!(errors(2, &url, options).await, [ErrorKind::Timeout], "{head}");
    }
}

// -------------------------------------------------------------------- the end

/// A server that answers this many requests, and none of the others; it says
/// when it has heard one more.
async fn answers_some(some: usize) -> (String, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (asked, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, counts_open) = (asked.clone(), open.clone());
    let (url, _) = server(move |mut stream| {
        let (count, open) = (count.clone(), counts_open.clone());
        async move {
            open.fetch_add(1, Ordering::SeqCst);
            while heard(&mut stream).await.is_some() {
                if count.fetch_add(1, Ordering::SeqCst) < some {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    (url, asked, open)
}

#[tokio::test]
async fn nothing_is_sent_before_the_results_are_polled() {
    let (url, connections) = answering(OK).await;
    let results = send(5, &url, Options::new());
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1, "the server's");
    assert_eq!(all(results).await.len(), 5);
    assert!(connections.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn dropping_the_results_ends_everything() {
    let (url, asked, open) = answers_some(3).await;
    let alone = Handle::current().metrics().num_alive_tasks();
    let mut results = send(1000, &url, Options::new().concurrency(4).timeout(None));
    for _ in 0..3 {
        assert!(results.next().await.unwrap().is_success());
    }
    until("the others to be under way", || asked.load(Ordering::SeqCst) == 7).await;
    drop(results);
    until("the connections to be closed", || open.load(Ordering::SeqCst) == 0).await;
    until("the tasks to end", || Handle::current().metrics().num_alive_tasks() == alone).await;
    assert_eq!(asked.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn finishing_waits_for_the_end_and_says_that_the_reader_stopped() {
    let (url, _) = answering(OK).await;
    let mut results = send(1_000_000, &url, Options::new().concurrency(4));
    for _ in 0..3 {
        results.next().await.unwrap();
    }
    let report = results.finish().await;
    assert!(matches!(report.outcome(), Outcome::ReaderStopped), "{report:?}");
    assert!(report.conserved(), "{report:?}");
}

#[tokio::test]
async fn when_the_context_ends_every_finished_measurement_can_still_be_read() {
    let (url, asked, open) = answers_some(20).await;
    let (ctx, canceller) = Context::background().with_cancel();
    let options = Options::new().concurrency(4).timeout(None);
    let mut results = send_n(&ctx, 1000, get(&url), options).unwrap();
    let first = results.next().await.unwrap();
    // Nobody reads now; the workers go on until no answer comes.
    until("four to be under way for good", || asked.load(Ordering::SeqCst) == 24).await;
    canceller.cancel_with("enough");
    let mut hits = all(results).await;
    hits.push(first);
    let answered = hits.iter().filter(|hit| hit.is_success()).count();
    let stopped = hits.iter().filter(|hit| hit.error() == Some(ErrorKind::Stopped)).count();
    assert_eq!((answered, stopped, hits.len()), (20, 4, 24));
    until("the connections to be closed", || open.load(Ordering::SeqCst) == 0).await;
    let mut summary = Summary::new();
    summary.extend(&hits);
    assert_eq!((summary.requests(), summary.unfinished()), (20, 4));
}

#[tokio::test]
async fn a_context_that_has_ended_sends_nothing() {
    let (url, connections) = answering(OK).await;
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let results = send_n(&ctx, 10, get(&url), Options::new()).unwrap();
    assert_eq!(all(results).await, []);
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_slow_rate_does_not_hold_up_the_end() {
    let (url, _) = answering(OK).await;
    let (ctx, canceller) = Context::background().with_cancel();
    let mut results = send_n(&ctx, 10, get(&url), Options::new().rps(1)).unwrap();
    assert!(results.next().await.unwrap().is_success());
    let began = Instant::now();
    canceller.cancel();
    assert_eq!(all(results).await, []);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

// ------------------------------------------------------- rates, without a server

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_by_the_clock() {
    let began = tokio::time::Instant::now();
    let send = |_, _| async { Hit::answered(200, 0, Duration::ZERO) };
    let options = Options::new().rps(50);
    let hits = all(send_n_with(&Context::background(), 101, options, send).unwrap()).await;
    assert_eq!((hits.len(), began.elapsed().as_millis()), (101, 2000));
}

#[tokio::test(start_paused = true)]
async fn with_latency_correction_one_standstill_is_slow_for_all_that_were_due_in_it() {
    let run = async |options: Options| {
        let first = Arc::new(AtomicUsize::new(0));
        let send = move |_, due: Instant| {
            let first = first.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let now = tokio::time::Instant::now().into_std();
                Hit::answered(200, 0, now - due)
            }
        };
        let options = options.concurrency(1).rps(10);
        let hits = all(send_n_with(&Context::background(), 21, options, send).unwrap()).await;
        hits.iter().map(|hit| hit.duration().as_millis() as u64 / 10 * 10).collect::<Vec<_>>()
    };
    let corrected = run(Options::new().latency_correction(true)).await;
    let expected: Vec<u64> = (0..=10).map(|k| 1000 - 100 * k).chain([0; 10]).collect();
    assert_eq!(corrected, expected);
    let plain = run(Options::new()).await;
    assert_eq!(plain[0], 1000);
    assert!(plain[1..].iter().all(|duration| *duration == 0), "{plain:?}");
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_an_error_that_says_why() {
    let why = |n: usize, url: &str, options: Options| {
        let request = Request::builder().uri(url).body(Bytes::new()).unwrap();
        send_n(&Context::background(), n, request, options).unwrap_err().to_string()
    };
    let (url, options) = ("http://localhost/", Options::new());
    assert_eq!(why(0, url, options.clone()), "n must be positive: got 0");
    assert_eq!(why(1, url, options.clone().concurrency(0)), "concurrency must be positive: got 0");
    assert_eq!(why(1, url, options.clone().rps(0)), "rps must be positive: got 0");
    assert!(why(1, url, options.clone().latency_correction(true)).contains("needs a rate"));
    assert!(why(1, "/nowhere", options.clone()).contains("no scheme"));
    let send = |_, _| async { Hit::answered(200, 0, Duration::ZERO) };
    let none = send_n_with(&Context::background(), 0, options, send);
    assert_eq!(none.unwrap_err().to_string(), "n must be positive: got 0");
}

// ----------------------------------------------------------------- the summary

#[test]
fn percentiles_are_right_to_a_thousandth() {
    let mut summary = Summary::new();
    for micros in (1..=100_000).rev() {
        summary.record(&Hit::answered(200, 1, Duration::from_micros(micros)));
    }
    for (percent, micros) in [(50.0, 50_000), (90.0, 90_000), (99.0, 99_000), (99.9, 99_900)] {
        let found = summary.percentile(percent).unwrap().as_secs_f64() * 1e6;
        let off = (found / f64::from(micros) - 1.0).abs();
        assert!(off < 1e-3, "p{percent}: {found} µs");
    }
    assert_eq!(summary.fastest(), Some(Duration::from_micros(1)));
    assert_eq!(summary.slowest(), Some(Duration::from_millis(100)));
    assert_eq!(summary.mean(), Some(Duration::from_nanos(50_000_500)));
    assert_eq!(summary.percentile(100.0), summary.slowest());
    let rows = summary.histogram(10);
    assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), 100_000);
}

#[test]
fn of_nothing_there_is_nothing_to_say() {
    let summary = Summary::new();
    assert_eq!((summary.requests(), summary.bytes(), summary.unfinished()), (0, 0, 0));
    assert_eq!((summary.mean(), summary.percentile(50.0), summary.fastest()), (None, None, None));
    assert_eq!(summary.histogram(10), []);
}

#[test]
fn two_summaries_make_one() {
    let (mut all, mut one, mut two) = (Summary::new(), Summary::new(), Summary::new());
    for k in 0..1000_u64 {
        let took = Duration::from_micros(k * k);
        let hit = match k % 5 {
            0 => Hit::failed(ErrorKind::Reset, took),
            1 => Hit::failed(ErrorKind::Stopped, took),
            _ => Hit::answered(200 + (k % 300) as u16, k, took),
        };
        all.record(&hit);
        if k % 3 == 0 { one.record(&hit) } else { two.record(&hit) }
    }
    one.merge(&two);
    assert_eq!(format!("{one:?}"), format!("{all:?}"));
    assert_eq!(one.histogram(20), all.histogram(20));
    assert_eq!(one.mean(), all.mean());
}
