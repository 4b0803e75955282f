//! What is sent, and what counts as an answer.

use super::rig::{OK, all, answering, get, heard, send, server};
use http::Request;
use quell::Context;
use quell::hit::{Hit, Options, Quota, send_n, send_shared};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

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
async fn two_who_share_a_quota_send_it_together_and_none_waits_for_the_other() {
    let quota = Quota::new(100);
    let (asked, done) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (asks, is_done) = (asked.clone(), done.clone());
    let (slow, _) = server(move |mut stream| {
        let (asked, done) = (asks.clone(), is_done.clone());
        async move {
            heard(&mut stream).await;
            asked.add_permits(1);
            let _ = done.acquire().await;
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let (quick, _) = answering(OK).await;
    let share = |url: &str| {
        let options = Options::new().concurrency(1);
        send_shared(&Context::background(), &quota, get(url), options).unwrap()
    };
    let (one, other) = (share(&slow), share(&quick));
    let one = tokio::spawn(all(one));
    let _ = asked.acquire().await;
    assert_eq!(quota.left(), 99);
    assert_eq!((all(other).await.len(), quota.left()), (99, 0));
    done.add_permits(1);
    assert_eq!(one.await.unwrap().len(), 1);
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

/// Takes a request's head, answers at once, and then takes `bytes` bytes of its body.
async fn answers_first(stream: &mut TcpStream, bytes: usize) {
    let mut heard = Vec::new();
    let end = loop {
        assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "a head");
        if let Some(at) = heard.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    stream.write_all(OK.as_bytes()).await.unwrap();
    let left = (bytes - (heard.len() - end)) as u64;
    let took = tokio::io::copy(&mut stream.take(left), &mut tokio::io::sink()).await;
    assert_eq!(took.unwrap(), left, "the rest of the body");
}

/// More than fits into the buffers between the two.
const LARGE: usize = 32 << 20;

#[tokio::test]
async fn a_request_goes_on_to_its_end_though_its_answer_came_first() {
    let (url, connections) = server(|mut stream| async move {
        for _ in 0..2 {
            answers_first(&mut stream, LARGE).await;
        }
    })
    .await;
    let request = Request::put(&url).body(vec![b'x'; LARGE]).unwrap();
    let options = Options::new().concurrency(1);
    let hits = all(send_n(&Context::background(), 2, request, options).unwrap()).await;
    assert!(hits.iter().all(Hit::is_success), "{hits:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 1, "what was sent whole leaves it fit");
}

#[tokio::test]
async fn an_answer_counts_though_its_server_takes_only_half_of_the_request_and_closes() {
    let (url, connections) = server(|mut stream| async move {
        answers_first(&mut stream, LARGE / 2).await;
    })
    .await;
    let request = Request::put(&url).body(vec![b'x'; LARGE]).unwrap();
    let options = Options::new().concurrency(1);
    let hits = all(send_n(&Context::background(), 2, request, options).unwrap()).await;
    assert!(hits.iter().all(Hit::is_success), "{hits:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 2, "none of them is used again");
}

#[tokio::test]
async fn a_header_that_closes_the_connection_closes_it() {
    let (url, connections) = answering(OK).await;
    for value in ["close", "TE, Close"] {
        connections.store(0, Ordering::SeqCst);
        let request = Request::get(&url).header("connection", value).body("").unwrap();
        let options = Options::new().concurrency(1);
        let hits = all(send_n(&Context::background(), 3, request, options).unwrap()).await;
        assert!(hits.iter().all(Hit::is_success), "{hits:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 3, "{value}");
    }
}

#[tokio::test]
async fn an_answer_that_says_close_closes_the_connection_whatever_else_it_says() {
    for says in ["close, keep-alive", "close\r\nconnection: keep-alive", "keep-alive, close"] {
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: {says}\r\ncontent-length: 0\r\n\r\n");
        let (url, connections) = server(move |mut stream| {
            let answer = answer.clone();
            async move {
                heard(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
                // The server takes no other request.
                heard(&mut stream).await;
            }
        })
        .await;
        let request = Request::post(&url).body("").unwrap();
        let options = Options::new().concurrency(1);
        let hits = all(send_n(&Context::background(), 3, request, options).unwrap()).await;
        assert!(hits.iter().all(Hit::is_success), "{says}: {hits:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 3, "{says}");
    }
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
    // Closes each connection after two requests, without announcing it.
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
