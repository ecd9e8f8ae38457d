//! One table of cases through every door: same verdict, same record, same bytes upstream (DESIGN section 2, rule 9).

use crate::support::*;

const POLICY: &str = r#"
[[rule]]
name = "secure"
hosts = ["api.good.test"]
action = "allow"
  [[rule.match]]
  methods = ["GET", "POST"]
  path = { prefix = "/echo" }

[[rule]]
name = "clear"
hosts = ["plain.good.test"]
action = "allow"
scheme = "http"
ports = [80]
  [[rule.match]]
  methods = ["GET", "POST"]
  path = { prefix = "/echo" }

[[rule]]
name = "never"
hosts = ["*.good.test"]
action = "deny"
  [[rule.match]]
  path = { prefix = "/echo/never" }
"#;

/// What a case sends, but for the host; and the status it must get.
struct Case {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    headers: &'static str,
    body: &'static str,
    status: u16,
}

const CASES: &[Case] = &[
    Case {
        name: "a page",
        method: "GET",
        path: "/echo?a=1",
        headers: "Accept: */*\r\n",
        body: "",
        status: 200,
    },
    Case {
        name: "an upload",
        method: "POST",
        path: "/echo",
        headers: "Content-Length: 5\r\n",
        body: "hello",
        status: 200,
    },
    Case {
        name: "chunks",
        method: "POST",
        path: "/echo",
        headers: "Transfer-Encoding: chunked\r\n",
        body: "5\r\nhello\r\n0\r\n\r\n",
        status: 200,
    },
    Case { name: "dots", method: "GET", path: "/x/../echo/./a", headers: "", body: "", status: 200 },
    Case {
        name: "odd but legal",
        method: "GET",
        path: "/echo/a%20b+c,~!$&'()*;=:@",
        headers: "",
        body: "",
        status: 200,
    },
    Case { name: "another path", method: "GET", path: "/admin", headers: "", body: "", status: 403 },
    Case {
        name: "another method",
        method: "PUT",
        path: "/echo",
        headers: "Content-Length: 0\r\n",
        body: "",
        status: 403,
    },
    Case { name: "a deny rule", method: "GET", path: "/echo/never", headers: "", body: "", status: 403 },
    Case {
        name: "a path that climbs",
        method: "GET",
        path: "/echo/../admin",
        headers: "",
        body: "",
        status: 403,
    },
    Case { name: "no canonical form", method: "GET", path: "/echo/%zz", headers: "", body: "", status: 400 },
    Case {
        name: "no canonical framing",
        method: "POST",
        path: "/echo",
        headers: "Content-Length: 5x\r\n",
        body: "",
        status: 400,
    },
];

/// The fields that must not depend on the door.
const SAME: &[&str] =
    &["client", "scheme", "authority", "method", "path", "verdict", "rule", "reason", "policy"];

fn request(way: Way, case: &Case, host: &str) -> String {
    let Case { method, path, headers, body, .. } = case;
    let target = if way == Way::Absolute { format!("http://{host}{path}") } else { (*path).to_owned() };
    format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n{body}")
}

fn fields(record: &Record) -> Vec<(&'static str, String)> {
    SAME.iter()
        .map(|field| (*field, record.0.get(*field).map(ToString::to_string).unwrap_or_default()))
        .collect()
}

/// The gate that is meant for a way: redirected connections and TPROXY's come to different ones.
struct Beds {
    redirect: Bed,
    tproxy: Bed,
}

impl Beds {
    fn new() -> Self {
        let tproxy = Setup { policy: POLICY.into(), tproxy: true, ..Setup::default() };
        Self { redirect: Bed::new(POLICY), tproxy: Bed::with(&tproxy) }
    }

    fn of(&self, way: Way) -> &Bed {
        if way.is_tproxy() { &self.tproxy } else { &self.redirect }
    }
}

/// Runs every case through every way: one status, one record and one request upstream, whatever the way.
fn same_through(ways: &[Way], host: &str, open: impl Fn(&Bed, Way) -> Wire) {
    let beds = Beds::new();
    for case in CASES {
        let mut first: Option<(Vec<(&str, String)>, String)> = None;
        for way in ways {
            let bed = beds.of(*way);
            let mark = bed.mark();
            let answer = open(bed, *way).ask(request(*way, case, host));
            assert_eq!(
                answer.map(|answer| answer.status),
                Some(case.status),
                "{} through {way:?}",
                case.name
            );
            let taps = bed.since(mark, 1);
            if case.status != 200 {
                taps.nothing_upstream();
            }
            let result = (fields(&taps.decisions[0]), taps.upstream_text());
            let expected = first.get_or_insert_with(|| result.clone());
            assert_eq!(&result, expected, "{}: {way:?} differs from {:?}", case.name, ways[0]);
        }
    }
}

#[test]
fn clear_text_is_judged_the_same_through_every_door() {
    let ways = [Way::Absolute, Way::V4, Way::V6, Way::Tproxy4, Way::Tproxy6];
    same_through(&ways, "plain.good.test", |bed, way| match way {
        Way::Absolute => bed.explicit(),
        Way::V4 | Way::Tproxy4 => bed.tcp(PUB1, 80),
        Way::V6 | Way::Tproxy6 => bed.tcp(PUB1_V6, 80),
        Way::Connect => unreachable!("clear text is not sent this way here"),
    });
}

#[test]
fn https_is_judged_the_same_through_every_door() {
    let ways = [Way::Connect, Way::V4, Way::V6, Way::Tproxy4, Way::Tproxy6];
    same_through(&ways, "api.good.test", |bed, way| {
        bed.open_https(way, "api.good.test", PUB1, PUB1_V6).unwrap()
    });
}

#[test]
fn clear_text_inside_connect_to_port_80_is_judged_by_the_http_rule() {
    let bed = Bed::new(POLICY);
    for (path, status) in [("/echo", 200), ("/admin", 403)] {
        let mut wire = bed.tunnel("plain.good.test:80").unwrap();
        let answer = wire.ask(get("plain.good.test", path));
        assert_eq!(answer.map(|answer| answer.status), Some(status), "{path}");
    }
}

#[test]
fn a_denied_name_is_denied_the_same_through_every_door() {
    let beds = Beds::new();
    let request = get("evil.test", "/");
    let mut seen = Vec::new();
    for way in [Way::Absolute, Way::Connect, Way::V4, Way::V6, Way::Tproxy4, Way::Tproxy6] {
        for secure in [false, true] {
            let bed = beds.of(way);
            let mark = bed.mark();
            match (way, secure) {
                (Way::Absolute, true) | (Way::Connect, false) => continue,
                (Way::Absolute, false) => {
                    let answer =
                        bed.explicit().ask("GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n");
                    assert_eq!(answer.unwrap().status, 403);
                }
                (Way::Connect, true) => {
                    assert_eq!(
                        bed.tunnel("evil.test:443").err(),
                        Some(End::Status(403)),
                        "403 before any 200"
                    );
                }
                (Way::V4 | Way::V6 | Way::Tproxy4 | Way::Tproxy6, false) => {
                    let ip = if matches!(way, Way::V4 | Way::Tproxy4) { EVIL } else { EVIL_V6 };
                    assert_eq!(bed.tcp(ip, 80).ask(&request).unwrap().status, 403);
                }
                (Way::V4 | Way::V6 | Way::Tproxy4 | Way::Tproxy6, true) => {
                    let opened = bed.open_https(way, "evil.test", EVIL, EVIL_V6);
                    assert_denied(opened, &request);
                }
            }
            let taps = bed.since(mark, 1);
            taps.nothing_upstream().no_query();
            let record = taps.decided("deny", &["no_rule"]);
            seen.push((record.text("client").to_owned(), record.text("rule").to_owned()));
        }
    }
    seen.dedup();
    assert_eq!(seen, [("agent".to_owned(), String::new())], "one client, no rule, through all doors");
}

#[test]
fn a_source_that_no_client_matches_is_refused_with_a_record() {
    no_client_matches(false);
}

#[test]
fn a_source_that_no_client_matches_is_refused_with_a_record_through_tproxy() {
    no_client_matches(true);
}

fn no_client_matches(tproxy: bool) {
    let clients = "[[client]]\nname = \"agent\"\ninterface = \"agent0\"\nsource = [\"10.77.1.2/32\"]\n";
    let bed = Bed::with(&Setup { policy: POLICY.into(), clients: Some(clients), tproxy, ..Setup::default() });
    bed.world.agent.ip("addr add 10.77.1.3/24 dev eth0");
    let stranger = |port| {
        let socket = bed.world.agent.socket(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        socket.bind(&"10.77.1.3:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        // The reset may be faster than the end of connect.
        match socket.connect_timeout(&at(PUB1, port).into(), std::time::Duration::from_secs(3)) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            connected => connected.map(|()| Some(Wire::plain(socket.into()))).unwrap(),
        }
    };
    let mark = bed.mark();
    let status = stranger(80)
        .and_then(|mut wire| wire.ask(get("plain.good.test", "/echo")))
        .map(|answer| answer.status);
    assert!(matches!(status, None | Some(403)), "{status:?}");
    bed.since(mark, 1).nothing_upstream().decided("deny", &["unknown_client"]);
    let mark = bed.mark();
    if let Some(wire) = stranger(443) {
        assert_denied(wire.secure(&bed.tls("api.good.test")), get("api.good.test", "/echo"));
    }
    bed.since(mark, 1).nothing_upstream().decided("deny", &["unknown_client"]);
    assert_eq!(
        bed.tcp(PUB1, 80).ask(get("plain.good.test", "/echo")).unwrap().status,
        200,
        "the client itself"
    );
}
