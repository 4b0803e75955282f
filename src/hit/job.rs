//! A request, checked and serialised once for all the times that it is sent.

use super::Options;
use super::connect::Target;
use super::options::{Error, Problem};
use super::parse::tokens;
use super::user;
use ::http::uri::Authority;
use ::http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header, request::Parts};
use bytes::Bytes;
use std::time::Duration;

/// What every connection needs to know.
pub(super) struct Job {
    pub(super) target: Target,
    /// The request as it goes over an HTTP/1.1 connection, to the last byte.
    pub(super) wire: Bytes,
    /// Whether responses have no body, whatever they say.
    pub(super) head_only: bool,
    /// Whether it may be sent again if a kept connection turns out to be closed.
    pub(super) idempotent: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) keepalive: bool,
    /// The request's head, for HTTP/2.
    pub(super) parts: Option<Box<Parts>>,
    pub(super) body: Bytes,
}

impl Job {
    pub(super) fn new(request: Request<Bytes>, options: &Options) -> Result<Job, Error> {
        let (mut parts, body) = request.into_parts();
        let (host, port, https) = place(&parts.uri).map_err(Error)?;
        if let Some(value) = user::authorization(&parts.uri) {
            parts.headers.entry(header::AUTHORIZATION).or_insert(value);
        }
        parts.uri = with_a_path(user::without(parts.uri).map_err(Error)?);
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(Error(Problem::Header("transfer-encoding".into())));
        }
        let length = HeaderValue::from(body.len());
        if parts.headers.get_all(header::CONTENT_LENGTH).iter().any(|said| *said != length) {
            return Err(Error(Problem::Length(body.len())));
        }
        let method = &parts.method;
        let fill = |parts: &mut Parts, name, value: &str| {
            let value = HeaderValue::from_str(value).expect("made of plain signs");
            parts.headers.entry(name).or_insert(value);
        };
        let has_body = [Method::POST, Method::PUT, Method::PATCH].contains(method);
        let (head_only, idempotent) = (*method == Method::HEAD, method.is_idempotent());
        if has_body || !body.is_empty() {
            parts.headers.insert(header::CONTENT_LENGTH, length);
        }
        fill(&mut parts, header::USER_AGENT, concat!("quell-hit/", env!("CARGO_PKG_VERSION")));
        fill(&mut parts, header::ACCEPT, "*/*");
        let target = Target::new(host, port, https, options)?;
        let mut keepalive = options.keepalive;
        let wire = write(&parts, &body, options.keepalive);
        let http2 = if options.http2 {
            parts.version = Version::HTTP_2;
            parts.headers.remove(header::CONNECTION);
            if let Some(host) = parts.headers.remove(header::HOST) {
                parts.uri = with_the_host(parts.uri, &host).map_err(Error)?;
            }
            Some(Box::new(parts))
        } else {
            keepalive &= !closes(&parts.headers);
            None
        };
        Ok(Job {
            target,
            wire,
            head_only,
            idempotent,
            timeout: options.timeout,
            keepalive,
            parts: http2,
            body,
        })
    }
}

/// The host without brackets, the port, and whether it is behind TLS.
fn place(uri: &Uri) -> Result<(String, u16, bool), Problem> {
    let https = match uri.scheme_str() {
        None => return Err(Problem::NoScheme(user::hidden(uri))),
        Some("http") => false,
        Some("https") => true,
        Some(_) => return Err(Problem::OtherScheme(user::hidden(uri))),
    };
    let host = uri.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(Problem::NoHost(user::hidden(uri)));
    }
    // `Uri::port` takes an invalid port for none, which would mean the default one.
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let after_user = authority.rsplit('@').next().unwrap_or_default();
    // The last colon of an address in brackets is not before a port.
    let port = after_user.rsplit_once(':').map_or("", |(_, port)| port);
    let port = if port.is_empty() || port.ends_with(']') {
        if https { 443 } else { 80 }
    } else {
        // What is no port may be a password whose `@` is missing.
        let shown = format!("{}://{host}", uri.scheme_str().unwrap_or_default());
        port.parse().map_err(|_| Problem::NoPort(shown))?
    };
    Ok((host.to_string(), port, https))
}

/// A query may follow the host at once; the path is then `/`.
fn with_a_path(uri: Uri) -> Uri {
    let mut parts = uri.into_parts();
    parts.path_and_query = parts.path_and_query.map(|path| match path.as_str() {
        query if query.starts_with('?') => {
            format!("/{query}").parse().expect("a path before what was a query")
        }
        _ => path,
    });
    Uri::from_parts(parts).expect("it has all the parts that it had")
}

/// Over HTTP/2 the authority takes the place of the `host` header.
fn with_the_host(uri: Uri, host: &HeaderValue) -> Result<Uri, Problem> {
    let authority = Authority::try_from(host.as_bytes()).ok();
    let authority = authority.filter(|authority| !authority.as_str().contains('@'));
    let mut parts = uri.into_parts();
    parts.authority = Some(authority.ok_or_else(|| Problem::Host(host.clone()))?);
    Ok(Uri::from_parts(parts).expect("it has all the parts that it had"))
}

/// Whether an HTTP/1.1 request with these headers is the last of its connection.
fn closes(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let mut said = values.flat_map(|value| tokens(value.as_bytes()));
    said.any(|token| token.eq_ignore_ascii_case(b"close"))
}

/// The request as it is sent over HTTP/1.1.
fn write(parts: &Parts, body: &Bytes, keepalive: bool) -> Bytes {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut wire = format!("{} {path} HTTP/1.1\r\n", parts.method).into_bytes();
    let mut line = |name: &str, value: &[u8]| {
        wire.extend_from_slice(name.as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value);
        wire.extend_from_slice(b"\r\n");
    };
    if !parts.headers.contains_key(header::HOST) {
        let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
        line("host", authority.as_bytes());
    }
    for (name, value) in &parts.headers {
        line(name.as_str(), value.as_bytes());
    }
    if !keepalive && !parts.headers.contains_key(header::CONNECTION) {
        line("connection", b"close");
    }
    wire.extend_from_slice(b"\r\n");
    wire.extend_from_slice(body);
    wire.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(request: Request<&'static str>, options: &Options) -> String {
        let job = Job::new(request.map(Bytes::from), options).unwrap();
        String::from_utf8(job.wire.to_vec()).unwrap()
    }

    #[test]
    fn a_request_is_written_with_what_every_request_needs() {
        let request = Request::get("http://user:word@[::1]:81/a?b=c").body("").unwrap();
        let agent = concat!("quell-hit/", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            wire(request, &Options::new()),
            format!(
                "GET /a?b=c HTTP/1.1\r\nhost: [::1]:81\r\nauthorization: Basic dXNlcjp3b3Jk\r\n\
                 user-agent: {agent}\r\naccept: */*\r\n\r\n"
            )
        );
    }

    #[test]
    fn a_query_right_after_the_host_is_asked_of_the_root() {
        let request = Request::get("http://one?a=b").body("").unwrap();
        let wire = wire(request, &Options::new());
        assert!(wire.starts_with("GET /?a=b HTTP/1.1\r\nhost: one\r\n"), "{wire}");
    }

    #[test]
    fn a_port_is_the_one_that_is_written_or_the_usual_one() {
        let port = |url: &str| place(&url.parse().unwrap()).map_or(0, |(_, port, _)| port);
        assert_eq!((port("http://one"), port("https://one/"), port("http://one:")), (80, 443, 80));
        assert_eq!((port("http://[::1]"), port("https://[::1]:81")), (80, 81));
        assert_eq!((port("http://u:1@one"), port("http://u:1@one:2")), (80, 2));
        assert_eq!((port("http://one:65536"), port("http://one:a")), (0, 0));
    }

    #[test]
    fn what_the_user_says_is_not_said_twice() {
        let request = Request::post("http://one").header("host", "two").header("user-agent", "me");
        let request = request.header("accept", "a/b").header("x", "1").header("x", "2");
        assert_eq!(
            wire(request.body("abc").unwrap(), &Options::new().keepalive(false)),
            "POST / HTTP/1.1\r\nhost: two\r\nuser-agent: me\r\naccept: a/b\r\nx: 1\r\nx: 2\r\n\
             content-length: 3\r\nconnection: close\r\n\r\nabc"
        );
    }

    #[test]
    fn over_http2_too_the_user_is_a_header_and_no_part_of_the_address() {
        let request = Request::get("http://ann:word@one/a").body(Bytes::new()).unwrap();
        let parts = Job::new(request, &Options::new().http2(true)).unwrap().parts.unwrap();
        assert_eq!(parts.uri, "http://one/a");
        assert_eq!(parts.headers["authorization"], "Basic YW5uOndvcmQ=");
        assert!(!format!("{parts:?}").contains("YW5u"), "{parts:?}");
    }

    #[test]
    fn a_header_of_the_users_own_says_who_asks() {
        let request = Request::get("http://ann:word@one").header("authorization", "Bearer 1");
        let wire = wire(request.body("").unwrap(), &Options::new());
        assert!(wire.contains("authorization: Bearer 1\r\n") && !wire.contains("Basic"), "{wire}");
    }

    #[test]
    fn a_length_that_is_not_the_bodys_is_refused() {
        let refused = |length: &str, body: &'static str| {
            let request = Request::put("http://one").header("content-length", length);
            let job = Job::new(request.body(Bytes::from(body)).unwrap(), &Options::new());
            job.map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(refused("3", "abc"), Ok(()));
        let why = "the header content-length does not match the body, which has 0 bytes";
        assert_eq!(refused("5", ""), Err(why.into()));
        assert!(refused("03", "abc").is_err());
    }

    #[test]
    fn a_url_that_leads_nowhere_is_an_error_that_says_why() {
        let why = |url: &str| {
            let request = Request::builder().uri(url).body(Bytes::new()).unwrap();
            Job::new(request, &Options::new()).map(drop).unwrap_err().to_string()
        };
        assert!(why("/path").contains("no scheme"), "{}", why("/path"));
        assert!(why("localhost:3000").contains("no scheme"), "{}", why("localhost:3000"));
        assert!(why("ftp://host/").contains("neither http nor https"), "{}", why("ftp://host/"));
        assert!(why("http://:80/").contains("no host"), "{}", why("http://:80/"));
        assert!(why("http://one:99999/").contains("no valid port"), "{}", why("http://one:99999/"));
        for secret in ["http://u:pass@one:a/", "http://u:pass/word@one", "ftp://u:pass@one/"] {
            assert!(!why(secret).contains("pass"), "{}", why(secret));
        }
    }
}
