//! `GET https://host/path`, as people write a request in case files and on the command line. `wss://` and `ws://` stand for
//! the handshake of a WebSocket (RFC 6455 section 3).

use super::{CanonicalRequest, Malformed};
use crate::base::{Authority, AuthorityError, Scheme};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestLineError {
    #[error("a request is written METHOD URL, such as \"GET https://api.example.com/v1\"")]
    Form,
    #[error("a URL starts with https:// or http://, that of a WebSocket with wss:// or ws://")]
    Scheme,
    #[error("the method is not a token")]
    Method,
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// What a client adds to ask for a WebSocket; the key is any.
const HANDSHAKE: [(HeaderName, &str); 4] = [
    (header::CONNECTION, "Upgrade"),
    (header::UPGRADE, "websocket"),
    (header::SEC_WEBSOCKET_VERSION, "13"),
    (header::SEC_WEBSOCKET_KEY, "AAAAAAAAAAAAAAAAAAAAAA=="),
];

/// Reads a request as a door would; its headers come apart.
pub fn read_request_line(line: &str, mut headers: HeaderMap) -> Result<CanonicalRequest, RequestLineError> {
    let (method, url) = line.split_once(' ').ok_or(RequestLineError::Form)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| RequestLineError::Method)?;
    let (scheme, rest) = url.split_once("://").ok_or(RequestLineError::Scheme)?;
    let (scheme, is_websocket) = match scheme {
        "https" => (Scheme::Https, false),
        "http" => (Scheme::Http, false),
        "wss" => (Scheme::Https, true),
        "ws" => (Scheme::Http, true),
        _ => return Err(RequestLineError::Scheme),
    };
    if is_websocket {
        for (name, value) in HANDSHAKE {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
    }
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let authority = Authority::parse(authority)?;
    let port = authority.port.or(scheme.default_port()).ok_or(RequestLineError::Scheme)?;
    Ok(CanonicalRequest::new(scheme, authority.host, port, method, target, headers)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pm_13_a_url_without_a_path_asks_for_the_root() {
        let read = |line: &str| read_request_line(line, HeaderMap::new());
        let request = read("GET http://plain.good.test?x=/public/a").unwrap();
        assert_eq!(request.path_and_query().as_str(), "/?x=/public/a");
        assert_eq!(&*read("GET https://API.good.test.:8443/a").unwrap().authority(), "api.good.test:8443");
        assert_eq!(read("GET ftp://a.test/").unwrap_err(), RequestLineError::Scheme);
        assert!(read("GET https://a@b.test/").is_err());
    }

    #[test]
    fn fr_13_the_url_of_a_websocket_asks_for_its_handshake() {
        let read = |line: &str| read_request_line(line, HeaderMap::new()).unwrap();
        let (secure, clear) = (read("GET wss://live.good.test/x"), read("GET ws://live.good.test/"));
        assert!(secure.websocket() && secure.scheme() == Scheme::Https && secure.port() == 443);
        assert!(clear.websocket() && clear.scheme() == Scheme::Http && clear.port() == 80);
        assert!(!read("GET https://live.good.test/x").websocket());
    }
}
