//! The user in a URL: `http://ann:secret@host/`.

use super::options::Problem;
use ::http::uri::Authority;
use ::http::{HeaderValue, Uri};

/// The user and password in front of the host.
fn user(uri: &Uri) -> Option<&str> {
    let (user, _) = uri.authority()?.as_str().rsplit_once('@')?;
    (!user.is_empty()).then_some(user)
}

/// The header that tells the server.
pub(super) fn authorization(uri: &Uri) -> Option<HeaderValue> {
    let mut user = decoded(user(uri)?);
    if !user.contains(&b':') {
        user.push(b':');
    }
    let value = format!("Basic {}", base64(&user));
    let mut value = HeaderValue::from_str(&value).expect("letters and digits");
    value.set_sensitive(true);
    Some(value)
}

/// The same address without user and password.
pub(super) fn without(uri: Uri) -> Result<Uri, Problem> {
    let Some((_, host)) = uri.authority().and_then(|all| all.as_str().rsplit_once('@')) else {
        return Ok(uri);
    };
    let host = host.parse::<Authority>().map_err(|_| Problem::NoHost(hidden(&uri)))?;
    let mut parts = uri.into_parts();
    parts.authority = Some(host);
    Ok(Uri::from_parts(parts).expect("it has all the parts that it had"))
}

/// An address as an error may show it. It may be wrong in any way: everything in front of the last
/// `@` may be a password.
pub(super) fn hidden(uri: &Uri) -> String {
    let text = uri.to_string();
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => text,
    }
}

/// Decodes `%3A` to `:`; what only looks like an escape stays as it is.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let two = text.get(text.len() - more.len()..).and_then(|more| more.get(..2));
        let two = two.filter(|two| two.bytes().all(|sign| sign.is_ascii_hexdigit()));
        match two.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let sign = SIGNS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { sign.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_sent_as_basic_authorization_and_is_no_part_of_the_address() {
        let said = |url: &str| {
            let uri: Uri = url.parse().unwrap();
            let value = authorization(&uri).map(|value| value.to_str().unwrap().to_string());
            (value.unwrap_or_default(), without(uri).unwrap().to_string())
        };
        let host = "http://host:81/a@b?c@d".to_string();
        // The example of RFC 7617.
        let aladdin = said("http://Aladdin:open%20sesame@host:81/a@b?c@d");
        assert_eq!(aladdin, ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".into(), host.clone()));
        assert_eq!(said("http://u:%3A%@host:81/a@b?c@d"), ("Basic dTo6JQ==".into(), host.clone()));
        assert_eq!(said("http://ann@host:81/a@b?c@d"), ("Basic YW5uOg==".into(), host.clone()));
        assert_eq!(said("http://@host:81/a@b?c@d"), (String::new(), host.clone()));
        assert_eq!(said(&host), (String::new(), host));
    }
}
