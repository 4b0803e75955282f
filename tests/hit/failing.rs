//! Servers that fail, each in its own way.

use super::rig::{OK, all, answering, errors, heard, send, server};
use quell::hit::{ErrorKind, Hit, Options, Summary};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

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
    // Each answer takes more than half of the timeout.
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
    for number in ["000", "099", "2x0"] {
        let head: &'static str = format!("HTTP/1.1 {number} OK\r\n\r\n").leak();
        let (url, _) = answering(head).await;
        assert_eq!(errors(3, &url, Options::new()).await, [ErrorKind::Protocol], "{number}");
    }
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
