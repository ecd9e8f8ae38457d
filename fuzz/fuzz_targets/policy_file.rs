//! Property: any text is either refused, with every problem inside the file, or a policy under which a host that it
//! does not name is denied, whoever asks: no match means deny.
#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use outgate::base::{Host, HostName, Scheme};
use outgate::policy::{
    CanonicalRequest, ConnectVerdict, DnsVerdict, LoadOptions, Problem, Snapshot, SourceFile,
};
use std::sync::Arc;

/// No text below holds its last label by chance, and what holds it on purpose is left out.
const UNRELATED: &str = "host.zqxjkv";

fn check_place(problem: &Problem, text: &str) {
    assert!(!problem.message.is_empty(), "a problem without words");
    if problem.line == 0 {
        return;
    }
    let line = text.split('\n').nth(problem.line - 1);
    let Some(line) = line else { panic!("line {} of {} lines", problem.line, text.split('\n').count()) };
    let columns = line.chars().count() + 1;
    assert!((1..=columns).contains(&problem.column), "column {} of {columns}", problem.column);
}

fuzz_target!(|text: &str| {
    if text.contains("zqxjkv")
        || text.contains("danger_any_host")
        || text.contains("\\u")
        || text.contains("\\U")
    {
        return;
    }
    let source = SourceFile { path: "policy.toml".into(), text: text.to_owned() };
    let options = LoadOptions { without_secrets: true, ..LoadOptions::default() };
    let snapshot = match Snapshot::parse(&[source], &options) {
        Ok(snapshot) => Arc::new(snapshot),
        Err(problems) => {
            assert!(problems.iter().any(|problem| !problem.warning), "refused for nothing");
            problems.iter().for_each(|problem| check_place(problem, text));
            return;
        }
    };
    snapshot.warnings().iter().for_each(|problem| check_place(problem, text));
    let name = HostName::parse(UNRELATED).expect("a host name");
    for client in snapshot.clients() {
        for (scheme, port) in [(Scheme::Https, 443), (Scheme::Http, 80)] {
            let host = Host::Name(name.clone());
            let request = CanonicalRequest::new(scheme, host, port, Method::GET, "/", HeaderMap::new());
            let request = request.expect("a plain request");
            assert!(snapshot.judge_request(client, request).is_err(), "an unnamed host is allowed");
        }
        let connect = snapshot.judge_connect(client, &Host::Name(name.clone()), 443);
        assert!(matches!(connect, ConnectVerdict::Refuse(_)), "TLS to an unnamed host is opened");
        let dns = snapshot.judge_dns(client, &name, 1);
        assert!(matches!(dns, DnsVerdict::Deny(..)), "an unnamed host is resolved");
    }
});
