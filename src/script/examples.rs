//! Runs the examples of `docs/scripts.md`, so that the page stays true.

use super::message::tests::message;
use super::tests::{flow, view};
use super::*;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../docs/scripts.md");

/// The examples of the page, compiled, by name.
fn examples() -> BTreeMap<&'static str, Script> {
    let engine = Engine::new(Settings::default());
    let mut all = BTreeMap::new();
    for block in PAGE.split("```rhai example=").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let script = engine.compile(Path::new(name), text).unwrap_or_else(|e| panic!("{e}"));
        assert!(all.insert(name, script).is_none(), "{name} is there twice");
    }
    all
}

fn decide(script: &Script, view: RequestView) -> Decision {
    script.request(view).decision.unwrap()
}

#[test]
fn each_example_does_what_the_page_says() {
    let all = examples();
    assert_eq!(
        all.keys().copied().collect::<Vec<_>>(),
        ["github", "headers", "messages", "network", "staging"]
    );

    let github = &all["github"];
    assert_eq!(decide(github, view()), Decision::Pass);
    assert_eq!(
        decide(github, RequestView { method: Method::POST, ..view() }),
        Decision::Deny("read only".into())
    );
    let evil = RequestView { path: "/repos/acme-evil/x".into(), ..view() };
    assert_eq!(decide(github, evil), Decision::Deny("outside of acme".into()));

    let mut odd = view();
    odd.headers.insert("x-experimental", HeaderValue::from_static("1"));
    let ruling = all["headers"].request(odd);
    assert_eq!((ruling.decision.unwrap(), ruling.changes.headers), (Decision::Pass, true));
    assert_eq!(ruling.view.headers["x-client"], "agent");
    assert!(!ruling.view.headers.contains_key("x-experimental"));
    let headers = HeaderMap::from_iter([(http::header::SERVER, HeaderValue::from_static("x/1"))]);
    let failed = ResponseView { status: StatusCode::BAD_GATEWAY, headers };
    assert!(all["headers"].response(view(), failed).view.headers.is_empty());

    let message =
        |way, payload| all["messages"].message(MessageView { way, ..message(true, payload) }).unwrap();
    assert_eq!(message(Way::Up, b"subscribe:prices"), Decision::Pass);
    assert_eq!(message(Way::Up, b"upload:all"), Decision::Deny("not a known command".into()));
    assert_eq!(message(Way::Down, b"upload:all"), Decision::Pass);

    let ruling = all["staging"].request(RequestView { path: "/preview/7".into(), ..view() });
    assert!(ruling.changes.target);
    let sent = ruling.view;
    assert_eq!(
        (sent.host.to_string().as_str(), &*sent.path, sent.query),
        ("staging.example.com", "/current", None)
    );
    assert!(!all["staging"].request(view()).changes.any());

    let network = &all["network"];
    assert_eq!(network.connect(flow()).unwrap(), Decision::Deny("not from this network".into()));
    let inside = FlowView { source: "192.168.128.9".parse().unwrap(), ..flow() };
    assert_eq!(network.connect(inside).unwrap(), Decision::Pass);
    assert_eq!(decide(network, view()), Decision::Allow);
    let picture = HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("image/png"))]);
    assert!(matches!(decide(network, RequestView { headers: picture, ..view() }), Decision::Deny(_)));
}

#[test]
fn the_page_lists_the_default_limits_and_every_function() {
    let limits = Settings::default();
    assert_eq!((limits.operations, limits.call_levels, limits.string_bytes), (20_000, 16, 4096));
    assert_eq!((limits.array_items, limits.map_entries, limits.variables), (256, 128, 64));
    assert_eq!(limits.wall_time, Duration::from_millis(50));
    assert_eq!(limits.message_bytes, 64 * 1024);
    for row in [
        "message | 64 KiB",
        "operations | 20,000",
        "wall time | 50 ms",
        "each other | 16",
        "text | 4 KiB",
        "256, 128 entries",
        "variables | 64",
    ] {
        assert!(PAGE.contains(row), "{row}");
    }
    for name in functions::NAMES.iter().filter(|name| **name != "type_of") {
        assert!(PAGE.contains(&format!("`{name}(")), "{name}");
    }
}
