//! The command line.

use bytes::Bytes;
use clap::Parser;
use clap::error::ErrorKind;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use quell::hit::Options;
use std::time::Duration;

/// Sends requests to a server and reports how it performed.
#[derive(Parser)]
#[command(name = "hit", version, max_term_width = 100)]
struct Cli {
    /// The URL to request: http://… or https://…
    url: String,
    /// How many requests to send [default: 200, or no limit with --duration]
    #[arg(short, value_name = "COUNT", allow_negative_numbers = true)]
    n: Option<i64>,
    /// How many at once, each over its own connection [default: 50, or n if fewer]
    #[arg(short, value_name = "COUNT", allow_negative_numbers = true)]
    c: Option<i64>,
    /// At most this many requests a second [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    rps: Option<i64>,
    /// How long to send: 10s, 500ms, 2m
    #[arg(short, long, value_name = "TIME", allow_hyphen_values = true)]
    duration: Option<String>,
    /// How long one request may take [default: 30s]
    #[arg(short, long, value_name = "TIME", allow_hyphen_values = true)]
    timeout: Option<String>,
    /// The method [default: GET, or POST with a body]
    #[arg(short, long, value_name = "METHOD")]
    method: Option<String>,
    /// A header; may be given more than once
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The body, or @FILE to read it from a file
    #[arg(short, long, value_name = "BODY", allow_hyphen_values = true)]
    body: Option<String>,
    /// Use HTTP/2, with or without TLS
    #[arg(long)]
    http2: bool,
    /// Use a new connection for each request
    #[arg(long)]
    no_keepalive: bool,
    /// Accept any certificate
    #[arg(short = 'k', long)]
    insecure: bool,
    /// Print the summary as JSON (docs/hit.md has its schema)
    #[arg(long)]
    json: bool,
    /// With --rps: count how long a request that was due had to wait for a connection, too
    #[arg(long)]
    latency_correction: bool,
    /// End with 1 unless every request got a response below 400
    #[arg(long)]
    fail_on_error: bool,
}

/// What was asked for, checked.
pub(crate) struct Args {
    /// The URL as it may be shown: without user and password.
    pub(crate) url: String,
    pub(crate) request: Request<Bytes>,
    /// `None` if only the time is limited.
    pub(crate) n: Option<usize>,
    pub(crate) concurrency: usize,
    pub(crate) rps: Option<u32>,
    pub(crate) duration: Option<Duration>,
    pub(crate) options: Options,
    pub(crate) json: bool,
    pub(crate) fail_on_error: bool,
}

/// Why there is nothing to run.
pub(crate) enum Exit {
    Help(String),
    Usage(String),
}

impl Args {
    pub(crate) fn parse() -> Result<Args, Exit> {
        match Cli::try_parse() {
            Ok(cli) => cli.check().map_err(Exit::Usage),
            Err(error) if !error.use_stderr() => Err(Exit::Help(error.to_string())),
            Err(error) => Err(Exit::Usage(one_line(&error))),
        }
    }
}

/// The first paragraph of clap's message as one line, without its advice.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::MissingRequiredArgument {
        return "the URL is missing".into();
    }
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_string()
}

impl Cli {
    fn check(self) -> Result<Args, String> {
        let n = self.n.map(|n| positive("n", n)).transpose()?;
        let c = self.c.map(|c| positive("c", c)).transpose()?;
        let rps = self.rps.map(|rps| positive("rps", rps)).transpose()?;
        let rps = rps.map(|rps| u32::try_from(rps).map_err(|_| format!("rps is too high: {rps}")));
        let rps = rps.transpose()?;
        let duration = self.duration.map(|text| time("duration", &text)).transpose()?;
        let timeout = self.timeout.map(|text| time("timeout", &text)).transpose()?;
        let n = n.or(if duration.is_none() { Some(200) } else { None });
        if let (Some(n), Some(c)) = (n, c) {
            if n < c {
                return Err(format!("n must not be smaller than c: got {n} and {c}"));
            }
        }
        let concurrency = c.unwrap_or(50).min(n.unwrap_or(usize::MAX));

        let body = self.body.map(read).transpose()?;
        let method = self.method.unwrap_or(if body.is_some() { "POST" } else { "GET" }.into());
        let mut request = Request::new(body.unwrap_or_default());
        *request.method_mut() = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("not a method: {method:?}"))?;
        // A URL ends at a `#`, and what follows is not shown. An `@` there, with no path before the
        // `#`, ends a user or a password.
        let (url, behind) = self.url.split_once('#').unwrap_or((&self.url, ""));
        let host = url.split_once("://").map_or("", |(_, rest)| rest);
        if behind.contains('@') && !host.contains('/') {
            return Err("not a URL: write %23 for a `#` before an `@`".to_string());
        }
        let no_url = |error| match url.rsplit_once('@') {
            // Everything in front of it may be a password.
            Some((_, rest)) => format!("not a URL: \"…@{rest}\" ({error})"),
            None => format!("not a URL: {url:?} ({error})"),
        };
        *request.uri_mut() = url.parse::<Uri>().map_err(no_url)?;
        for text in &self.headers {
            let (name, value) = header(text)?;
            request.headers_mut().append(name, value);
        }

        let mut options = Options::new()
            .concurrency(concurrency)
            .keepalive(!self.no_keepalive)
            .http2(self.http2)
            .insecure(self.insecure)
            .latency_correction(self.latency_correction);
        if let Some(rps) = rps {
            options = options.rps(rps);
        }
        if let Some(timeout) = timeout {
            options = options.timeout(timeout);
        }
        Ok(Args {
            url: without_user(url, request.uri()),
            request,
            n,
            concurrency,
            rps,
            duration,
            options,
            json: self.json,
            fail_on_error: self.fail_on_error,
        })
    }
}

fn positive(name: &str, number: i64) -> Result<usize, String> {
    match usize::try_from(number) {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("{name} must be positive: got {number}")),
    }
}

fn without_user(url: &str, uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    match authority.rsplit_once('@') {
        // The first match is the user: nothing in front of it has an `@`.
        Some((user, _)) => url.replacen(&format!("{user}@"), "", 1),
        None => url.to_string(),
    }
}

/// `10s`, `1.5s`, `500ms`, `2m`, `1h`; seconds, if there is no unit.
fn time(name: &str, text: &str) -> Result<Duration, String> {
    let no_time = || format!("{name} is not a time: {text:?} (write 10s, 500ms or 2m)");
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    let number = &text[..text.len() - unit.len()];
    let seconds = match unit {
        "" | "s" => 1.0,
        "us" => 1e-6,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(no_time()),
    };
    let number: f64 = number.parse().map_err(|_| no_time())?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) | Err(_) => Err(format!("{name} must be positive and finite: got {text}")),
    }
}

fn read(body: String) -> Result<Bytes, String> {
    match body.strip_prefix('@') {
        None => Ok(body.into()),
        Some(path) => match std::fs::read(path) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(format!("the body cannot be read from {path:?}: {error}")),
        },
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let no_header = || format!("not a header: {text:?} (write \"name: value\")");
    let (name, value) = text.split_once(':').ok_or_else(no_header)?;
    let name = name.trim().parse().map_err(|_| no_header())?;
    let value = value.trim().parse().map_err(|_| no_header())?;
    Ok((name, value))
}
