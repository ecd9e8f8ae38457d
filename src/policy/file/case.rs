//! `*.cases.toml`, read with the same care for places as policies.

use super::super::cases::{Asked, Case};
use super::super::explain::Verdict;
use super::super::problem::{Problems, SourceFile};
use super::section::{At, Section};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Reads the cases of one file.
pub(in crate::policy) struct CaseReader;

impl CaseReader {
    pub(in crate::policy) fn read(source: &SourceFile, problems: &mut Problems) -> Vec<Case> {
        let mut cases = Vec::new();
        super::with_root(source, "the case file", problems, |mut root| {
            let sections = root.tables("case", "[[case]]");
            cases.extend(sections.into_iter().filter_map(|section| case(section, source)));
            root.finish();
        });
        cases
    }
}

fn case(mut section: Section<'_, '_>, source: &SourceFile) -> Option<Case> {
    let line = section.place.line;
    let name = section.required("name", "\"the repository can be read\"");
    let client = section.string("client").map(|text| text.value);
    let asked = section
        .one_of(&["request", "connect", "tcp", "dns"])
        .and_then(|(kind, text)| asked(&section, kind, text));
    let headers = headers(&mut section);
    let body = section.string("body").map(|text| text.value).unwrap_or_default();
    let expect = section.required("expect", "\"allow\"").and_then(|text| {
        let verdict = Verdict::parse(&text.value);
        if verdict.is_none() {
            let problem = text.place.problem(format!("no such verdict: {:?}", text.value));
            section.reader.push(problem.help("allow, deny, tunnel or observe"));
        }
        verdict
    });
    let rule = section.string("rule").map(|text| text.value);
    let reason = section.string("reason").map(|text| text.value);
    section.finish();
    let file = source.path.clone();
    Some(Case {
        name: name?.value,
        file,
        line,
        client,
        asked: asked?,
        headers,
        body,
        expect: expect?,
        rule,
        reason,
    })
}

fn asked(section: &Section<'_, '_>, kind: &str, text: At<String>) -> Option<Asked> {
    let asked = match kind {
        "request" => Ok(Asked::Request(text.value)),
        "connect" => Asked::authority(&text.value).map(Asked::Connect),
        "tcp" => Asked::authority(&text.value).map(Asked::Tcp),
        _ => Asked::name(&text.value).map(Asked::Dns),
    };
    asked.map_err(|message| section.reader.push(text.place.problem(message))).ok()
}

fn headers(section: &mut Section<'_, '_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in section.string_map("headers") {
        match (HeaderName::from_bytes(name.value.as_bytes()), HeaderValue::from_str(&value.value)) {
            (Ok(name), Ok(value)) => {
                headers.append(name, value);
            }
            _ => section.reader.push(name.place.problem("not a header field")),
        }
    }
    headers
}
