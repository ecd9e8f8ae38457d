//! git over HTTP: which requests of its smart protocol read a repository and which write to it (gitprotocol-http(5)).
//! `matching` asks this for a `[[rule.match]]` with `git`.
//!
//! An allow knows a request exactly as git sends it, so that no other spelling of a push can pass for a fetch. A deny
//! knows everything that some server could take for one. The dumb protocol is no part of either: its reads are plain
//! files, and its pushes need WebDAV methods that a rule has to name.

use super::matching::{Stage, fold};
use super::query::Query;
use http::Method;
use std::borrow::Cow;

/// What a request does to a repository, and how far a rule goes: an allow opens up to this, a deny closes from it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// Clone, fetch, `ls-remote`, archive.
    Read,
    /// Push, and Git LFS: whether its batch request goes up or down stands in its body alone.
    Write,
}

impl Access {
    pub(super) const ALL: [Self; 2] = [Self::Read, Self::Write];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The services of the smart protocol.
const SERVICES: [(&str, Access); 3] = [
    ("git-upload-pack", Access::Read),
    ("git-upload-archive", Access::Read),
    ("git-receive-pack", Access::Write),
];

/// What ends the path of a request to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    /// `info/refs`: which service is meant stands in the query.
    Refs,
    Service(Access),
    /// Below `info/lfs/`.
    Lfs,
}

/// A path that git's own clients make, parted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    /// Without `.git` at its end.
    pub(super) repository: &'a [u8],
    endpoint: Endpoint,
}

impl<'a> Asked<'a> {
    /// One reading of a path, as strict as an allow needs it.
    pub(super) fn of(path: &'a [u8]) -> Option<Self> {
        let (before, endpoint) = endpoint(path)?;
        // A server that looks for a service anywhere in a path would see another request.
        let doubtful = before.split(|&b| b == b'/').any(|segment| service(segment).is_some());
        (!doubtful).then(|| Self { repository: repository(before), endpoint })
    }

    /// What the request needs, or where it is not what git sends. The query is compared as it came: another order, a
    /// second parameter or an escape is no request of git's.
    pub(super) fn needs(&self, method: &Method, query: Option<&str>) -> Result<Access, Stage> {
        let wanted = if self.endpoint == Endpoint::Refs { Method::GET } else { Method::POST };
        if self.endpoint != Endpoint::Lfs && *method != wanted {
            return Err(Stage::Method);
        }
        match (self.endpoint, query) {
            (Endpoint::Refs, Some(query)) => {
                let named = query.strip_prefix("service=");
                let known = SERVICES.iter().find(|(name, _)| named == Some(name));
                known.map(|(_, access)| *access).ok_or(Stage::Query)
            }
            (Endpoint::Service(access), None) => Ok(access),
            (Endpoint::Refs, None) | (Endpoint::Service(_), Some(_)) => Err(Stage::Query),
            (Endpoint::Lfs, _) if super::matching::is_standard(method) => Ok(Access::Write),
            (Endpoint::Lfs, _) => Err(Stage::Method),
        }
    }
}

fn endpoint(path: &[u8]) -> Option<(&[u8], Endpoint)> {
    if let Some(before) = path.strip_suffix(b"/info/refs") {
        return Some((before, Endpoint::Refs));
    }
    if let Some(at) = memchr::memmem::find(path, b"/info/lfs/") {
        return Some((path.get(..at)?, Endpoint::Lfs));
    }
    let slash = memchr::memrchr(b'/', path)?;
    let last = path.get(slash + 1..)?;
    let (_, access) = SERVICES.iter().find(|(name, _)| name.as_bytes() == last)?;
    Some((path.get(..slash)?, Endpoint::Service(*access)))
}

/// `/o/r.git` and `/o/r` are the same repository to every server that knows both.
pub(super) fn repository(path: &[u8]) -> &[u8] {
    match path.strip_suffix(b".git") {
        Some(stem) if stem.last().is_some_and(|&b| b != b'/') => stem,
        _ if path.is_empty() => b"/",
        _ => path,
    }
}

/// The most that some server could make of a request; `None` where none takes it for git. `path` is one reading,
/// without case.
pub(super) fn perhaps(path: &[u8], method: &Method, query: &Query) -> Option<Access> {
    let in_path = path.split(|&b| b == b'/').filter_map(service).max();
    let mut in_query = None;
    for (name, access) in SERVICES {
        if query.perhaps("service", |value| memchr::memmem::find(&fold(value), name.as_bytes()).is_some()) {
            in_query = in_query.max(Some(access));
        }
    }
    let lfs = memchr::memmem::find(path, b"/info/lfs").map(|_| match *method {
        Method::GET | Method::HEAD => Access::Read,
        _ => Access::Write,
    });
    let refs = path.ends_with(b"/info/refs").then_some(Access::Read);
    in_path.max(in_query).max(lfs).max(refs)
}

/// The service that a segment names, its case and `;parameters` aside.
fn service(segment: &[u8]) -> Option<Access> {
    let named = segment.split(|&b| b == b';').next()?;
    let (_, access) = SERVICES.iter().find(|(name, _)| named.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(*access)
}

/// Whether any part of a path that could be its repository fits.
pub(super) fn any_repository(path: &[u8], fits: impl Fn(&[u8]) -> bool) -> bool {
    let ends = memchr::memchr_iter(b'/', path).skip(1).chain([path.len()]);
    ends.filter_map(|end| path.get(..end)).any(|part| fits(part) || fits(repository(part)))
}

/// A rule's own path, which may be written with the `.git` of a clone's address.
pub(super) fn rule_repository(path: Vec<u8>) -> Vec<u8> {
    match repository(&path) {
        short if short.len() < path.len() => short.to_vec(),
        _ => path,
    }
}

/// The same for a glob, before it is compiled.
pub(super) fn rule_glob(glob: &str) -> Cow<'_, str> {
    match glob.strip_suffix(".git") {
        Some(stem) if !stem.ends_with('/') => Cow::Borrowed(stem),
        _ => Cow::Borrowed(glob),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(method: Method, path: &str, query: Option<&str>) -> Option<Access> {
        Asked::of(path.as_bytes())?.needs(&method, query).ok()
    }

    #[test]
    fn what_git_sends_is_known() {
        let refs = |service| needs(Method::GET, "/o/r.git/info/refs", Some(service));
        assert_eq!(refs("service=git-upload-pack"), Some(Access::Read));
        assert_eq!(refs("service=git-upload-archive"), Some(Access::Read));
        assert_eq!(refs("service=git-receive-pack"), Some(Access::Write));
        assert_eq!(needs(Method::POST, "/o/r/git-upload-pack", None), Some(Access::Read));
        assert_eq!(needs(Method::POST, "/o/r/git-receive-pack", None), Some(Access::Write));
        assert_eq!(needs(Method::POST, "/o/r.git/info/lfs/objects/batch", None), Some(Access::Write));
        assert_eq!(needs(Method::GET, "/info/refs", Some("service=git-upload-pack")), Some(Access::Read));
    }

    #[test]
    fn pm_24_no_other_spelling_is_a_request_of_gits() {
        for query in [
            "service=git-upload-pack&service=git-receive-pack",
            "service=git-receive-pack&service=git-upload-pack",
            "a=b&service=git-upload-pack",
            "service=git-upload-pack;service=git-receive-pack",
            "service=git%2Dupload-pack",
            "Service=git-upload-pack",
            "service=git-upload-pack ",
            "service=",
            "",
        ] {
            assert_eq!(needs(Method::GET, "/o/r.git/info/refs", Some(query)), None, "{query}");
        }
        assert_eq!(needs(Method::GET, "/o/r.git/info/refs", None), None, "the dumb protocol");
        assert_eq!(needs(Method::HEAD, "/o/r/info/refs", Some("service=git-upload-pack")), None);
        assert_eq!(needs(Method::POST, "/o/r/git-upload-pack", Some("service=git-receive-pack")), None);
        assert_eq!(needs(Method::POST, "/o/r/git-upload-pack", Some("")), None);
        assert_eq!(needs(Method::GET, "/o/r/git-upload-pack", None), None);
        for path in [
            "/o/r/git-upload-pack/",
            "/o/r/git-upload-pack;x",
            "/o/git-receive-pack/git-upload-pack",
            "/o/Git-Receive-Pack;x/git-upload-pack",
            "/o/r.git/HEAD",
            "/o/r.git/objects/info/packs",
            "/git-upload-packs",
        ] {
            assert_eq!(needs(Method::POST, path, None), None, "{path}");
        }
    }

    #[test]
    fn a_repository_is_the_same_with_and_without_its_suffix() {
        for (path, expected) in [
            ("/o/r.git/info/refs", "/o/r"),
            ("/o/r/info/refs", "/o/r"),
            ("/o/.git/info/refs", "/o/.git"),
            ("/info/refs", "/"),
        ] {
            assert_eq!(Asked::of(path.as_bytes()).unwrap().repository, expected.as_bytes(), "{path}");
        }
        assert_eq!(rule_repository(b"/o/r.git".to_vec()), b"/o/r");
        assert_eq!(rule_glob("/o/*.git"), "/o/*");
    }

    #[test]
    fn pm_24_a_deny_sees_a_push_however_it_is_written() {
        let seen = |method: Method, path: &str, query: &str| {
            perhaps(&fold(path.as_bytes()), &method, &Query::read(query))
        };
        for (method, path, query) in [
            (Method::POST, "/o/r/GIT-receive-pack", ""),
            (Method::POST, "/o/r/git-receive-pack;x/", ""),
            (Method::GET, "/o/r/git-receive-pack/x", ""),
            (Method::GET, "/o/r/info/refs", "a=b;SERVICE=git%2Dreceive%2dpack"),
            (Method::GET, "/o/r/info/refs", "service=git-upload-pack&service[]=git-receive-pack"),
            (Method::HEAD, "/o/r/info/refs", "service=%20git-receive-pack%20"),
            (Method::POST, "/o/r.git/info/lfs/objects/batch", ""),
        ] {
            assert_eq!(seen(method, path, query), Some(Access::Write), "{path}?{query}");
        }
        assert_eq!(seen(Method::GET, "/o/r/info/refs", "service=git-upload-pack"), Some(Access::Read));
        assert_eq!(seen(Method::GET, "/o/r.git/info/lfs/objects/x", ""), Some(Access::Read));
        assert_eq!(seen(Method::GET, "/git/git/blob/master/git-receive-pack.txt", ""), None);
        assert!(any_repository(b"/o/r.git/git-receive-pack", |repository| repository == b"/o/r"));
    }
}
