//! What the hooks see of a connection and of a request, and what they may change. Bodies and credentials that the
//! gate puts in are in no view.

use super::run::refuse;
use super::view::{Fallible, Handle, Head, State, register_head, text};
use crate::base::{Door, Host, Scheme};
use http::{HeaderMap, Method};
use rhai::{Dynamic, Engine, ImmutableString};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// A connection whose destination is known.
#[derive(Debug, Clone)]
pub struct FlowView {
    pub client: Arc<str>,
    pub door: Door,
    pub source: IpAddr,
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
}

/// A canonical request as it was judged.
#[derive(Debug, Clone)]
pub struct RequestView {
    pub client: Arc<str>,
    pub door: Door,
    pub method: Method,
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
    /// As it is sent, with its escapes.
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
}

/// What a hook changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Scheme, host, port, path or query.
    pub target: bool,
    pub headers: bool,
}

impl Changes {
    /// Whether the message has to be judged again.
    pub fn any(self) -> bool {
        self.target || self.headers
    }
}

/// The connection as a script's value.
pub(super) fn flow_value(flow: FlowView) -> Dynamic {
    Dynamic::from(Arc::new(flow))
}

pub(super) fn register(engine: &mut Engine) {
    type Flow = Arc<FlowView>;
    type Request = Handle<RequestView>;
    let most = engine.max_string_size();
    engine
        .register_type_with_name::<Flow>("Flow")
        .register_get("client", move |flow: &mut Flow| text("client", &flow.client, most))
        .register_get("door", |flow: &mut Flow| ImmutableString::from(flow.door.as_str()))
        .register_get("source", |flow: &mut Flow| ImmutableString::from(flow.source.to_string()))
        .register_get("scheme", |flow: &mut Flow| ImmutableString::from(flow.scheme.as_str()))
        .register_get("host", |flow: &mut Flow| host_text(&flow.host))
        .register_get("port", |flow: &mut Flow| i64::from(flow.port));
    engine
        .register_type_with_name::<Request>("Request")
        .register_get("client", move |req: &mut Request| text("client", &req.state().view.client, most))
        .register_get("door", |req: &mut Request| ImmutableString::from(req.state().view.door.as_str()))
        .register_get("method", move |req: &mut Request| {
            text("method", req.state().view.method.as_str(), most)
        })
        .register_get("scheme", |req: &mut Request| ImmutableString::from(req.state().view.scheme.as_str()))
        .register_get("host", |req: &mut Request| host_text(&req.state().view.host))
        .register_get("port", |req: &mut Request| i64::from(req.state().view.port))
        .register_get("path", move |req: &mut Request| text("path", &req.state().view.path, most))
        .register_get("query", move |req: &mut Request| {
            text("query", req.state().view.query.as_deref().unwrap_or_default(), most)
        })
        .register_set("scheme", |req: &mut Request, value: ImmutableString| {
            set_scheme(&mut req.state(), &value)
        })
        .register_set("host", |req: &mut Request, value: ImmutableString| set_host(&mut req.state(), &value))
        .register_set("port", |req: &mut Request, value: i64| set_port(&mut req.state(), value))
        .register_set("path", |req: &mut Request, value: ImmutableString| set_path(&mut req.state(), &value))
        .register_set("query", |req: &mut Request, value: ImmutableString| {
            set_query(&mut req.state(), &value)
        });
    register_head::<RequestView>(engine);
}

impl Head for RequestView {
    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }
}

/// Stands in a handle from which the view was taken; no script sees it.
impl Default for RequestView {
    fn default() -> Self {
        Self {
            client: Arc::default(),
            door: Door::Transparent,
            method: Method::GET,
            scheme: Scheme::Https,
            host: Host::Ip(Ipv4Addr::UNSPECIFIED.into()),
            port: 0,
            path: String::new(),
            query: None,
            headers: HeaderMap::new(),
        }
    }
}

fn host_text(host: &Host) -> ImmutableString {
    match host {
        Host::Name(name) => name.as_str().into(),
        Host::Ip(address) => address.to_string().into(),
    }
}

fn set_scheme(state: &mut State<RequestView>, value: &str) -> Fallible<()> {
    let scheme = match value {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(refuse("a scheme is \"http\" or \"https\"")),
    };
    state.may_write(0)?;
    state.changes.target |= scheme != state.view.scheme;
    state.view.scheme = scheme;
    Ok(())
}

fn set_host(state: &mut State<RequestView>, value: &str) -> Fallible<()> {
    let host = match value.parse::<IpAddr>() {
        Ok(address) => Host::Ip(address.to_canonical()),
        Err(_) => Host::parse(value).map_err(|e| refuse(format!("the host cannot be set: {e}")))?,
    };
    state.may_write(0)?;
    state.changes.target |= host != state.view.host;
    state.view.host = host;
    Ok(())
}

fn set_port(state: &mut State<RequestView>, value: i64) -> Fallible<()> {
    let port = u16::try_from(value).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| refuse("a port is a number from 1 to 65535"))?;
    state.may_write(0)?;
    state.changes.target |= port != state.view.port;
    state.view.port = port;
    Ok(())
}

fn set_path(state: &mut State<RequestView>, value: &str) -> Fallible<()> {
    let is_fit =
        value.starts_with('/') && value.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#');
    if !is_fit {
        return Err(refuse("a path begins with / and holds visible ASCII characters, without ? and #"));
    }
    state.may_write(value.len())?;
    state.changes.target |= value != state.view.path;
    state.view.path = value.to_owned();
    Ok(())
}

/// The empty text takes the query away.
fn set_query(state: &mut State<RequestView>, value: &str) -> Fallible<()> {
    if !value.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(refuse("a query holds visible ASCII characters, without #"));
    }
    state.may_write(value.len())?;
    let query = (!value.is_empty()).then(|| value.to_owned());
    state.changes.target |= query != state.view.query;
    state.view.query = query;
    Ok(())
}
