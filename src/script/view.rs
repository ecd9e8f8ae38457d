//! How a script holds a view: a handle that all its copies share, so that a helper function of the script changes the
//! same request. It lives for one call.

use super::request::Changes;
use super::run::refuse;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use rhai::{Array, Dynamic, EvalAltResult, ImmutableString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) type Fallible<T> = Result<T, Box<EvalAltResult>>;

/// All that a script may write into a head in one call.
const WRITTEN_MOST: usize = 64 * 1024;
const HEADERS_MOST: usize = 256;

/// A view as a script's value.
pub(super) struct Handle<V>(Arc<Mutex<State<V>>>);

pub(super) struct State<V> {
    pub view: V,
    pub changes: Changes,
    writable: bool,
    written: usize,
}

/// A message with a head.
pub(super) trait Head {
    fn headers(&self) -> &HeaderMap;
    fn headers_mut(&mut self) -> &mut HeaderMap;
}

impl<V> Handle<V> {
    pub fn writable(view: V) -> Self {
        Self::new(view, true)
    }

    pub fn read_only(view: V) -> Self {
        Self::new(view, false)
    }

    fn new(view: V, writable: bool) -> Self {
        Self(Arc::new(Mutex::new(State { view, changes: Changes::default(), writable, written: 0 })))
    }

    pub fn state(&self) -> MutexGuard<'_, State<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Default> Handle<V> {
    /// The view after the call.
    pub fn take(self) -> (V, Changes) {
        let mut state = self.state();
        (std::mem::take(&mut state.view), state.changes)
    }
}

impl<V> Clone for Handle<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V> State<V> {
    /// Asked before every change.
    pub fn may_write(&mut self, bytes: usize) -> Fallible<()> {
        if !self.writable {
            return Err(refuse("the request has been sent and cannot be changed"));
        }
        self.written = self.written.saturating_add(bytes);
        match self.written > WRITTEN_MOST {
            true => Err(refuse(format!("more than {} KiB written into one message", WRITTEN_MOST / 1024))),
            false => Ok(()),
        }
    }
}

/// A text of the view. One that is too long is an error, never cut: a check of the beginning would be no check.
pub(super) fn text(what: &str, text: &str, most: usize) -> Fallible<ImmutableString> {
    match text.len() > most {
        true => Err(refuse(format!("{what} is longer than {most} bytes"))),
        false => Ok(text.into()),
    }
}

/// The functions on heads, for each message that has one.
pub(super) fn register_head<V: Head + Send + 'static>(engine: &mut rhai::Engine) {
    let most = engine.max_string_size();
    engine.register_fn("header", move |handle: &mut Handle<V>, name: ImmutableString| {
        joined(handle.state().view.headers(), &header_name(&name)?, most)
    });
    engine.register_fn("headers", move |handle: &mut Handle<V>, name: ImmutableString| {
        listed(handle.state().view.headers(), &header_name(&name)?, most)
    });
    engine.register_fn("has_header", |handle: &mut Handle<V>, name: ImmutableString| -> Fallible<bool> {
        Ok(handle.state().view.headers().contains_key(&header_name(&name)?))
    });
    engine.register_fn("header_names", |handle: &mut Handle<V>| names(handle.state().view.headers()));
    engine.register_fn(
        "set_header",
        |handle: &mut Handle<V>, name: ImmutableString, value: ImmutableString| {
            set(&mut handle.state(), &name, &value)
        },
    );
    engine.register_fn("remove_header", |handle: &mut Handle<V>, name: ImmutableString| -> Fallible<()> {
        let name = changeable(&name)?;
        let mut state = handle.state();
        state.may_write(0)?;
        state.changes.headers |= state.view.headers_mut().remove(name).is_some();
        Ok(())
    });
}

/// Every value of a header as one (RFC 9110 section 5.3; `cookie` as RFC 6265 joins it). Giving the first only would
/// let a second one pass unseen.
fn joined(headers: &HeaderMap, name: &HeaderName, most: usize) -> Fallible<ImmutableString> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(ImmutableString::new()) };
    let first = text(name.as_str(), as_text(name, first)?, most)?;
    let separator = if *name == header::COOKIE { "; " } else { ", " };
    let mut all: Option<String> = None;
    for value in values {
        let all = all.get_or_insert_with(|| first.to_string());
        all.push_str(separator);
        all.push_str(as_text(name, value)?);
        if all.len() > most {
            return Err(refuse(format!("{name} is longer than {most} bytes")));
        }
    }
    Ok(all.map_or(first, Into::into))
}

fn listed(headers: &HeaderMap, name: &HeaderName, most: usize) -> Fallible<Array> {
    let mut list = Array::new();
    let mut total = 0;
    for value in headers.get_all(name) {
        let value = as_text(name, value)?;
        total += value.len();
        if total > most || list.len() >= HEADERS_MOST {
            return Err(refuse(format!("{name} is longer than {most} bytes")));
        }
        list.push(Dynamic::from(ImmutableString::from(value)));
    }
    Ok(list)
}

fn names(headers: &HeaderMap) -> Fallible<Array> {
    if headers.keys_len() > HEADERS_MOST {
        return Err(refuse(format!("the message has more than {HEADERS_MOST} headers")));
    }
    Ok(headers.keys().map(|name| Dynamic::from(ImmutableString::from(name.as_str()))).collect())
}

fn set<V: Head>(state: &mut State<V>, name: &str, value: &str) -> Fallible<()> {
    let name = changeable(name)?;
    let value = HeaderValue::from_str(value).map_err(|_| {
        refuse(format!("set_header: {name} cannot hold a line break or a character outside of ASCII"))
    })?;
    state.may_write(name.as_str().len() + value.len())?;
    let headers = state.view.headers();
    if headers.get_all(&name).iter().eq([&value]) {
        return Ok(());
    }
    if !headers.contains_key(&name) && headers.len() >= HEADERS_MOST {
        return Err(refuse(format!("set_header: the message has {HEADERS_MOST} headers already")));
    }
    state.view.headers_mut().insert(name, value);
    state.changes.headers = true;
    Ok(())
}

fn as_text<'a>(name: &HeaderName, value: &'a HeaderValue) -> Fallible<&'a str> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| refuse(format!("{name} is not text")))
}

fn header_name(name: &str) -> Fallible<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse("that is not the name of a header"))
}

/// The framing and the identity of a message are not a script's to write: they are made from what was judged.
fn changeable(name: &str) -> Fallible<HeaderName> {
    let name = header_name(name)?;
    let is_fixed = matches!(
        name.as_str(),
        "host"
            | "content-length"
            | "transfer-encoding"
            | "connection"
            | "keep-alive"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect"
            | "content-encoding"
            | "proxy-connection"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "http2-settings"
    );
    match is_fixed {
        true => Err(refuse(format!("a script cannot change {name}"))),
        false => Ok(name),
    }
}
