//! The same over HTTP/2.

use super::rig::{all, errors, send, server};
use http::Request;
use hyper::body::Body as _;
use quell::Context;
use quell::hit::{ErrorKind, Hit, Options, send_n};
use std::convert::Infallible;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    // A thousand, as it may only go wrong in a moment that comes once in ten thousand.
    let options = Options::new().concurrency(4).http2(true).timeout(Duration::from_secs(10));
    let hits = all(send(1000, &url, options)).await;
    let failed: Vec<_> = hits.iter().filter_map(Hit::error).collect();
    assert_eq!(failed, []);
    assert!(connections.load(Ordering::SeqCst) > 4);
}

#[tokio::test]
async fn a_request_over_http2_goes_on_to_its_end_though_its_answer_came_first() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    const LARGE: usize = 5 << 20;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (url, _) = server(move |stream| {
        let tell = tell.clone();
        async move {
            let service = hyper::service::service_fn(
                move |request: hyper::Request<hyper::body::Incoming>| {
                    let tell = tell.clone();
                    tokio::spawn(async move {
                        let (mut body, mut bytes) = (std::pin::pin!(request.into_body()), 0);
                        while let Some(Ok(frame)) =
                            std::future::poll_fn(|task| body.as_mut().poll_frame(task)).await
                        {
                            // Other tasks are faster.
                            tokio::task::yield_now().await;
                            bytes += frame.into_data().map_or(0, |data| data.len());
                        }
                        tell.send(bytes).unwrap();
                    });
                    async { Ok::<_, Infallible>(hyper::Response::new("hello".to_string())) }
                },
            );
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // There is room for all of it, whether or not the handler reads.
            builder.initial_stream_window_size(16 << 20).initial_connection_window_size(64 << 20);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    for keeps in [true, false] {
        let request = Request::put(&url).body(vec![b'x'; LARGE]).unwrap();
        let options = Options::new().concurrency(2).http2(true).keepalive(keeps);
        let hits = all(send_n(&Context::background(), 6, request, options).unwrap()).await;
        assert!(hits.iter().all(|hit| hit.status() == Some(200)), "{hits:?}");
        for _ in 0..6 {
            assert_eq!(told.recv().await, Some(LARGE), "keeps: {keeps}");
        }
    }
}

/// An HTTP/2 frame: its kind, its flags, its stream and its payload.
fn frame(kind: u8, flags: u8, stream: u32, holds: &[u8]) -> Vec<u8> {
    let length = (holds.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), holds].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOODBYE: u8 = 7;

/// A server's answer to the request on a stream, and whether it then goes on or closes.
type Says = ControlFlow<Vec<u8>, Vec<u8>>;
type Server = fn(u32) -> Says;

/// A server that speaks HTTP/2 by hand.
async fn by_hand(
    says: impl Fn(u32) -> Says + Copy + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    server(move |stream| speaks(stream, says)).await
}

/// One connection of such a server, until either side closes it.
async fn speaks(mut stream: TcpStream, says: impl Fn(u32) -> Says) {
    let mut preface = [0; 24];
    let begun = stream.read_exact(&mut preface).await.is_ok();
    if !begun || stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.is_err() {
        return;
    }
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut holds = vec![0; length as usize];
        if stream.read_exact(&mut holds).await.is_err() {
            break;
        }
        let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let says = match head[3] {
            HEADERS => says(number),
            SETTINGS if head[4] == 0 => Continue(frame(SETTINGS, 1, 0, &[])),
            _ => continue,
        };
        let (Continue(answer) | Break(answer)) = &says;
        if stream.write_all(answer).await.is_err() || says.is_break() {
            break;
        }
    }
}

/// A status of 200, and no body.
fn ok(stream: u32) -> Says {
    Continue(frame(HEADERS, 5, stream, &[0x88]))
}

#[tokio::test]
async fn a_request_that_http2_has_not_taken_is_sent_again_over_another_connection() {
    async fn hits(method: &str, to_the_second: Server) -> (Vec<Hit>, usize) {
        let says = move |stream| if stream == 1 { ok(1) } else { to_the_second(stream) };
        let (url, connections) = by_hand(says).await;
        let request = Request::builder().method(method).uri(url).body("").unwrap();
        let options = Options::new().concurrency(1).http2(true);
        let hits = all(send_n(&Context::background(), 3, request, options).unwrap()).await;
        (hits, connections.load(Ordering::SeqCst))
    }
    let refused = |stream| Continue(frame(RESET, 0, stream, &[0, 0, 0, 7]));
    let goodbye = |_| Continue(frame(GOODBYE, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    let closes_without_a_word = |_| Break(Vec::new());
    for method in ["GET", "POST"] {
        for to_the_second in [refused, goodbye] {
            let (hits, connections) = hits(method, to_the_second).await;
            assert!(hits.iter().all(|hit| hit.status() == Some(200)), "{method}: {hits:?}");
            assert_eq!(connections, 3, "{method}");
        }
    }
    let (sent_again, connections) = hits("GET", closes_without_a_word).await;
    assert!(sent_again.iter().all(|hit| hit.status() == Some(200)), "{sent_again:?}");
    assert_eq!(connections, 3);
    // It may have been taken, and must not be sent twice.
    let (hits, connections) = hits("POST", closes_without_a_word).await;
    assert_eq!(hits.iter().filter(|hit| hit.error() == Some(ErrorKind::Closed)).count(), 1);
    assert_eq!((hits.len(), connections), (3, 2));
}

#[tokio::test]
async fn a_request_over_http2_that_is_given_up_takes_its_connection_with_it() {
    const BAD: u8 = 0x8e; // A status of 500.
    let post = |url: &str, limit, body: Vec<u8>| {
        let request = Request::post(url).body(body).unwrap();
        let options = Options::new().concurrency(1).http2(true).timeout(limit);
        all(send_n(&Context::background(), 5, request, options).unwrap())
    };
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(200));
    // Either server answers at once, and takes 64 KiB of the body and no more.
    let refuses: Server = |stream| Continue(frame(HEADERS, 5, stream, &[BAD]));
    for (says, limit, status) in [(refuses, long, Some(500)), (ok as Server, short, None)] {
        let (tell, mut closed) = tokio::sync::mpsc::unbounded_channel();
        let (url, connections) = server(move |stream| {
            let tell = tell.clone();
            async move {
                speaks(stream, says).await;
                let _ = tell.send(());
            }
        })
        .await;
        let hits = post(&url, limit, vec![b'x'; 1 << 20]).await;
        assert!(hits.iter().all(|hit| hit.status() == status), "{hits:?}");
        for _ in 0..5 {
            let closed = tokio::time::timeout(long, closed.recv()).await;
            closed.expect("each has a connection, which is closed").unwrap();
        }
        assert_eq!(connections.load(Ordering::SeqCst), 5);
    }
    // A request that was sent to its end is no reason to close anything.
    let (url, connections) = by_hand(refuses).await;
    let hits = post(&url, long, Vec::new()).await;
    assert!(hits.iter().all(|hit| hit.status() == Some(500)), "{hits:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http2_tells_how_a_response_ended_too_early() {
    /// A status of 200, and a length of 9.
    const NINE: &[u8] = &[0x88, 0x0f, 0x0d, 1, b'9'];
    /// The head of a response, and a part of its body.
    fn begun(stream: u32) -> Vec<u8> {
        [frame(HEADERS, 4, stream, &[0x88]), frame(DATA, 0, stream, b"hel")].concat()
    }
    let cases: [(Server, ErrorKind); 6] = [
        (
            |stream| Continue([begun(stream), frame(RESET, 0, stream, &[0, 0, 0, 8])].concat()),
            ErrorKind::Reset,
        ),
        // It says that nothing is wrong, as proxies do whose own server has gone.
        (
            |stream| Continue([begun(stream), frame(RESET, 0, stream, &[0, 0, 0, 0])].concat()),
            ErrorKind::Reset,
        ),
        (|stream| Break(begun(stream)), ErrorKind::Closed),
        // So does a GOAWAY that takes back what it has begun: of hyper's body one cannot tell which.
        (
            |stream| Continue([begun(stream), frame(GOODBYE, 0, 0, &[0; 8])].concat()),
            ErrorKind::Reset,
        ),
        // The body is shorter than its announced length.
        (
            |stream| {
                Continue([frame(HEADERS, 4, stream, NINE), frame(DATA, 1, stream, b"hel")].concat())
            },
            ErrorKind::Protocol,
        ),
        // It is told to calm down, and that no request was taken.
        (|_| Break(frame(GOODBYE, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11])), ErrorKind::Closed),
    ];
    for (says, wanted) in cases {
        let (url, _) = by_hand(says).await;
        assert_eq!(errors(1, &url, Options::new().http2(true)).await, [wanted]);
    }
    // After its end a response is whole, whatever becomes of the stream.
    let (url, _) = by_hand(|stream| {
        let whole = [frame(HEADERS, 4, stream, NINE), frame(DATA, 1, stream, b"123456789")];
        Continue([whole.concat(), frame(RESET, 0, stream, &[0, 0, 0, 0])].concat())
    })
    .await;
    let request = Request::get(url).body("").unwrap();
    let options = Options::new().concurrency(1).http2(true);
    let hits = all(send_n(&Context::background(), 3, request, options).unwrap()).await;
    assert!(hits.iter().all(|hit| hit.bytes() == 9), "{hits:?}");
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

#[tokio::test]
async fn a_host_of_ones_own_is_the_authority_over_http2() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (url, _) = server(|stream| async move {
        let service = hyper::service::service_fn(|request: hyper::Request<_>| async move {
            let _: &hyper::body::Incoming = request.body();
            let said = request.uri().authority().map(|authority| authority.as_str());
            let wanted = said == Some("other.example:8") && request.uri().path() == "/a";
            let wanted = wanted && !request.headers().contains_key("host");
            let response = hyper::Response::builder().status(if wanted { 200 } else { 421 });
            Ok::<_, std::convert::Infallible>(response.body(String::new()).unwrap())
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    let request = Request::get(format!("{url}a")).header("host", "other.example:8");
    let options = Options::new().http2(true);
    let hits =
        all(send_n(&Context::background(), 2, request.body("").unwrap(), options).unwrap()).await;
    assert!(hits.iter().all(|hit| hit.status() == Some(200)), "{hits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_otherwise_and_closes_nothing_is_never_said_to_have_closed() {
    let (url, _) = server(|mut stream| async move {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
        let mut rest = [0; 1024];
        while let Ok(1..) = stream.read(&mut rest).await {}
    })
    .await;
    for concurrency in [1, 4] {
        let options = Options::new().concurrency(concurrency).http2(true);
        assert_eq!(errors(300, &url, options).await, [ErrorKind::Protocol]);
    }
}
