//! `[[rule.match]]`: the words of the Gateway API's HTTPRoute, made into conditions. Regular expressions are anchored
//! over the whole value and limited in size; for a deny everything is compared without case.

use super::super::fields;
use super::super::git::{self, Access};
use super::super::matching::{FieldMatch, Match, PathMatch, Side, ValueMatch, fold};
use super::super::readings;
use super::parts::bounded;
use super::section::{At, Section};
use http::{HeaderName, Method};
use regex::bytes::{Regex, RegexBuilder};

/// Longer expressions are data, not conditions.
const MAX_REGEX_BYTES: usize = 4_096;
/// The compiled size of one expression; a policy may hold thousands.
const MAX_COMPILED_BYTES: usize = 256 * 1024;

pub(super) fn condition(mut section: Section<'_, '_>, side: Side) -> Match {
    let methods = section.strings("methods");
    if let Some(list) = &methods
        && list.is_empty()
    {
        section.problem(
            "methods",
            "methods is empty, so nothing could match",
            "leave it out to match every method",
        );
    }
    let methods = methods.unwrap_or_default().iter().filter_map(|text| method(&section, text)).collect();
    let git = section.string("git").and_then(|text| access(&section, &text));
    let path = section.table("path", "path").and_then(|table| path_match(table, side, section.has("git")));
    let headers = section.tables("headers", "headers");
    let headers = headers.into_iter().filter_map(|table| header(table, side)).collect::<Vec<_>>();
    let query = section.tables("query", "query");
    let query = query.into_iter().filter_map(|table| parameter(table, side)).collect::<Vec<_>>();
    bounded(&section, "headers", &headers);
    bounded(&section, "query", &query);
    for key in ["methods", "query"].into_iter().filter(|key| section.has("git") && section.has(key)) {
        let help = "write another [[rule.match]] for what is not git's";
        section.problem(
            key,
            format!("git says which methods and queries it means, so {key} has no place"),
            help,
        );
    }
    if !["git", "methods", "path", "headers", "query"].iter().any(|key| section.has(key)) {
        let help = "leave the whole [[rule.match]] out to match every request";
        section.problem("match", "[[rule.match]] without a condition", help);
    }
    section.finish();
    Match { git, methods, path, headers, query }
}

fn access(section: &Section<'_, '_>, text: &At<String>) -> Option<Access> {
    let known = Access::ALL.into_iter().find(|access| access.as_str() == text.value);
    if known.is_none() {
        let problem =
            text.place.problem(format!("git has to be \"read\" or \"write\", not {:?}", text.value));
        section.reader.push(problem.help("an allow opens up to it, a deny closes from it on"));
    }
    known
}

fn method(section: &Section<'_, '_>, text: &At<String>) -> Option<Method> {
    let plain =
        text.value.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    let problem = match text.value.as_str() {
        "CONNECT" | "TRACE" | "TRACK" => text.place.problem(format!("{} is never forwarded", text.value)),
        _ if !plain || text.value.is_empty() => text
            .place
            .problem(format!("{:?} is not a method", text.value))
            .help("methods are case-sensitive and written in capitals, such as \"GET\""),
        name => return Method::from_bytes(name.as_bytes()).ok(),
    };
    section.reader.push(problem);
    None
}

/// With `git` the path names a repository, which may be written with its `.git`.
fn path_match(mut section: Section<'_, '_>, side: Side, git: bool) -> Option<PathMatch> {
    let (kind, text) = section.one_of(&["exact", "prefix", "glob", "regex"])?;
    let made = match kind {
        "regex" => regex(&text.value, side).map(PathMatch::Regex),
        "glob" if git => glob(&git::rule_glob(&text.value), side),
        "glob" => glob(&text.value, side),
        _ => rule_path(&text.value).map(|path| {
            let path = folded(path, side);
            match kind {
                "exact" if git => PathMatch::Exact(git::rule_repository(path)),
                "exact" => PathMatch::Exact(path),
                _ if git => PathMatch::Prefix(git::rule_repository(without_end_slash(path))),
                _ => PathMatch::Prefix(without_end_slash(path)),
            }
        }),
    };
    let made = made.map_err(|message| section.reader.push(text.place.problem(message)));
    section.finish();
    made.ok()
}

fn folded(text: Vec<u8>, side: Side) -> Vec<u8> {
    match side {
        Side::Allow => text,
        Side::Deny => fold(&text).into_owned(),
    }
}

fn without_end_slash(mut path: Vec<u8>) -> Vec<u8> {
    while path.last() == Some(&b'/') {
        path.pop();
    }
    path
}

/// A literal path of a rule, in the form in which requests are read.
fn rule_path(text: &str) -> Result<Vec<u8>, String> {
    if !text.starts_with('/') {
        return Err("a path starts with a slash".into());
    }
    if text.contains(['?', '#', '\\']) || text.chars().any(char::is_control) {
        return Err("a path holds no '?', '#', backslash or control character; conditions on the query have a key of their own".into());
    }
    let decoded = readings::decode_rule_path(text).map_err(|error| error.to_string())?;
    if decoded.split(|&b| b == b'/').any(|segment| matches!(segment, b"." | b"..")) {
        return Err("a path with dot segments never matches; they are removed from requests".into());
    }
    Ok(decoded)
}

/// `*` stands for any part of one segment (as a whole segment: not nothing), `**` as a whole segment for any number
/// of segments, none too.
fn glob(text: &str, side: Side) -> Result<PathMatch, String> {
    if text.contains(['[', ']', '{', '}']) {
        return Err("a path glob knows only * and **; use regex for more".into());
    }
    let path = rule_path(text)?;
    let path = String::from_utf8(path).map_err(|_| "a path glob has to be UTF-8".to_owned())?;
    if let Some(prefix) = path.strip_suffix("/**")
        && !prefix.contains('*')
        && !prefix.ends_with('/')
    {
        return Ok(PathMatch::Prefix(folded(prefix.as_bytes().to_vec(), side)));
    }
    let mut pattern = String::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "**" => pattern.push_str("(?:/.*)?"),
            "*" => pattern.push_str("/[^/]+"),
            _ if segment.contains("**") => return Err("** stands for whole segments only".into()),
            _ => {
                pattern.push('/');
                let literals: Vec<String> = segment.split('*').map(regex::escape).collect();
                pattern.push_str(&literals.join("[^/]*"));
            }
        }
    }
    regex(&pattern, side).map(PathMatch::Regex)
}

fn header(mut section: Section<'_, '_>, side: Side) -> Option<FieldMatch<HeaderName>> {
    let name = section.required("name", "\"accept\"");
    let name = name.and_then(|text| header_name(&section, &text));
    let value = value(&mut section, side);
    section.finish();
    Some(FieldMatch { name: name?, value: value? })
}

fn parameter(mut section: Section<'_, '_>, side: Side) -> Option<FieldMatch<String>> {
    let name = section.required("name", "\"page\"");
    let value = value(&mut section, side);
    section.finish();
    Some(FieldMatch { name: name?.value, value: value? })
}

fn value(section: &mut Section<'_, '_>, side: Side) -> Option<ValueMatch> {
    let (kind, text) = section.one_of(&["value", "regex"])?;
    if kind == "value" {
        return Some(ValueMatch::Exact(folded(text.value.into_bytes(), side)));
    }
    match regex(&text.value, side) {
        Ok(regex) => Some(ValueMatch::Regex(regex)),
        Err(message) => {
            section.reader.push(text.place.problem(message));
            None
        }
    }
}

/// A field that a rule may name: not one that the gate makes itself or never sends on.
pub(super) fn header_name(section: &Section<'_, '_>, text: &At<String>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.value.as_bytes());
    let problem = match &name {
        Ok(name) if name == http::header::HOST => {
            text.place.problem("the Host field is always the canonical name").help("use hosts")
        }
        Ok(name) if fields::is_managed(name.as_str()) => {
            text.place.problem(format!("{name} is made or removed by the gate on every request"))
        }
        Ok(_) => return name.ok(),
        Err(_) => text.place.problem(format!("{:?} is not a header field's name", text.value)),
    };
    section.reader.push(problem);
    None
}

fn regex(text: &str, side: Side) -> Result<Regex, String> {
    if text.len() > MAX_REGEX_BYTES {
        return Err(format!("a regular expression is at most {MAX_REGEX_BYTES} bytes long"));
    }
    // Alone first: an unbalanced parenthesis must not undo the anchors.
    regex_syntax_check(text)?;
    let anchored = format!(r"\A(?:{text})\z");
    let build = |unicode: bool| {
        RegexBuilder::new(&anchored)
            .unicode(unicode)
            .case_insensitive(side == Side::Deny)
            .dot_matches_new_line(side == Side::Deny)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .nest_limit(50)
            .build()
    };
    // A deny has to see bytes that are no UTF-8 too, which only `.` of a byte expression matches.
    let built = match side {
        Side::Allow => build(true),
        Side::Deny => build(false).or_else(|_| build(true)),
    };
    built.map_err(|error| explain(&error))
}

fn regex_syntax_check(text: &str) -> Result<(), String> {
    let alone = RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).nest_limit(50).build();
    alone.map(drop).map_err(|error| explain(&error))
}

fn explain(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "the regular expression needs too large an automaton".into(),
        // The last line says what is wrong; those before it draw the place.
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            format!("not a regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
        }
    }
}
