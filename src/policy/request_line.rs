//! `GET https://host/path`, as people write a request in case files and on the command line.

use super::{CanonicalRequest, Malformed};
use crate::base::{Authority, AuthorityError, Scheme};
use http::{HeaderMap, Method};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestLineError {
    #[error("a request is written METHOD URL, such as \"GET https://api.example.com/v1\"")]
    Form,
    #[error("a URL starts with http:// or https://")]
    Scheme,
    #[error("the method is not a token")]
    Method,
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// Reads a request as a door would; its headers come apart.
pub fn read_request_line(line: &str, headers: HeaderMap) -> Result<CanonicalRequest, RequestLineError> {
    let (method, url) = line.split_once(' ').ok_or(RequestLineError::Form)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| RequestLineError::Method)?;
    let (scheme, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (Scheme::Https, rest),
        (_, Some(rest)) => (Scheme::Http, rest),
        _ => return Err(RequestLineError::Scheme),
    };
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
        assert_eq!(read("GET https://API.good.test.:8443/a").unwrap().authority(), "api.good.test:8443");
        assert_eq!(read("GET ftp://a.test/").unwrap_err(), RequestLineError::Scheme);
        assert!(read("GET https://a@b.test/").is_err());
    }
}
