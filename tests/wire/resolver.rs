//! Who is asked: split DNS, and the host's resolver configuration followed as it changes.

use std::time::Duration;

use crate::support::dns::{A, Answer, NameServer, SERVFAIL};
use crate::support::gate::{Gate, wait_until};
use crate::support::*;

const SPLIT: &str = r#"
upstreams = ["93.184.216.53:53"]

[[resolver.zone]]
suffix = "corp.test"
upstreams = ["93.184.216.20"]

[[resolver.zone]]
suffix = "eu.corp.test"
upstreams = ["93.184.216.30:53"]
"#;

const CORP: &str = r#"
[[rule]]
name = "corp"
hosts = ["wiki.corp.test", "a.eu.corp.test", "intern.corp.test", "broken.corp.test", "alias.good.test"]
action = "allow"

[[rule]]
name = "a private one"
hosts = ["build.corp.test"]
action = "allow"
private = ["10.99.0.0/24:443"]
"#;

/// The names that were asked of a server, without those asked for twice.
fn names(server: &NameServer) -> Vec<String> {
    let mut names: Vec<String> = server.queries().into_iter().map(|query| query.name).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_zone_is_asked_of_its_own_servers_and_of_no_others() {
    let setup = Setup { policy: format!("{P1}{CORP}"), resolver: Some(SPLIT), ..Setup::default() };
    let bed = Bed::with(&setup);
    let corp = NameServer::start(&bed.world.net, at(PUB2, 53));
    let europe = NameServer::start(&bed.world.net, at(CDN, 53));
    corp.set("wiki.corp.test", &[PUB2]);
    corp.set("intern.corp.test", &[PRIVATE]);
    corp.set("build.corp.test", &[PRIVATE]);
    corp.answer("broken.corp.test", Answer::Fail(SERVFAIL));
    europe.set("a.eu.corp.test", &[CDN]);
    // What the public server says of the zone, also behind an alias, is not believed.
    for name in ["wiki.corp.test", "broken.corp.test", "a.eu.corp.test"] {
        bed.world.dns.set(name, &[EVIL]);
    }
    bed.world.dns.answer("alias.good.test", Answer::Alias("wiki.corp.test".into()));

    assert_eq!(bed.resolve("wiki.corp.test", A).addresses, [PUB2]);
    assert_eq!(bed.resolve("a.eu.corp.test", A).addresses, [CDN], "the longest suffix wins");
    assert_eq!(bed.resolve("alias.good.test", A).addresses, [PUB2]);
    assert_eq!(bed.resolve("api.good.test", A).addresses, [PUB1]);
    let reply = bed.resolve("broken.corp.test", A);
    assert_eq!((reply.code, reply.addresses), (SERVFAIL, vec![]), "never another set");
    assert!(bed.resolve("other.corp.test", A).is_denied(), "a zone allows nothing");
    assert!(bed.resolve("intern.corp.test", A).addresses.is_empty(), "a private answer needs a grant");
    assert_eq!(bed.resolve("build.corp.test", A).addresses, [PRIVATE]);

    assert_eq!(names(&bed.world.dns), ["alias.good.test", "api.good.test"]);
    let of_corp = ["broken.corp.test", "build.corp.test", "intern.corp.test", "wiki.corp.test"];
    assert_eq!(names(&corp), of_corp);
    assert_eq!(names(&europe), ["a.eu.corp.test"]);
}

#[test]
fn a_zone_whose_servers_are_silent_is_servfail_in_time() {
    let setup = Setup { policy: CORP.into(), resolver: Some(SPLIT), ..Setup::default() };
    let bed = Bed::with(&setup);
    let corp = NameServer::start(&bed.world.net, at(PUB2, 53));
    corp.answer("wiki.corp.test", Answer::Silence);
    bed.world.dns.set("wiki.corp.test", &[EVIL]);
    let begun = std::time::Instant::now();
    assert_eq!(bed.resolve("wiki.corp.test", A).code, SERVFAIL);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(names(&bed.world.dns), [""; 0]);
}

/// A gate in whose world `/etc/resolv.conf` is a link into `/run/systemd/resolve`, as on most hosts of today.
fn following(first: &str) -> Bed {
    let world = World::new();
    let run = world.dir.path().join("run");
    let etc = world.dir.path().join("etc");
    world.gate.sh(format!(
        "mount --make-rprivate /; mkdir -p {run}/systemd/resolve {etc}; cp /etc/passwd /etc/group {etc}/\n\
         echo 'nameserver {first}' > {run}/systemd/resolve/stub-resolv.conf\n\
         ln -s ../run/systemd/resolve/stub-resolv.conf {etc}/resolv.conf\n\
         mount --bind {run} /run; mount --bind {etc} /etc",
        run = run.display(),
        etc = etc.display(),
    ));
    let setup = Setup { policy: P1.into(), resolver: Some("upstreams = \"system\""), ..Setup::default() };
    let gate = Gate::start(&world.gate, world.dir.path(), &setup);
    Bed { gate, world }
}

#[test]
fn the_hosts_resolvers_are_followed_without_a_restart() {
    let bed = following("93.184.216.53");
    let other = NameServer::start(&bed.world.net, at(PUB2, 53));
    other.set("api.good.test", &[PUB2]);
    assert_eq!(bed.resolve("api.good.test", A).addresses, [PUB1]);
    let answers = |wanted| {
        let found = || (bed.resolve("api.good.test", A).addresses == [wanted]).then_some(());
        wait_until(Duration::from_secs(2), found).is_some()
    };
    let change = |how: &str| bed.world.gate.sh(how);
    // The answer was remembered, and no longer counts: it came from other servers.
    change("cd /run/systemd/resolve; echo 'nameserver 93.184.216.20' > new; mv new stub-resolv.conf");
    assert!(answers(PUB2), "a rename behind the link");
    change("echo 'nameserver 93.184.216.53' > /run/systemd/resolve/stub-resolv.conf");
    assert!(answers(PUB1), "a truncation and a write");
    change(
        "cd /etc; echo 'nameserver 93.184.216.20' > /run/mine; ln -s ../run/mine new; mv -T new resolv.conf",
    );
    assert!(answers(PUB2), "another link");
    change("cd /etc; echo 'nameserver 93.184.216.53' > new; mv new resolv.conf");
    assert!(answers(PUB1), "a file in the place of the link");
    bed.gate.wait_for_record("the change", |record| record.mentions("93.184.216.20:53"));
}

#[test]
fn a_broken_resolver_file_keeps_the_old_servers_and_says_so() {
    let bed = following("93.184.216.53");
    for text in ["", "nonsense", "nameserver 10.77.1.1\\nnameserver 10.77.2.1"] {
        bed.world.gate.sh(format!("printf '{text}' > /run/systemd/resolve/stub-resolv.conf"));
        bed.gate.wait_for_record("the broken file", |record| record.text("detail").starts_with("kept: "));
        assert_eq!(bed.resolve("api.good.test", A).addresses, [PUB1]);
    }
    bed.gate.wait_for_record("ourselves", |record| record.mentions("this gate itself"));
    bed.world.gate.sh("rm /etc/resolv.conf");
    bed.gate.wait_for_record("no file", |record| record.mentions("cannot be read"));
    assert_eq!(bed.resolve("files.good.test", A).addresses, [PUB2]);
    bed.world.gate.sh("printf 'nameserver 10.77.1.1\\nnameserver 93.184.216.20' > /etc/resolv.conf");
    bed.gate
        .wait_for_record("our own door is left out", |record| record.text("detail") == "[93.184.216.20:53]");
}
