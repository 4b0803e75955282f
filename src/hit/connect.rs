//! From an address to a stream.
//!
//! # Invariants
//!
//! 1. Only one request at a time looks the name up. Those that wait for a look-up that fails get
//!    its error too, and ask again only with a next request.

use super::ErrorKind;
use super::options::{Error, Options};
use crate::rt;
use crate::sync::atomic::{AtomicUsize, Ordering};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
#[cfg(feature = "tls")]
use std::task::Waker;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

/// Where the server is, and how to connect to it.
pub(super) struct Target {
    host: String,
    port: u16,
    addresses: Addresses,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::Tls>,
}

impl Target {
    pub(super) fn new(
        host: String,
        port: u16,
        https: bool,
        options: &Options,
    ) -> Result<Target, Error> {
        #[cfg(feature = "tls")]
        let tls = https.then(|| super::tls::Tls::new(&host, options)).transpose()?;
        #[cfg(not(feature = "tls"))]
        if https {
            let _ = options.insecure;
            return Err(Error(super::options::Problem::NoTls));
        }
        let known = host.parse::<IpAddr>().map(|address| vec![SocketAddr::new(address, port)]);
        let addresses = Addresses::new(known.ok());
        Ok(Target {
            host,
            port,
            addresses,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// Connects to the first address that accepts.
    pub(super) async fn connect(&self) -> Result<Stream, ErrorKind> {
        let tcp = self.connect_tcp().await?;
        // A request is one write: waiting for more would only delay it.
        let _ = tcp.set_nodelay(true);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok(Stream::Tls(Box::new(tls.connect(tcp).await?)));
        }
        Ok(Stream::Plain(tcp))
    }

    async fn connect_tcp(&self) -> Result<TcpStream, ErrorKind> {
        let look_up = || async {
            let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
            let found: Vec<_> = found.map_err(|_| ErrorKind::Resolve)?.collect();
            if found.is_empty() { Err(ErrorKind::Resolve) } else { Ok(found) }
        };
        let tcp = match self.addresses.get(look_up).await? {
            [one] => TcpStream::connect(one).await,
            several => {
                // Relaxed, here and below: whichever it is, all addresses are tried.
                let best = self.addresses.best.load(Ordering::Relaxed) % several.len();
                let order = [&several[best..], &several[..best]].concat();
                let connect = async |address| Ok((address, TcpStream::connect(address).await?));
                first_to_connect(&order, connect).await.map(|(address, tcp)| {
                    let best = several.iter().position(|other| *other == address);
                    self.addresses.best.store(best.unwrap_or_default(), Ordering::Relaxed);
                    tcp
                })
            }
        };
        tcp.map_err(|error| ErrorKind::of_connecting(&error))
    }
}

/// How long a silent address is tried alone; then the next is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Tries the addresses in order, each when the one before has failed or been silent for a while.
/// The first to connect wins.
async fn first_to_connect<T, F: Future<Output = io::Result<T>>>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut rest = addresses.iter();
    let mut trying: Vec<Pin<Box<F>>> = Vec::new();
    let mut head_start: Option<Pin<Box<rt::Sleep>>> = None;
    let mut failed = None;
    poll_fn(|task| {
        loop {
            let mut at = 0;
            while let Some(attempt) = trying.get_mut(at) {
                match attempt.as_mut().poll(task) {
                    Poll::Ready(Ok(tcp)) => return Poll::Ready(Ok(tcp)),
                    Poll::Ready(Err(error)) => {
                        failed = Some(error);
                        drop(trying.swap_remove(at));
                        head_start = None;
                    }
                    Poll::Pending => at += 1,
                }
            }
            if let Some(head_start) = &mut head_start {
                ready!(head_start.as_mut().poll(task));
            }
            match rest.next() {
                Some(address) => {
                    trying.push(Box::pin(connect(*address)));
                    head_start = Some(Box::pin(rt::sleep(HEAD_START)));
                }
                None if trying.is_empty() => {
                    let none = || io::ErrorKind::NotFound.into();
                    return Poll::Ready(Err(failed.take().unwrap_or_else(none)));
                }
                None => {
                    head_start = None;
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// The addresses of a name: looked up once, and again after a failure.
struct Addresses {
    found: OnceCell<Vec<SocketAddr>>,
    failures: AtomicUsize,
    /// Index of the address that connected last, which is tried first.
    best: AtomicUsize,
}

impl Addresses {
    fn new(known: Option<Vec<SocketAddr>>) -> Addresses {
        let (failures, best) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Addresses { found: OnceCell::new_with(known), failures, best }
    }

    async fn get<F>(&self, look_up: impl FnOnce() -> F) -> Result<&[SocketAddr], ErrorKind>
    where
        F: Future<Output = Result<Vec<SocketAddr>, ErrorKind>>,
    {
        // Relaxed, here and below: the cell admits one at a time, and so orders them.
        let before = self.failures.load(Ordering::Relaxed);
        let found = self.found.get_or_try_init(|| async {
            // Invariant 1.
            if self.failures.load(Ordering::Relaxed) != before {
                return Err(ErrorKind::Resolve);
            }
            let found = look_up().await;
            if found.is_err() {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
            found
        });
        Ok(found.await?)
    }
}

/// What bytes go over.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether the other side has closed it or sent something unasked, as far as is known here.
    /// Costs nothing if no news has come.
    pub(super) fn has_news(&mut self) -> bool {
        match self {
            Stream::Plain(tcp) => {
                let news = tcp.try_read(&mut [0]);
                !matches!(news, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            // Tickets for later sessions come unasked, and are not news.
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => {
                let mut nobody = Task::from_waker(Waker::noop());
                let mut room = [0];
                Pin::new(tls).poll_read(&mut nobody, &mut ReadBuf::new(&mut room)).is_ready()
            }
        }
    }
}

macro_rules! either {
    ($stream:expr, $inner:ident => $do:expr) => {
        match $stream.get_mut() {
            Stream::Plain($inner) => $do,
            #[cfg(feature = "tls")]
            Stream::Tls($inner) => $do,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(task, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(task, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(task))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Arc;

    /// Each attempt connects or fails after its number of milliseconds.
    async fn tries(attempts: &[(u64, bool)]) -> (io::Result<usize>, u128) {
        let addresses: Vec<_> = (0..attempts.len())
            .map(|number| SocketAddr::from(([127, 0, 0, 1], number as u16)))
            .collect();
        let began = rt::now();
        let connected = first_to_connect(&addresses, |address| async move {
            let number = usize::from(address.port());
            let (millis, connects) = attempts[number];
            rt::sleep(Duration::from_millis(millis)).await;
            if connects { Ok(number) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
        });
        (connected.await, (rt::now() - began).as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_says_nothing_does_not_hide_those_behind_it() {
        const NEVER: u64 = 1_000_000;
        for (attempts, who, after) in [
            (&[(10, true), (10, true)][..], 0, 10),
            (&[(NEVER, true), (10, true)], 1, 260),
            (&[(10, false), (10, true)], 1, 20),
            (&[(NEVER, true), (10, false), (10, true)], 2, 270),
            (&[(300, true), (100, true)], 0, 300),
        ] {
            let (connected, took) = tries(attempts).await;
            assert_eq!((connected.unwrap(), took), (who, after), "{attempts:?}");
        }
        let (refused, took) = tries(&[(10, false), (400, false), (10, false)]).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(took, 410);
    }

    #[tokio::test]
    async fn the_address_that_has_connected_is_tried_first_from_then_on() {
        let [one, two, three] =
            [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let all = [&one, &two, &three].map(|listener| listener.local_addr().unwrap());
        let mut target = Target::new("three".into(), 1, false, &Options::new()).unwrap();
        target.addresses = Addresses::new(Some(all.to_vec()));
        let connect = async |target: &Target| match target.connect().await.unwrap() {
            Stream::Plain(tcp) => tcp.peer_addr().unwrap(),
            #[cfg(feature = "tls")]
            Stream::Tls(_) => unreachable!("it is plain"),
        };
        assert_eq!(connect(&target).await, all[0]);
        drop(one);
        assert_eq!(connect(&target).await, all[1]);
        let again = std::net::TcpListener::bind(all[0]).unwrap();
        assert_eq!(connect(&target).await, all[1], "though the first is there again");
        drop((again, two));
        assert_eq!(connect(&target).await, all[2]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waited_for_a_look_up_that_failed_does_not_look_again() {
        let addresses = Arc::new(Addresses::new(None));
        let asked = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let (addresses, asked) = (addresses.clone(), asked.clone());
            rt::spawn(async move {
                let look_up = || async {
                    asked.fetch_add(1, Ordering::SeqCst);
                    rt::sleep(Duration::from_secs(1)).await;
                    Err(ErrorKind::Resolve)
                };
                addresses.get(look_up).await.map(<[_]>::len)
            })
        };
        for round in 1..=3 {
            let began = rt::now();
            let waiting: Vec<_> = (0..10).map(|_| ask()).collect();
            for answer in waiting {
                assert_eq!(answer.await.unwrap(), Err(ErrorKind::Resolve));
            }
            assert_eq!(asked.load(Ordering::SeqCst), round);
            assert!(rt::now() - began < Duration::from_secs(2), "{:?}", rt::now() - began);
        }
        let here = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(addresses.get(|| async { Ok(vec![here]) }).await, Ok(&[here][..]));
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn a_connection_behind_tls_has_news_when_it_is_closed_and_none_when_there_are_tickets() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio_rustls::{TlsAcceptor, rustls};
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.key_pair.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key.unwrap()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let options = Options::new().insecure(true);
        let target = Target::new("127.0.0.1".into(), port, true, &options).unwrap();
        let accept = async {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            acceptor.accept(listener.accept().await.unwrap().0).await.unwrap()
        };
        let (stream, mut server) = tokio::join!(target.connect(), accept);
        let mut stream = stream.unwrap();
        // The tickets come before it.
        server.write_all(b"a").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        assert!(!stream.has_news());
        drop(server);
        let noticed = async {
            while !stream.has_news() {
                rt::sleep(Duration::from_millis(1)).await;
            }
        };
        rt::timeout(Duration::from_secs(60), noticed).await.expect("to be noticed");
    }
}
