//! Gauntlet PM-24 and CL-03: real git over HTTPS under a git rule. Reading works in all its forms, pushing does not,
//! and who is refused reads why in git's own output.

use crate::support::git::{history, repository, takes_pushes};
use crate::support::*;

/// One repository may be read; it is named by the path without its `.git`.
const READ: &str = r#"
[[rule]]
name = "read the demo"
hosts = ["files.good.test"]
action = "allow"
  [[rule.match]]
  git = "read"
  path = { exact = "/git/demo" }
"#;

const URL: &str = "https://files.good.test/git/demo.git";

fn bed(policy: &str) -> Bed {
    let bed = Bed::new(policy);
    repository(&bed.gate.dir, "demo.git");
    bed.world.origin.pages.serve_git(&bed.gate.dir);
    bed
}

#[test]
fn cl_03_clone_shallow_clone_and_fetch_under_a_rule_that_reads() {
    let bed = bed(READ);
    history(&bed.gate.dir, "demo.git", "second third");
    for (place, options) in [("v2", ""), ("v0", "-c protocol.version=0"), ("h1", "-c http.version=HTTP/1.1")]
    {
        let out = bed.succeed(&format!(
            "git {options} clone -q {URL} {place} && git -C {place} fsck && cat {place}/file"
        ));
        assert!(out.ends_with("a file\n"), "{place}: {out}");
    }
    let shallow = "git clone -q --depth 1 https://files.good.test/git/demo shallow && cd shallow && \
                   git rev-list --count HEAD && git fetch -q --unshallow && git rev-list --count HEAD && git fsck";
    assert!(bed.succeed(shallow).starts_with("1\n3\n"), "without the suffix too");
    let protocols: Vec<_> =
        bed.world.origin.requests().iter().flat_map(|r| r.header("git-protocol")).collect();
    assert!(protocols.contains(&"version=2".to_owned()), "{protocols:?}");
}

#[test]
fn cl_03_a_large_negotiation_is_compressed_and_passes() {
    let bed = bed(&READ.replace("exact = \"/git/demo\"", "prefix = \"/git\""));
    bed.succeed(&format!("git clone -q {URL} mine"));
    let many = (0..300).map(|number| format!("own-{number}")).collect::<Vec<_>>().join(" ");
    history(&bed.gate.dir, "mine/.git", &many);
    history(&bed.gate.dir, "stranger.git", "theirs");
    let earlier = bed.world.origin.requests().len();
    bed.succeed("cd mine && git fetch -q https://files.good.test/git/stranger main && git fsck && git cat-file -e FETCH_HEAD");
    let requests = bed.world.origin.requests().split_off(earlier);
    let coded = requests.iter().filter(|request| request.header("content-encoding") == ["gzip"]).count();
    assert!(coded > 0, "no request was large enough to be compressed: {requests:?}");
}

#[test]
fn pm_24_a_push_is_refused_before_it_begins_and_git_says_why() {
    let bed = bed(READ);
    takes_pushes(&bed.gate.dir, "demo.git");
    bed.succeed(&format!("git clone -q {URL} mine"));
    history(&bed.gate.dir, "mine/.git", "own");
    let mark = bed.mark();
    let push = bed.program("git -C mine push origin main");
    let said = String::from_utf8_lossy(&push.stderr).into_owned();
    assert!(!push.status.success());
    for line in [
        "remote: outgate: git may read this repository, but not push to it",
        "remote: request: GET files.good.test",
        "remote: rule: none lets it through, read the demo comes closest",
        "remote: To have this opened, give these lines to the operator",
    ] {
        assert!(said.contains(line), "{line:?} is not in what git says:\n{said}");
    }
    bed.since(mark, 1).nothing_upstream().decided("deny", &["git_denied"]);
    let receive =
        "GET /git/demo.git/info/refs?service=git-receive-pack HTTP/1.1\r\nHost: files.good.test\r\n\r\n";
    let post = post("files.good.test", "/git/demo.git/git-receive-pack", "", "0000");
    for request in [receive, &post] {
        let mark = bed.mark();
        assert_eq!(bed.https(PUB2, "files.good.test").unwrap().ask(request).unwrap().status, 403);
        bed.since(mark, 1).nothing_upstream().decided("deny", &["git_denied"]);
    }
    let other = bed.program("git clone https://files.good.test/git/other.git");
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains("remote: reason: path_denied"), "{said}");
    bed.succeed(&format!("git clone -q {URL} again && git -C again fsck"));
}

#[test]
fn pm_24_a_push_passes_where_a_rule_lets_it_and_a_deny_closes_it_again() {
    let write = READ.replace("\"read\"", "\"write\"");
    let bed = bed(&write);
    takes_pushes(&bed.gate.dir, "demo.git");
    // More than git sends in one piece, so that it probes first and then streams. Over HTTP/1.1: Debian 12's libcurl
    // (7.88, GnuTLS) sends pieces of such an upload twice over HTTP/2 when its socket is full for a moment; the frames
    // that come in hold them twice already.
    let push = format!(
        "git clone -q {URL} mine && cd mine && head -c 3000000 /dev/urandom > large && git add large && \
         git -c user.name=t -c user.email=t@good.test commit -qm large && \
         git -c http.version=HTTP/1.1 push -q origin main && git rev-parse HEAD"
    );
    let head = bed.succeed(&push);
    assert_eq!(bed.succeed("git --git-dir demo.git rev-parse main && git --git-dir demo.git fsck"), head);
    let bed = bed.again(&Setup {
        policy: format!(
            "{write}\n{}",
            READ.replace("allow", "deny")
                .replace("\"read\"", "\"write\"")
                .replace("read the demo", "no push")
        ),
        ..Setup::default()
    });
    let refused = bed.program("git -C mine push origin main:other");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("remote: outgate: a rule denies this"), "{said}");
    bed.succeed("git -C mine fetch -q");
}
