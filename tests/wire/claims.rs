//! Every fact that a flow can state of its destination, in every combination and through every door: only what all of
//! them agree on reaches a host, and only at an address that the gate resolved itself (DESIGN section 2, rules 2 to 4).

use std::net::IpAddr;

use crate::support::h2::H2;
use crate::support::wire::Tls;
use crate::support::*;

const POLICY: &str = r#"
[[rule]]
name = "two hosts"
hosts = ["api.good.test", "files.good.test"]
action = "allow"

[[rule]]
name = "the same in clear text"
hosts = ["api.good.test", "files.good.test"]
action = "allow"
scheme = "http"
ports = [80]
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Good,
    /// Allowed as well, and not the same.
    Other,
    Evil,
    Absent,
}

const ALL: [Name; 4] = [Name::Good, Name::Other, Name::Evil, Name::Absent];
const STATED: [Name; 3] = [Name::Good, Name::Other, Name::Evil];
const UNUSED: [Name; 1] = [Name::Absent];

impl Name {
    fn host(self) -> &'static str {
        match self {
            Self::Good => "api.good.test",
            Self::Other => "files.good.test",
            Self::Evil => "evil.test",
            Self::Absent => "",
        }
    }

    /// Where the world's name server has it.
    fn addresses(self) -> [IpAddr; 2] {
        match self {
            Self::Good => [PUB1, PUB1_V6],
            Self::Other => [PUB2, PUB2_V6],
            Self::Evil | Self::Absent => [EVIL, EVIL_V6],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Clear,
    Tls,
    H2,
    Absolute,
    ConnectClear,
    ConnectTls,
    ConnectH2,
}

impl Door {
    /// The names that each of the four facts may have here: CONNECT, SNI, Host or `:authority`, and the absolute URI
    /// or, over h2, the `host` field beside the authority.
    fn facts(self) -> [&'static [Name]; 4] {
        match self {
            Self::Clear => [&UNUSED, &UNUSED, &ALL, &ALL],
            Self::Tls => [&UNUSED, &ALL, &ALL, &ALL],
            Self::H2 => [&UNUSED, &STATED, &STATED, &ALL],
            Self::Absolute => [&UNUSED, &UNUSED, &ALL, &ALL],
            Self::ConnectClear => [&STATED, &UNUSED, &ALL, &ALL],
            Self::ConnectTls => [&STATED, &ALL, &ALL, &ALL],
            Self::ConnectH2 => [&STATED, &ALL, &STATED, &ALL],
        }
    }

    /// Only here does the client choose where its packets go.
    fn is_transparent(self) -> bool {
        matches!(self, Self::Clear | Self::Tls | Self::H2)
    }

    fn is_clear(self) -> bool {
        matches!(self, Self::Clear | Self::Absolute | Self::ConnectClear)
    }
}

#[derive(Debug, Clone, Copy)]
struct Facts {
    door: Door,
    address: IpAddr,
    connect: Name,
    sni: Name,
    host: Name,
    uri: Name,
}

fn combinations() -> Vec<Facts> {
    let mut all = Vec::new();
    for door in [
        Door::Clear,
        Door::Tls,
        Door::H2,
        Door::Absolute,
        Door::ConnectClear,
        Door::ConnectTls,
        Door::ConnectH2,
    ] {
        let addresses: &[IpAddr] = if door.is_transparent() { &[PUB1, PUB2_V6, EVIL] } else { &[PUB1] };
        let [connects, snis, hosts, uris] = door.facts();
        for &address in addresses {
            for &connect in connects {
                for &sni in snis {
                    for &host in hosts {
                        all.extend(uris.iter().map(|&uri| Facts { door, address, connect, sni, host, uri }));
                    }
                }
            }
        }
    }
    all
}

impl Facts {
    fn stated(&self) -> impl Iterator<Item = Name> {
        [self.connect, self.sni, self.host, self.uri].into_iter().filter(|name| *name != Name::Absent)
    }

    /// The one allowed name that everything stated agrees on.
    fn agreed(&self) -> Option<Name> {
        let first = self.stated().next()?;
        (first != Name::Evil && self.stated().all(|name| name == first)).then_some(first)
    }

    /// Said as an ordinary client says it; other forms may be refused even where they agree.
    fn is_ordinary(&self) -> bool {
        let sni = match self.door {
            Door::Tls | Door::H2 => self.sni != Name::Absent,
            // CONNECT has named it already.
            _ => true,
        };
        let uri = (self.uri == Name::Absent) == (self.door != Door::Absolute);
        sni && uri && self.host != Name::Absent
    }

    /// Sends the request; the status that came back, if any did.
    fn ask(&self, bed: &Bed, path: &str) -> Option<u16> {
        let scheme = if self.door.is_clear() { "http" } else { "https" };
        let port = if self.door.is_clear() { 80 } else { 443 };
        let wire = match self.door {
            Door::Clear | Door::Tls | Door::H2 => bed.tcp(self.address, port),
            Door::Absolute => bed.explicit(),
            _ => bed.tunnel(&format!("{}:{port}", self.connect.host())).ok()?,
        };
        let trusted = if self.sni == Name::Absent { self.connect } else { self.sni };
        let name = if trusted == Name::Absent { Name::Good } else { trusted };
        let tls = Tls { send_name: self.sni != Name::Absent, ..bed.tls(name.host()) };
        if matches!(self.door, Door::H2 | Door::ConnectH2) {
            let mut request = ::http::Request::get(format!("https://{}{path}", self.host.host()));
            if self.uri != Name::Absent {
                request = request.header("host", self.uri.host());
            }
            let h2 = H2::try_over(wire.into_socket(), &tls).ok()?;
            return Some(h2.send(request.body(()).unwrap(), None).ok()?.0.status().as_u16());
        }
        let mut wire = if self.door.is_clear() { wire } else { wire.secure(&tls).ok()? };
        let target = match self.uri {
            Name::Absent => path.to_owned(),
            name => format!("{scheme}://{}{path}", name.host()),
        };
        let field = match self.host {
            Name::Absent => String::new(),
            name => format!("Host: {}\r\n", name.host()),
        };
        Some(wire.ask(format!("GET {target} HTTP/1.1\r\n{field}\r\n"))?.status)
    }
}

/// As many at a time as make the machine busy.
const CLIENTS: usize = 4;

#[test]
fn only_facts_that_agree_reach_a_host_and_only_where_the_gate_resolves_it() {
    let bed = Bed::new(POLICY);
    let all = combinations();
    let path = |place: usize| format!("/claim/{place}");
    let statuses: Vec<Option<u16>> = std::thread::scope(|scope| {
        let (bed, all, path) = (&bed, &all, &path);
        let shares: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let share = (client..all.len()).step_by(CLIENTS);
                scope.spawn(move || share.map(|at| (at, all[at].ask(bed, &path(at)))).collect::<Vec<_>>())
            })
            .collect();
        let mut told: Vec<_> = shares.into_iter().flat_map(|share| share.join().unwrap()).collect();
        told.sort_unstable_by_key(|(at, _)| *at);
        told.into_iter().map(|(_, status)| status).collect()
    });
    let requests = bed.world.origin.requests();
    let mut served = 0;
    for (at, (facts, status)) in all.iter().zip(&statuses).enumerate() {
        let reached: Vec<_> = requests.iter().filter(|request| request.target == path(at)).collect();
        let agreed = facts.agreed();
        if facts.is_ordinary() && agreed.is_some() {
            assert_eq!((*status, reached.len()), (Some(200), 1), "{facts:?}");
            served += 1;
        }
        if agreed.is_none() {
            assert!(reached.is_empty() && *status != Some(200), "{facts:?}: {status:?}");
        }
        for request in reached {
            assert_eq!(Some(&*request.authority), agreed.map(Name::host), "{facts:?}");
        }
    }
    assert!(all.len() > 700 && served > 20, "{served} of {}", all.len());
    for seen in bed.world.origin.connections() {
        let text = seen.text();
        let named = match &seen.tls {
            Some(hello) => hello.name.clone().unwrap_or_default(),
            None => text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned(),
        };
        let name = STATED.into_iter().find(|name| name.host() == named);
        let addresses = name.filter(|name| *name != Name::Evil).map(Name::addresses);
        assert!(
            addresses.is_some_and(|own| own.contains(&seen.local.ip().to_canonical())),
            "{named} at {}",
            seen.local
        );
    }
    assert!(
        bed.world.dns.queries().iter().all(|query| !query.name.contains("evil")),
        "a denied name was asked for"
    );
}
