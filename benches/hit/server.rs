//! A server that is not the bottleneck: `benches/hit/compare.sh` sends its requests to it.
//!
//! It answers everything that ends with an empty line with the same few bytes, and looks at nothing
//! else. Each of its threads accepts its own connections.

use std::num::NonZero;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\
    content-type: text/plain\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nhello, world\n";

fn main() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    println!("http://{}/", listener.local_addr().expect("an address"));
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let listener = listener.try_clone().expect("another handle");
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(take(listener));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a server that does not panic"));
}

async fn take(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((connection, _)) = listener.accept().await else { continue };
        tokio::spawn(answer(connection));
    }
}

async fn answer(mut connection: TcpStream) {
    let _ = connection.set_nodelay(true);
    let mut buffer = [0; 4096];
    let mut filled = 0;
    while let Ok(more @ 1..) = connection.read(&mut buffer[filled..]).await {
        filled += more;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if connection.write_all(ANSWER).await.is_err() {
                return;
            }
        } else if filled == buffer.len() {
            return;
        }
    }
}
