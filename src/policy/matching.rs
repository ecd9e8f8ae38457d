//! What one `[[rule.match]]` asks of a request, and how far a request got before it failed.
//!
//! An allow must hold in every reading of path and query; a deny needs one reading, and looks at letters without case.

use super::CanonicalRequest;
use super::fields;
use super::git::{self, Access, Asked};
use super::query::Query;
use super::readings::Readings;
use http::{HeaderName, HeaderValue, Method};
use regex::bytes::Regex;
use std::borrow::Cow;
use std::cell::OnceCell;

/// The checks a rule makes of a request on its host, in their order. The furthest failure of all rules is the reason
/// of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Client,
    Scheme,
    Port,
    Path,
    Method,
    Query,
    Header,
    Git,
    WebSocket,
    Doh,
}

/// A request while it is judged: its readings are made once, when a rule first asks.
pub(super) struct Judged<'a> {
    pub(super) request: &'a CanonicalRequest,
    readings: OnceCell<Readings<'a>>,
    query: OnceCell<Query>,
}

impl<'a> Judged<'a> {
    pub(super) fn new(request: &'a CanonicalRequest) -> Self {
        Self { request, readings: OnceCell::new(), query: OnceCell::new() }
    }

    fn query(&self) -> &Query {
        self.query.get_or_init(|| Query::read(self.request.query().unwrap_or_default()))
    }

    /// Asks `test` of the path: an allow of every reading, a deny until one holds. Without `encoded_slash` an obscure
    /// path is never what an allow wants and always what a deny does. `parameters`: the condition spells them out, so that
    /// an allow is not asked of the readings without them.
    fn in_readings(
        &self,
        side: Side,
        encoded_slash: bool,
        parameters: bool,
        mut test: impl FnMut(&[u8]) -> Result<(), Stage>,
    ) -> Result<(), Stage> {
        let target = self.request.target();
        if let Some(plain) = target.plain_path() {
            return test(plain);
        }
        let readings = self.readings.get_or_init(|| target.readings());
        let fails = Err(Stage::Path);
        match side {
            Side::Allow if readings.obscure && !encoded_slash => fails,
            Side::Deny if readings.obscure && !encoded_slash => Ok(()),
            Side::Allow if parameters => readings.with_parameters().try_for_each(test),
            Side::Allow => readings.iter().try_for_each(test),
            Side::Deny => readings.iter().fold(fails, |found, path| found.or_else(|_| test(path))),
        }
    }
}

/// Whom a condition serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Allow,
    Deny,
}

#[derive(Debug, Default)]
pub(super) struct Match {
    /// A request of git's protocol that needs no more than this (a deny: no less). It says method and query itself, and
    /// `path` then names the repository.
    pub(super) git: Option<Access>,
    /// Empty: any method; for an allow, any standard one.
    pub(super) methods: Vec<Method>,
    pub(super) path: Option<PathMatch>,
    pub(super) headers: Vec<FieldMatch<HeaderName>>,
    pub(super) query: Vec<FieldMatch<String>>,
}

/// A named value's condition.
#[derive(Debug)]
pub(super) struct FieldMatch<N> {
    pub(super) name: N,
    pub(super) value: ValueMatch,
}

#[derive(Debug)]
pub(super) enum ValueMatch {
    Exact(Vec<u8>),
    /// Anchored at both ends.
    Regex(Regex),
}

#[derive(Debug)]
pub(super) enum PathMatch {
    Exact(Vec<u8>),
    /// Segment-wise, without a slash at its end: `/a` covers `/a`, `/a/` and `/a/b`.
    Prefix(Vec<u8>),
    /// Anchored at both ends; globs become one of these.
    Regex(Regex),
}

impl Match {
    /// `Err` is the stage that failed.
    pub(super) fn test(&self, judged: &Judged<'_>, side: Side, encoded_slash: bool) -> Result<(), Stage> {
        match self.git {
            Some(access) => self.git_holds(access, judged, side, encoded_slash)?,
            None => self.place_holds(judged, side, encoded_slash)?,
        }
        if !self.headers.iter().all(|condition| condition.headers_hold(judged.request, side)) {
            return Err(Stage::Header);
        }
        Ok(())
    }

    /// Path, method and query.
    fn place_holds(&self, judged: &Judged<'_>, side: Side, encoded_slash: bool) -> Result<(), Stage> {
        if let Some(path) = &self.path {
            let one = |reading: &[u8]| if path.one(reading, side) { Ok(()) } else { Err(Stage::Path) };
            judged.in_readings(side, encoded_slash, path.spells_parameters(), one)?;
        }
        if !self.method_holds(judged.request.method(), side) {
            return Err(Stage::Method);
        }
        if !self.query.iter().all(|condition| condition.query_holds(judged.query(), side)) {
            return Err(Stage::Query);
        }
        Ok(())
    }

    fn git_holds(
        &self,
        access: Access,
        judged: &Judged<'_>,
        side: Side,
        encoded_slash: bool,
    ) -> Result<(), Stage> {
        let (method, query) = (judged.request.method(), judged.request.query());
        let named = |repository: &[u8]| self.path.as_ref().is_none_or(|path| path.one(repository, side));
        judged.in_readings(side, encoded_slash, false, |reading| match side {
            Side::Allow => {
                let asked = Asked::of(reading).filter(|asked| named(asked.repository)).ok_or(Stage::Path)?;
                if asked.needs(method, query)? <= access { Ok(()) } else { Err(Stage::Git) }
            }
            Side::Deny => {
                let reading = fold(reading);
                let meant = git::perhaps(&reading, method, judged.query()) >= Some(access);
                if meant && git::any_repository(&reading, named) { Ok(()) } else { Err(Stage::Path) }
            }
        })
    }

    fn method_holds(&self, method: &Method, side: Side) -> bool {
        if self.methods.is_empty() {
            return side == Side::Deny || is_standard(method);
        }
        self.methods.contains(method)
    }
}

/// What a rule allows that names no method. Others (WebDAV, inventions) have to be named.
pub(super) fn is_standard(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::PATCH
            | Method::OPTIONS
    )
}

impl PathMatch {
    /// A literal path with a semicolon. Patterns do not count: one that only happens to take a semicolon would open what
    /// a server reads without it (`/admin;.js`).
    fn spells_parameters(&self) -> bool {
        match self {
            Self::Exact(own) | Self::Prefix(own) => own.contains(&b';'),
            Self::Regex(_) => false,
        }
    }

    fn one(&self, path: &[u8], side: Side) -> bool {
        let path = match side {
            Side::Allow => Cow::Borrowed(path),
            Side::Deny => fold(path),
        };
        match self {
            Self::Exact(own) => *own == *path,
            Self::Prefix(own) => match path.strip_prefix(own.as_slice()) {
                Some(rest) => rest.first().is_none_or(|&b| b == b'/'),
                None => false,
            },
            Self::Regex(regex) => regex.is_match(&path),
        }
    }
}

impl ValueMatch {
    fn accepts(&self, value: &[u8], side: Side) -> bool {
        match (self, side) {
            (Self::Exact(own), Side::Allow) => own == value,
            (Self::Exact(own), Side::Deny) => *own == *fold(value),
            (Self::Regex(regex), _) => regex.is_match(value),
        }
    }
}

impl FieldMatch<String> {
    fn query_holds(&self, query: &Query, side: Side) -> bool {
        match side {
            Side::Allow => query.surely(&self.name, |v| self.value.accepts(v, side)),
            Side::Deny => query.perhaps(&self.name, |v| self.value.accepts(v, side)),
        }
    }
}

impl FieldMatch<HeaderName> {
    /// Looks at every line of the field, also under the names that some servers take for it: a deny wants one that is
    /// accepted, an allow all of them, and the field under its own name.
    fn headers_hold(&self, request: &CanonicalRequest, side: Side) -> bool {
        let headers = request.headers();
        let mut lines = headers.iter().filter(|(name, _)| fields::alike(name, &self.name));
        let accepted = |(_, value): (_, &HeaderValue)| self.value.accepts(value.as_bytes(), side);
        match side {
            Side::Allow => headers.contains_key(&self.name) && lines.all(accepted),
            Side::Deny => lines.any(accepted),
        }
    }
}

/// Text without case; what a deny compares. Its own side was folded at load.
pub(super) fn fold(text: &[u8]) -> Cow<'_, [u8]> {
    if text.iter().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        return Cow::Borrowed(text);
    }
    match std::str::from_utf8(text) {
        Ok(text) => Cow::Owned(text.to_lowercase().into_bytes()),
        Err(_) => Cow::Owned(text.to_ascii_lowercase()),
    }
}
