//! Our own reading of what the gate sent: stricter than any server, so that a byte which is not canonical is a finding
//! by itself, and written apart from the gate's codec.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use outgate::policy::{LoadOptions, Snapshot, SourceFile, read_request_line};

use crate::support::pages::hex;

/// One request of an upstream connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub method: String,
    pub host: String,
    pub target: String,
    pub length: usize,
    pub digest: String,
    /// The gate says that it is the last of its connection.
    pub last: bool,
}

impl Reading {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
}

/// The request at the front of these bytes and how long it is; nothing where more would have to come.
pub fn first(bytes: &[u8]) -> Result<Option<(usize, Reading)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).ok().filter(|head| !head.contains('\0'));
    // A field value may hold bytes beyond ASCII; nothing that is compared does.
    let head = head.map_or_else(|| bytes[..end].iter().map(|&b| char::from(b)).collect(), str::to_owned);
    let mut lines = head.split("\r\n");
    if let Some(control) = head.replace("\r\n", "").chars().find(|c| *c != '\t' && (*c < ' ' || *c == '\x7f'))
    {
        return Err(format!("a control byte in a head: {control:?}"));
    }
    let line: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else { return Err(format!("the request line {line:?}")) };
    check_target(target)?;
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("the field {line:?}"))?;
        let is_name =
            |c: char| c.is_ascii_alphanumeric() && !c.is_ascii_uppercase() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_name) || value.trim_matches([' ', '\t']) != value {
            return Err(format!("the field {line:?}"));
        }
        fields.push((name, value));
    }
    let all = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| *name == wanted).map(|(_, value)| *value).collect()
    };
    let [host] = all("host")[..] else { return Err(format!("Host is {:?}", all("host"))) };
    let body = &bytes[end + 4..];
    let read = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Some((0, Vec::new())),
        ([length], []) => {
            let number: usize = length.parse().map_err(|_| format!("a length of {length}"))?;
            if number.to_string() != *length {
                return Err(format!("a length of {length}"));
            }
            body.get(..number).map(|body| (number, body.to_vec()))
        }
        ([], ["chunked"]) => chunked(body)?,
        (lengths, codings) => return Err(format!("lengths {lengths:?} and codings {codings:?}")),
    };
    // TE is of the connection, which has to be said of it and of nothing that is not there.
    let last = match (&all("te")[..], &all("connection")[..]) {
        ([], []) | (["trailers"], ["te"]) => false,
        ([], ["close"]) | (["trailers"], ["te", "close"]) => true,
        others => return Err(format!("TE and Connection are {others:?}")),
    };
    Ok(read.map(|(taken, body)| {
        let digest = hex(digest(&SHA256, &body).as_ref());
        let (method, host, target) = (method.to_owned(), host.to_owned(), target.to_owned());
        (end + 4 + taken, Reading { method, host, target, length: body.len(), digest, last })
    }))
}

/// A request and its place among the bytes of its connection.
pub type Placed = (Range<usize>, Reading);

/// The whole requests of a connection, and how many bytes of one that was given up follow.
pub fn all(bytes: &[u8]) -> Result<(Vec<Placed>, usize), String> {
    let (mut requests, mut from) = (Vec::new(), 0);
    while let Some((length, reading)) = first(&bytes[from..])? {
        let last = reading.last;
        requests.push((from..from + length, reading));
        from += length;
        if last && from < bytes.len() {
            return Err("more behind the last request".to_owned());
        }
    }
    Ok((requests, bytes.len() - from))
}

fn check_target(target: &str) -> Result<(), String> {
    let path = target.split('?').next().unwrap();
    let odd = |c: char| !c.is_ascii_graphic() || "\"<>#".contains(c);
    let dots = path.to_ascii_lowercase().replace("%2e", ".");
    let dots = dots.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")));
    let escapes = target
        .split('%')
        .skip(1)
        .all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()));
    if !path.starts_with('/') || target.contains(odd) || path.contains('\\') || dots || !escapes {
        return Err(format!("the target {target:?}"));
    }
    Ok(())
}

/// A chunked body as the gate writes it: no extension, no trailer.
fn chunked(bytes: &[u8]) -> Result<Option<(usize, Vec<u8>)>, String> {
    let (mut body, mut from) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[from..], b"\r\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes[from..from + end]).into_owned();
        let size = usize::from_str_radix(&text, 16).map_err(|_| format!("the chunk size {text:?}"))?;
        if format!("{size:x}") != text {
            return Err(format!("the chunk size {text:?}"));
        }
        from += end + 2;
        let Some(data) = bytes.get(from..from + size + 2) else { return Ok(None) };
        if !data.ends_with(b"\r\n") {
            return Err("a chunk or a message that does not end where it should".to_owned());
        }
        body.extend(&data[..size]);
        from += size + 2;
        if size == 0 {
            return Ok(Some((from, body)));
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// Of targets and the paths that a server made of them, those whose path the gate did not judge: a deny for it would
/// not have spoken.
pub fn unjudged(pairs: &[(String, String)]) -> Vec<&(String, String)> {
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC.remove(b'/');
    let mut policy = "[[client]]\nname = \"agent\"\nsource = [\"10.77.1.0/24\"]\n".to_owned();
    for (number, (_, path)) in pairs.iter().enumerate() {
        let bytes: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
        let path = resolved(&bytes);
        let exact = percent_encoding::percent_encode(&path, KEPT);
        write!(
            policy,
            "[[rule]]\nname = \"all {number}\"\nhosts = [\"n{number}.test\"]\naction = \"allow\"\n\
             [[rule]]\nname = \"but {number}\"\nhosts = [\"n{number}.test\"]\naction = \"deny\"\n\
             encoded_slash = \"allow\"\n[[rule.match]]\npath = {{ exact = \"{exact}\" }}\n"
        )
        .unwrap();
    }
    let file = SourceFile { path: "policy.toml".into(), text: policy };
    let snapshot = Snapshot::parse(&[file], &LoadOptions::default());
    let snapshot = Arc::new(snapshot.unwrap_or_else(|problems| panic!("{problems}")));
    let client = snapshot.client_by_name("agent").unwrap();
    let is_allowed = |number: usize, target: &str| {
        let line = format!("GET https://n{number}.test{target}");
        let request = read_request_line(&line, http::HeaderMap::new());
        let request = request.unwrap_or_else(|error| panic!("{line}: {error}"));
        snapshot.judge_request(client, request).is_ok()
    };
    let numbered = pairs.iter().enumerate();
    numbered.filter(|(number, (target, _))| is_allowed(*number, target)).map(|(_, pair)| pair).collect()
}

/// Where a path leads whose escaped slashes have become slashes.
fn resolved(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
        if matches!(segment, b"." | b"..") && segments.peek().is_none() {
            kept.push(b"");
        }
    }
    kept.iter().flat_map(|segment| [b"/", *segment].concat()).collect()
}

/// Whether escaped slashes, taken for slashes, lead above the root.
pub fn climbs(path: &str) -> bool {
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    let mut depth = 0_i32;
    decoded.split(|b| *b == b'/').skip(1).any(|segment| {
        depth += match segment {
            b"." | b"" => 0,
            b".." => -1,
            _ => 1,
        };
        depth < 0
    })
}
