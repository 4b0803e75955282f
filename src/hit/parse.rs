//! The head of a response, and chunks.

/// How many headers a response may have.
const HEADERS: usize = 128;

/// What came is not HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) length: Length,
    pub(super) keep: bool,
    /// Where the body begins.
    pub(super) end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Exact(u64),
    Chunked,
    UntilClose,
}

/// Parses the head of a response; `None` if it is incomplete.
pub(super) fn head(bytes: &[u8], head_only: bool) -> Result<Option<Head>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let end = match response.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed),
    };
    let status = response.code.filter(|code| *code >= 100).ok_or(Malformed)?;
    let (mut keep, mut close) = (response.version == Some(1), false);
    let (mut chunked, mut coded, mut exact) = (false, false, None);
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            10 if is("connection") => {
                for token in tokens(header.value) {
                    if token.eq_ignore_ascii_case(b"close") {
                        close = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        keep = true;
                    }
                }
            }
            14 if is("content-length") => {
                for token in tokens(header.value) {
                    let length = number(token).ok_or(Malformed)?;
                    if exact.is_some_and(|exact| exact != length) {
                        return Err(Malformed);
                    }
                    exact = Some(length);
                }
            }
            17 if is("transfer-encoding") => {
                // Old servers say `identity` for none.
                let is_coding =
                    |token: &&[u8]| !token.is_empty() && !token.eq_ignore_ascii_case(b"identity");
                let last = tokens(header.value).filter(is_coding).last();
                if let Some(last) = last {
                    coded = true;
                    chunked = last.eq_ignore_ascii_case(b"chunked");
                }
            }
            _ => {}
        }
    }
    let no_body = head_only || status < 200 || status == 204 || status == 304;
    let length = match exact {
        _ if no_body => Length::Exact(0),
        _ if chunked => Length::Chunked,
        Some(exact) if !coded => Length::Exact(exact),
        _ => Length::UntilClose,
    };
    Ok(Some(Head { status, length, keep: keep && !close && status != 101, end }))
}

/// The parts between commas.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The position in a chunked body.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In a chunk's size: its value and its number of digits so far.
    Size(u64, u8),
    /// After the size, up to the end of the line.
    Extension(u64),
    Data(u64),
    /// In the line end after a chunk.
    AfterData,
    AfterDataLineFeed,
    /// In a line after the last chunk: its number of characters so far.
    Trailer(usize),
    End,
}

impl Chunks {
    pub(super) fn new() -> Chunks {
        Chunks { at: At::Size(0, 0), bytes: 0 }
    }

    pub(super) fn are_over(&self) -> bool {
        self.at == At::End
    }

    /// The length of the body so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many of these bytes belong to the body: all, before its end.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut used = 0;
        while used < bytes.len() && self.at != At::End {
            if let At::Data(left) = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - used);
                used += here;
                self.bytes += here as u64;
                let left = left - here as u64;
                self.at = if left == 0 { At::AfterData } else { At::Data(left) };
                continue;
            }
            self.at = self.at.after(bytes[used])?;
            used += 1;
        }
        Ok(used)
    }
}

impl At {
    fn after(self, byte: u8) -> Result<At, Malformed> {
        let begin = |size| if size == 0 { At::Trailer(0) } else { At::Data(size) };
        Ok(match (self, byte) {
            (At::Size(_, 0), b'\r' | b'\n' | b';' | b' ' | b'\t') => return Err(Malformed),
            (At::Size(size, _) | At::Extension(size), b'\n') => begin(size),
            (At::Size(size, _), b'\r' | b';' | b' ' | b'\t') => At::Extension(size),
            (At::Size(size, digits @ 0..16), _) => {
                let digit = (byte as char).to_digit(16).ok_or(Malformed)?;
                At::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (At::Extension(size), _) => At::Extension(size),
            (At::AfterData, b'\r') => At::AfterDataLineFeed,
            (At::AfterData | At::AfterDataLineFeed, b'\n') => At::Size(0, 0),
            (At::Trailer(0), b'\n') => At::End,
            (At::Trailer(_), b'\n') => At::Trailer(0),
            (At::Trailer(signs), b'\r') => At::Trailer(signs),
            (At::Trailer(signs), _) => At::Trailer(signs.saturating_add(1)),
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head_text: &str) -> Head {
        head(head_text.as_bytes(), false).unwrap().unwrap()
    }

    #[test]
    fn the_length_of_a_body_is_what_its_head_says() {
        let length = |rest: &str| parsed(&format!("HTTP/1.1 200 OK\r\n{rest}\r\n\r\n")).length;
        assert_eq!(length("Content-Length: 12"), Length::Exact(12));
        assert_eq!(length("content-length: 12\r\ncontent-length: 12"), Length::Exact(12));
        assert_eq!(length("Transfer-Encoding: gzip, Chunked"), Length::Chunked);
        assert_eq!(length("transfer-encoding: chunked\r\ncontent-length: 3"), Length::Chunked);
        assert_eq!(length("transfer-encoding: gzip\r\ncontent-length: 3"), Length::UntilClose);
        assert_eq!(length("transfer-encoding: identity\r\ncontent-length: 3"), Length::Exact(3));
        assert_eq!(length("transfer-encoding: \r\ncontent-length: 3"), Length::Exact(3));
        let both = "transfer-encoding: chunked\r\ntransfer-encoding: identity";
        assert_eq!(length(both), Length::Chunked);
        assert_eq!(length("a: b"), Length::UntilClose);
        assert_eq!(parsed("HTTP/1.1 204 No\r\ncontent-length: 3\r\n\r\n").length, Length::Exact(0));
        let to_head = head(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", true);
        assert_eq!(to_head.unwrap().unwrap().length, Length::Exact(0));
    }

    #[test]
    fn a_connection_is_kept_unless_somebody_says_otherwise() {
        assert!(parsed("HTTP/1.1 200 OK\r\n\r\n").keep);
        assert!(!parsed("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n").keep);
        assert!(!parsed("HTTP/1.0 200 OK\r\n\r\n").keep);
        assert!(parsed("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n").keep);
        assert!(!parsed("HTTP/1.1 101 Switching\r\n\r\n").keep);
    }

    #[test]
    fn what_is_not_http_is_not_taken_for_it() {
        for wrong in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        ] {
            assert_eq!(head(wrong.as_bytes(), false), Err(Malformed), "{wrong}");
        }
        assert_eq!(head(b"HTTP/1.1 200 OK\r\na: b", false), Ok(None));
        let with = |headers: usize| {
            let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(headers));
            head(text.as_bytes(), false).map(|head| head.is_some())
        };
        assert_eq!((with(HEADERS), with(HEADERS + 1)), (Ok(true), Err(Malformed)));
    }

    #[test]
    fn chunks_are_counted_wherever_they_are_torn() {
        let body = b"5\r\nhello\r\n10;a=b\r\n0123456789abcdef\r\n0\r\nx: y\r\n\r\nrest";
        for step in 1..body.len() {
            let mut chunks = Chunks::new();
            let mut used = 0;
            for piece in body.chunks(step) {
                used += chunks.take(piece).unwrap();
            }
            assert!(chunks.are_over(), "in steps of {step}");
            assert_eq!((chunks.bytes(), &body[used..]), (21, &b"rest"[..]), "in steps of {step}");
        }
    }

    #[test]
    fn a_chunk_that_is_none_is_an_error() {
        for wrong in ["\r\n", "\t\r\n", "x\r\n", "2\r\nabc", "11111111111111111\r\n", ";a\r\n"] {
            let mut chunks = Chunks::new();
            assert_eq!(chunks.take(wrong.as_bytes()), Err(Malformed), "{wrong:?}");
        }
    }
}
