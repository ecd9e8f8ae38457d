//! What a request says of its destination, reconciled with what its connection says, into one scheme, name and port.
//! A contradiction inside the message is 400, one with the connection is 421; both records name the pair. Called by
//! `flow` for every request of every door, and by `benches/policy.rs`.

use crate::base::{Authority, AuthorityError, Host, HostNameError, Proto, Scheme};
use crate::codec::Conduct;
use crate::codec::h1::{RequestHead, take_expect};
use crate::codec::h2::{Taken, check_fields, stated_length};
use crate::pipeline::{Asked, Rejected};
use crate::policy::{Reason, Refusal};
use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

/// What a connection has bound before any request on it.
#[derive(Debug, Clone)]
pub struct Connection {
    pub scheme: Scheme,
    /// From CONNECT, SNI or an address rule. Without TLS a transparent connection binds no name.
    pub host: Option<Host>,
    /// The name that its virtual address stands for, where a request states none.
    pub leased: Option<Host>,
    /// The target's port always binds.
    pub port: u16,
}

/// A request of the explicit door.
pub(super) enum Explicit {
    Request(Box<Asked>),
    Connect { host: Host, port: u16 },
}

type No = (Reason, StatusCode, String);

/// A request of a transparent connection, or inside CONNECT, over HTTP/1.
pub fn h1(head: RequestHead, connection: &Connection) -> Result<Box<Asked>, Box<Rejected>> {
    match reconcile(&head, connection) {
        Ok((host, target)) => Ok(Box::new(Asked {
            scheme: connection.scheme,
            host,
            port: connection.port,
            target: target.unwrap_or(head.target),
            method: head.method,
            headers: head.headers,
            proto: Proto::H1,
            dst_mismatch: false,
            conduct: Conduct::default(),
        })),
        Err(no) => Err(rejected_h1(&head, connection.scheme, no)),
    }
}

/// The name, and the target where it is not the head's own.
fn reconcile(head: &RequestHead, connection: &Connection) -> Result<(Host, Option<String>), No> {
    if head.method == Method::CONNECT {
        return Err((Reason::Connect, StatusCode::METHOD_NOT_ALLOWED, "CONNECT inside a connection".into()));
    }
    let stated = one_host(head)?;
    let (uri, target) = match absolute(&head.target)? {
        Some(uri) => (Some(uri.authority), Some(uri.path_and_query)),
        None => (None, None),
    };
    if let (Some(uri), Some(host)) = (&uri, stated)
        && !same(uri, &parse(host)?, connection.scheme)
    {
        return Err(contradiction(&uri.to_string(), host));
    }
    if let Some(scheme) = absolute_scheme(&head.target)
        && !scheme.eq_ignore_ascii_case(connection.scheme.as_str())
    {
        return Err(bad(format!(
            "the target's scheme is {scheme} on a {} connection",
            connection.scheme.as_str()
        )));
    }
    // The ordinary case costs no parsing: the field repeats the connection's own name.
    if let (None, Some(text), Some(Host::Name(bound))) = (&uri, stated, &connection.host)
        && text == bound.as_str()
    {
        return Ok((Host::Name(bound.clone()), None));
    }
    let authority = match (uri, stated) {
        (Some(uri), _) => uri,
        (None, Some(text)) => parse(text)?,
        (None, None) => match connection.host.as_ref().or(connection.leased.as_ref()) {
            Some(host) => return Ok((host.clone(), target)),
            None => {
                let detail = "an HTTP/1.0 request without a name".to_owned();
                return Err((Reason::NoAuthority, StatusCode::FORBIDDEN, detail));
            }
        },
    };
    agree(&authority, connection)?;
    Ok((authority.host, target))
}

/// A request of the explicit door: absolute form for http, or CONNECT.
pub(super) fn explicit(head: RequestHead) -> Result<Explicit, Box<Rejected>> {
    match explicit_parts(&head) {
        Ok(Parts::Connect(host, port)) => Ok(Explicit::Connect { host, port }),
        Ok(Parts::Absolute(host, port, target)) => Ok(Explicit::Request(Box::new(Asked {
            scheme: Scheme::Http,
            host,
            port,
            target,
            method: head.method,
            headers: head.headers,
            proto: Proto::H1,
            dst_mismatch: false,
            conduct: Conduct::default(),
        }))),
        Err(no) => Err(rejected_h1(&head, Scheme::Http, no)),
    }
}

enum Parts {
    Connect(Host, u16),
    Absolute(Host, u16, String),
}

fn explicit_parts(head: &RequestHead) -> Result<Parts, No> {
    let stated = one_host(head)?;
    if head.method == Method::CONNECT {
        let asked = parse(&head.target)?;
        let Some(port) = asked.port else { return Err(bad("CONNECT without a port".into())) };
        if let Some(text) = stated {
            let field = parse(text)?;
            if field.host != asked.host || field.port.is_some_and(|p| p != port) {
                return Err(contradiction(&head.target, text));
            }
        }
        return Ok(Parts::Connect(asked.host, port));
    }
    let Some(uri) = absolute(&head.target)? else {
        return Err(bad("a request to a proxy names its target in absolute form".into()));
    };
    if absolute_scheme(&head.target).is_none_or(|scheme| !scheme.eq_ignore_ascii_case("http")) {
        return Err(bad("only http is fetched in absolute form; https goes through CONNECT".into()));
    }
    if let Some(text) = stated
        && !same(&uri.authority, &parse(text)?, Scheme::Http)
    {
        return Err(contradiction(&uri.authority.to_string(), text));
    }
    let port = uri.authority.port.unwrap_or(80);
    Ok(Parts::Absolute(uri.authority.host, port, uri.path_and_query))
}

/// A request of an HTTP/2 stream, and what its head says of its body, which is framing.
pub(super) struct Claimed {
    pub(super) request: Result<Box<Asked>, Box<Rejected>>,
    pub(super) length: Option<u64>,
    pub(super) expects_continue: bool,
}

/// As the `h2` crate has read its head and `taken` was seen beside it.
pub(super) fn h2(
    mut parts: http::request::Parts,
    taken: &Taken,
    connection: &Connection,
    fields: usize,
) -> Claimed {
    match reconcile_h2(&mut parts, taken, connection, fields) {
        Ok(Reconciled { host, length, expects_continue }) => {
            let target = parts.uri.path_and_query().map_or_else(String::new, |p| p.as_str().to_owned());
            let mut headers = parts.headers;
            headers.remove(CONTENT_LENGTH);
            headers.remove(HOST);
            join_cookies(&mut headers);
            let request = Ok(Box::new(Asked {
                scheme: connection.scheme,
                host,
                port: connection.port,
                target,
                method: parts.method,
                headers,
                proto: Proto::H2,
                dst_mismatch: false,
                conduct: taken.conduct.clone(),
            }));
            Claimed { request, length, expects_continue }
        }
        Err((reason, status, detail)) => {
            let request = Err(Box::new(Rejected {
                refusal: Refusal::new(reason, detail),
                status,
                authority: parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
                method: Some(parts.method),
                target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                scheme: connection.scheme,
                proto: Proto::H2,
            }));
            Claimed { request, length: None, expects_continue: false }
        }
    }
}

struct Reconciled {
    host: Host,
    length: Option<u64>,
    expects_continue: bool,
}

/// Cookies that HTTP/2 carries in pieces are one field in every other form (RFC 9113 section 8.2.3), and are judged as
/// one.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn reconcile_h2(
    parts: &mut http::request::Parts,
    taken: &Taken,
    connection: &Connection,
    fields: usize,
) -> Result<Reconciled, No> {
    if parts.method == Method::CONNECT {
        return Err((Reason::Connect, StatusCode::METHOD_NOT_ALLOWED, "CONNECT inside a connection".into()));
    }
    if parts.headers.len() > fields {
        let detail = "more header fields than the limit".to_owned();
        return Err((Reason::TooLarge, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail));
    }
    check_fields(&parts.headers).map_err(|detail| bad(detail.into()))?;
    if taken.fragment {
        return Err(bad("the target holds a fragment".into()));
    }
    // RFC 9113 section 8.3.1: a path begins with "/", or is the asterisk of OPTIONS.
    if parts.uri.path_and_query().is_none_or(|target| !target.as_str().starts_with(['/', '*'])) {
        return Err(bad("a :path that is no path".into()));
    }
    let length = stated_length(&parts.headers)
        .map_err(|detail| (Reason::BadFraming, StatusCode::BAD_REQUEST, detail.to_owned()))?;
    let expects_continue = take_expect(&mut parts.headers)
        .map_err(|error| (Reason::BadRequest, StatusCode::EXPECTATION_FAILED, error.to_string()))?;
    let host = host_of_h2(parts, connection)?;
    Ok(Reconciled { host, length, expects_continue })
}

fn host_of_h2(parts: &http::request::Parts, connection: &Connection) -> Result<Host, No> {
    // Only who translates from HTTP/1 may leave it out (RFC 9113 section 8.3.1), and then the `h2` crate does not show
    // the :scheme.
    let Some(authority) = parts.uri.authority() else {
        return Err(bad("a request without :authority".into()));
    };
    if parts.uri.scheme_str().is_none_or(|scheme| scheme != connection.scheme.as_str()) {
        return Err(bad("the :scheme is not that of the connection".into()));
    }
    let text = authority.as_str();
    if let Some(host) = host_fields(&parts.headers)?
        && !same(&parse(text)?, &parse(host)?, connection.scheme)
    {
        return Err(contradiction(text, host));
    }
    if let Some(Host::Name(bound)) = &connection.host
        && text == bound.as_str()
    {
        return Ok(Host::Name(bound.clone()));
    }
    let authority = parse(text)?;
    agree(&authority, connection)?;
    Ok(authority.host)
}

/// Whether a request's own authority is the one that its connection bound.
fn agree(authority: &Authority, connection: &Connection) -> Result<(), No> {
    let host_agrees = connection.host.as_ref().is_none_or(|bound| *bound == authority.host);
    let port_agrees = authority.port.is_none_or(|port| port == connection.port);
    if host_agrees && port_agrees {
        return Ok(());
    }
    let bound = connection.host.as_ref().map_or_else(|| "the destination".to_owned(), ToString::to_string);
    let detail = format!("the request names {authority}, its connection {bound}:{}", connection.port);
    Err((Reason::AuthorityMismatch, StatusCode::MISDIRECTED_REQUEST, detail))
}

fn one_host(head: &RequestHead) -> Result<Option<&str>, No> {
    let stated = host_fields(&head.headers)?;
    if stated.is_none() && head.version >= Version::HTTP_11 {
        return Err(bad("an HTTP/1.1 request without Host".into()));
    }
    Ok(stated)
}

fn host_fields(headers: &HeaderMap) -> Result<Option<&str>, No> {
    let mut fields = headers.get_all(HOST).iter();
    let first = fields.next();
    if fields.next().is_some() {
        return Err(bad("more than one Host".into()));
    }
    first.map(|value| value.to_str().map_err(|_| bad("a Host that is not ASCII".into()))).transpose()
}

fn parse(text: &str) -> Result<Authority, No> {
    Authority::parse(text).map_err(|error| match error {
        // Some resolvers take such a name for an address, so it is refused as one.
        AuthorityError::Host(HostNameError::Numeric) => (
            Reason::AddrBlocked,
            StatusCode::FORBIDDEN,
            "a host that some resolvers read as an address".to_owned(),
        ),
        error => bad(format!("the authority is not valid: {error}")),
    })
}

/// Equal, where an absent port is the scheme's own.
fn same(a: &Authority, b: &Authority, scheme: Scheme) -> bool {
    a.host == b.host && a.port.or(scheme.default_port()) == b.port.or(scheme.default_port())
}

struct AbsoluteForm {
    authority: Authority,
    path_and_query: String,
}

fn absolute_scheme(target: &str) -> Option<&str> {
    target
        .split_once("://")
        .map(|(scheme, _)| scheme)
        .filter(|scheme| scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// `scheme://authority/path?query`; `None` for the origin form and `*`.
fn absolute(target: &str) -> Result<Option<AbsoluteForm>, No> {
    if target.starts_with('/') || target == "*" {
        return Ok(None);
    }
    let Some(scheme) = absolute_scheme(target) else {
        return Err(bad("the request target has no valid form".into()));
    };
    let rest = target.get(scheme.len() + 3..).unwrap_or_default();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(Some(AbsoluteForm { authority: parse(authority)?, path_and_query: format!("{slash}{path}") }))
}

fn bad(detail: String) -> No {
    (Reason::BadRequest, StatusCode::BAD_REQUEST, detail)
}

fn contradiction(uri: &str, host: &str) -> No {
    (Reason::AuthorityMismatch, StatusCode::BAD_REQUEST, format!("the target names {uri}, Host names {host}"))
}

fn rejected_h1(head: &RequestHead, scheme: Scheme, (reason, status, detail): No) -> Box<Rejected> {
    let uri = absolute(&head.target).ok().flatten().map(|uri| uri.authority.to_string());
    let field = || head.headers.get(HOST).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let connect = (head.method == Method::CONNECT).then(|| head.target.clone());
    Box::new(Rejected {
        refusal: Refusal::new(reason, detail),
        status,
        authority: uri.or(connect).or_else(field).unwrap_or_default(),
        method: Some(head.method.clone()),
        target: head.target.clone(),
        scheme,
        proto: Proto::H1,
    })
}
