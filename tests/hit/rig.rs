//! Servers on real sockets, and results read to the end.

use http::Request;
use quell::Context;
use quell::hit::{ErrorKind, Hit, Options, Results, send_n};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take before a test fails.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// A server that takes connections and calls `talk` with each. Also returns how many
/// it has taken.
pub(crate) async fn server<F, Fut>(talk: F) -> (String, Arc<AtomicUsize>)
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
pub(crate) async fn heard(stream: &mut TcpStream) -> Option<String> {
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

/// A server that answers every request with `answer`.
pub(crate) async fn answering(answer: &'static str) -> (String, Arc<AtomicUsize>) {
    server(move |mut stream| async move {
        while heard(&mut stream).await.is_some() {
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

pub(crate) fn get(url: &str) -> Request<&'static str> {
    Request::get(url).body("").unwrap()
}

pub(crate) fn send(n: usize, url: &str, options: Options) -> Results {
    send_n(&Context::background(), n, get(url), options).unwrap()
}

pub(crate) async fn all(mut results: Results) -> Vec<Hit> {
    let reading = async {
        let mut hits = Vec::new();
        while let Some(hit) = results.next().await {
            hits.push(hit);
        }
        hits
    };
    tokio::time::timeout(LONG, reading).await.expect("the results to end")
}

/// The kinds of error with which all requests failed.
pub(crate) async fn errors(n: usize, url: &str, options: Options) -> Vec<ErrorKind> {
    let hits = all(send(n, url, options)).await;
    assert_eq!(hits.len(), n);
    let kinds: HashSet<_> = hits.iter().map(|hit| hit.error().expect("no response")).collect();
    kinds.into_iter().collect()
}

/// Waits until `is_so` holds.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}
