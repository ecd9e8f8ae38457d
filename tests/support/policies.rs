//! The policies of GAUNTLET section 1, and canaries that are made anew for each run.

use std::sync::LazyLock;

/// The rule for clear text, which many policies have beside their own.
macro_rules! plain {
    () => {
        r#"
[[rule]]
name = "plain"
hosts = ["plain.good.test"]
action = "allow"
scheme = "http"
ports = [80]
"#
    };
}
pub(crate) use plain;

pub const P1: &str = concat!(
    r#"
[[rule]]
name = "good"
hosts = ["api.good.test", "files.good.test"]
action = "allow"
"#,
    plain!()
);

pub const P2: &str = r#"
[[rule]]
name = "wild"
hosts = ["*.wild.test"]
action = "allow"
"#;

pub const P3: &str = r#"
[[rule]]
name = "public"
hosts = ["api.good.test"]
action = "allow"
  [[rule.match]]
  methods = ["GET", "HEAD"]
  path = { prefix = "/public" }
  [[rule.match]]
  methods = ["POST"]
  path = { exact = "/v1/messages" }

[[rule]]
name = "no secrets"
hosts = ["api.good.test"]
action = "deny"
  [[rule.match]]
  path = { prefix = "/public/secret" }
"#;

/// K5 is injected for `api.good.test`; the client's own credentials are taken away.
pub const P4: &str = r#"
[[secret]]
name = "k5"
from = { env = "OUTGATE_TEST_K5" }
placeholder = "placeholder-of-the-agent"

[[rule]]
name = "with a credential"
hosts = ["api.good.test"]
action = "allow"
  [rule.request]
  strip = ["authorization", "cookie"]
  inject = [{ header = "authorization", value = "Bearer {secret.k5}" }]

[[rule]]
name = "without one"
hosts = ["files.good.test"]
action = "allow"
"#;

/// Long-lived flows: a host that serves WebSockets, and one that is tunnelled.
pub const STREAMS: &str = r#"
[[rule]]
name = "good"
hosts = ["api.good.test"]
action = "allow"
websocket = true

[[rule]]
name = "pinned"
hosts = ["pinned.good.test"]
action = "tunnel"
"#;

/// Everything is open, for what must be closed nevertheless.
pub const P10: &str = r#"
danger_any_host = true

[[rule]]
name = "everything"
hosts = ["*"]
action = "allow"

[[rule]]
name = "everything in clear text"
hosts = ["*"]
action = "allow"
scheme = "http"
ports = [80]

[[rule]]
name = "but not this"
hosts = ["deny.test"]
action = "deny"
"#;

/// The credential that only the gate may know.
pub static K5: LazyLock<String> = LazyLock::new(|| format!("k5-{}", random(24)));
/// A cloud access key id, as its provider makes them.
pub static K1: LazyLock<String> = LazyLock::new(|| format!("AKIA{}", base32(16)));
/// A code host's token: 36 letters and digits behind the prefix.
pub static K2: LazyLock<String> = LazyLock::new(|| format!("ghp_{}", code_host_body()));

pub fn p4_environment() -> Vec<(&'static str, String)> {
    vec![("OUTGATE_TEST_K5", K5.clone())]
}

fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

fn random(length: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    bytes(length).iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

fn base32(length: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    bytes(length).iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

/// Thirty random characters and the CRC-32 of them in base 62, which is how a real one ends.
fn code_host_body() -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = random(30);
    let mut crc = flate2::Crc::new();
    crc.update(body.as_bytes());
    let mut rest = crc.sum();
    let mut check = [b'0'; 6];
    for place in check.iter_mut().rev() {
        *place = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    body + std::str::from_utf8(&check).unwrap()
}
