//! What the kernel holds: equal to the printed text, replaced and mended as a whole.

use outgate::steer::{Intercept, Settings, SteerError, Tables, render};
use serde_json::{Value, json};

use crate::world::{Namespace, World};

/// The ruleset as nft understands it, without handles, owners and counts, and with the elements of sets in order.
fn listed(namespace: &Namespace) -> (Value, Vec<String>) {
    let (good, text) = namespace.exec(&["nft", "-j", "list", "ruleset"]);
    assert!(good, "{text}");
    let mut ruleset: Value = serde_json::from_str(&text).unwrap();
    settle(&mut ruleset);
    // The bytecode of the kernel: text that looks alike may hide another width or register.
    let (_, text) = namespace.exec(&["nft", "--debug=netlink", "list", "ruleset"]);
    let code = text.lines().filter(|line| line.starts_with("  [")).map(str::to_owned).collect();
    (ruleset, code)
}

fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            ["handle", "packets", "bytes"].iter().for_each(|field| drop(fields.remove(*field)));
            // `persist` is a word that nft does not know yet.
            if fields.get("flags") == Some(&json!(["owner", "unknown"])) {
                fields.remove("flags");
            }
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                elements.sort_by_key(Value::to_string);
            }
            fields.values_mut().for_each(settle);
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}

fn same_through_netlink_and_nft(settings: &Settings) {
    same_in_the_kernel(&render(settings), |tables| tables.apply(settings).unwrap());
}

/// What `apply` sends is, to the kernel, what nft makes of the text.
pub fn same_in_the_kernel(text: &str, apply: impl FnOnce(&mut Tables) + Send) {
    let (ours, theirs) = (Namespace::new("ours"), Namespace::new("theirs"));
    let _tables = ours.inside(|| {
        let mut tables = Tables::open().unwrap();
        apply(&mut tables);
        assert!(tables.intact().unwrap());
        tables
    });
    theirs.nft(text);
    let (ours, theirs) = (listed(&ours), listed(&theirs));
    assert!(theirs.1.len() > 20, "nft shows its bytecode");
    assert_eq!(ours, theirs);
}

#[test]
fn the_kernel_holds_what_fence_show_prints() {
    same_through_netlink_and_nft(&World::settings());
}

#[test]
fn the_kernel_holds_what_fence_show_prints_of_tproxy_and_the_guard() {
    let guard = ["docker0", "br-*", "fifteen-letters"].map(str::to_owned).into();
    same_through_netlink_and_nft(&Settings { intercept: Intercept::Tproxy, guard, ..World::settings() });
}

#[test]
fn the_kernel_holds_what_fence_show_prints_without_doors_and_with_odd_networks() {
    let settings = Settings {
        interfaces: vec!["fifteen-letters".into()],
        networks: ["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/25", "255.255.255.0/24", "192.0.2.1/32"]
            .map(|net| net.parse().unwrap())
            .into(),
        transparent_port: None,
        dns_port: None,
        explicit_ports: vec![],
        redirect_tcp_ports: vec![],
        quic_port: None,
        ..Settings::default()
    };
    same_through_netlink_and_nft(&settings);
}

#[test]
fn the_largest_settings_fit_into_one_batch() {
    let namespace = Namespace::new("large");
    let settings = Settings {
        interfaces: (0..64).map(|n| format!("tap{n}")).collect(),
        networks: (0..512u32)
            .map(|n| format!("10.{}.{}.0/24", n / 128, n % 128 * 2).parse().unwrap())
            .collect(),
        redirect_tcp_ports: (1000..1512).collect(),
        ..World::settings()
    };
    namespace.inside(|| {
        let mut tables = Tables::open().unwrap();
        tables.apply(&settings).unwrap();
        assert!(tables.intact().unwrap());
    });
    let (_, text) = namespace.exec(&["nft", "list", "set", "inet", "outgate_fence", "agent_net4"]);
    assert!(text.contains("10.0.0.0/24") && text.contains("10.3.254.0/24"), "{text}");
}

#[test]
fn a_second_owner_is_told_who_is_in_the_way() {
    let namespace = Namespace::new("two");
    namespace.inside(|| {
        let mut first = Tables::open().unwrap();
        first.apply(&World::settings()).unwrap();
        let error = Tables::open().unwrap().apply(&World::settings()).unwrap_err();
        assert!(matches!(error, SteerError::OwnedByAnother("outgate_fence")), "{error}");
        assert!(first.intact().unwrap());
    });
}

#[test]
fn plain_tables_of_older_kernels_are_mended() {
    let namespace = Namespace::new("plain");
    let mut tables = namespace.inside(|| Tables::open().unwrap().plain());
    tables.apply(&World::settings()).unwrap();
    for change in [
        "add rule inet outgate_fence forw accept",
        "delete table inet outgate_redirect",
        "flush ruleset",
        "delete element inet outgate_fence agent_if { \"agent0\" }",
        "add table inet outgate_fence { flags dormant; }",
    ] {
        assert!(tables.intact().unwrap());
        let before = listed(&namespace);
        namespace.nft(change);
        assert!(!tables.intact().unwrap(), "not seen: {change}");
        assert!(tables.mend().unwrap());
        assert_eq!(listed(&namespace), before);
    }
    assert!(!tables.mend().unwrap());
}

#[test]
fn rules_that_an_operator_loaded_as_text_are_taken_over() {
    let namespace = Namespace::new("text");
    namespace.nft(&render(&World::settings()));
    namespace.inside(|| {
        let mut tables = Tables::open().unwrap();
        tables.apply(&World::settings()).unwrap();
        assert!(!namespace.exec(&["nft", "delete", "table", "inet", "outgate_fence"]).0);
        tables.remove_all().unwrap();
        let presence = tables.presence().unwrap();
        assert!(!presence.fence && !presence.redirect);
    });
}

#[test]
fn settings_that_are_wrong_change_nothing() {
    let namespace = Namespace::new("wrong");
    namespace.inside(|| {
        let mut tables = Tables::open().unwrap();
        tables.apply(&World::settings()).unwrap();
        let wrong = Settings { interfaces: vec!["lo".into()], ..World::settings() };
        assert!(matches!(tables.apply(&wrong), Err(SteerError::Settings(_))));
        assert!(tables.intact().unwrap());
    });
}
