//! The kinds of record, and how each becomes the body of a line. `docs/records.md` describes the fields.
//!
//! A body lacks what only the writer knows: `v`, `run`, `seq` and `hash`. Callers fill in the structs; absent fields are
//! left out of the line.

use super::clock;
use super::text::{Text, mask_target, mask_userinfo, quote};
use crate::base::{Door, Scheme};
use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How many findings or answers one record lists.
const LIST_LIMIT: usize = 16;

/// The number of a flow in this run of the daemon, and of the exchange in it (0: the flow itself).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FlowId {
    pub flow: u64,
    pub exchange: u32,
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f-{:06}", self.flow)?;
        if self.exchange > 0 { write!(f, "-{}", self.exchange) } else { Ok(()) }
    }
}

/// One decision. `Default` is a deny, so that a forgotten verdict never claims an allow.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    pub id: FlowId,
    /// `allow`, `deny`, `tunnel` or `observe`.
    pub verdict: &'static str,
    /// The class of a refusal, as `policy::Reason::as_str` gives it.
    pub reason: Option<&'static str>,
    pub rule: Option<&'a str>,
    /// Words for the operator. Must not quote a target, a header or userinfo: only the fields below are masked.
    pub detail: Option<Text<'a>>,
    /// The version of the policy that decided.
    pub policy: &'a str,
    pub client: Option<&'a str>,
    pub source: Option<SocketAddr>,
    pub door: Door,
    /// What the client speaks: `http/1.1`, `h2`, `tls`, `tcp`, `udp`.
    pub proto: Option<&'static str>,
    pub orig_dst: Option<SocketAddr>,
    /// The client went to an address that its name does not (or no longer) lead to.
    pub dst_mismatch: bool,
    pub sni: Option<Text<'a>>,
    pub scheme: Option<Scheme>,
    /// Canonical where it has a canonical form; userinfo is masked.
    pub authority: Option<Text<'a>>,
    pub method: Option<Text<'a>>,
    /// Path and query; values in it are masked.
    pub path: Option<Text<'a>>,
    pub findings: &'a [Finding<'a>],
    pub dns: Option<Dns<'a>>,
}

impl Default for Decision<'_> {
    fn default() -> Self {
        Self {
            id: FlowId::default(),
            verdict: "deny",
            reason: None,
            rule: None,
            detail: None,
            policy: "",
            client: None,
            source: None,
            door: Door::Transparent,
            proto: None,
            orig_dst: None,
            dst_mismatch: false,
            sni: None,
            scheme: None,
            authority: None,
            method: None,
            path: None,
            findings: &[],
            dns: None,
        }
    }
}

/// How what a decision let through came to its end. Joined to the decision by `id`.
#[derive(Debug, Clone, Default)]
pub struct End<'a> {
    pub id: FlowId,
    /// `done`, `refused`, `blocked`, `failed`, `abandoned`, ...
    pub outcome: &'static str,
    /// The class of what went wrong after the decision, for example of a DLP block in mid-body.
    pub reason: Option<&'static str>,
    pub detail: Option<Text<'a>>,
    /// The status that the client saw.
    pub status: Option<u16>,
    /// Payload from the client, and to it.
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub duration: Duration,
    /// The address that was dialled, and what was spoken to it.
    pub upstream: Option<SocketAddr>,
    /// The proxy that the connection went through.
    pub proxy: Option<&'a str>,
    pub upstream_proto: Option<&'static str>,
    pub findings: &'a [Finding<'a>],
    pub dns: Option<Dns<'a>>,
}

/// Something that happened to the daemon: `start`, `stop`, `reload`, ...
#[derive(Debug, Clone, Default)]
pub struct Event<'a> {
    pub event: &'static str,
    pub detail: Option<Text<'a>>,
    /// Further fields; the keys are lower-case words of ours that no record has yet.
    pub fields: &'a [(&'static str, Text<'a>)],
}

/// What a detector found: where, never what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Finding<'a> {
    pub detector: &'a str,
    /// `target`, `header`, `body`, ...
    pub place: &'static str,
    /// The decoders passed on the way, outermost first, for example `gzip+base64`; empty for raw.
    pub encoding: &'a str,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Dns<'a> {
    pub qname: Text<'a>,
    pub qtype: u16,
    pub rcode: Option<&'static str>,
    pub answers: &'a [IpAddr],
    /// Addresses that the guard took out of the answer.
    pub blocked: &'a [IpAddr],
    /// The aliases that the name led through.
    pub chain: &'a [Arc<str>],
    pub ttl: Option<u32>,
}

impl Decision<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut body = Body::begin(out, "decision");
        body.id(self.id);
        body.word("verdict", Some(self.verdict));
        body.word("reason", self.reason);
        body.text("rule", self.rule.map(Text::from));
        body.text("detail", self.detail);
        body.text("policy", Some(Text::from(self.policy)));
        body.text("client", self.client.map(Text::from));
        body.address("source", self.source);
        body.word("door", Some(self.door.as_str()));
        body.word("proto", self.proto);
        body.address("orig_dst", self.orig_dst);
        if self.dst_mismatch {
            body.raw(b",\"dst_mismatch\":true");
        }
        body.text("sni", self.sni);
        body.word("scheme", self.scheme.map(Scheme::as_str));
        body.masked("authority", self.authority.map(|t| mask_userinfo(t.0)));
        body.text("method", self.method);
        body.masked("path", self.path.map(|t| mask_target(t.0)));
        body.findings(self.findings);
        body.dns(self.dns.as_ref());
        body.finish();
    }
}

impl End<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut body = Body::begin(out, "end");
        body.id(self.id);
        body.word("outcome", Some(self.outcome));
        body.word("reason", self.reason);
        body.text("detail", self.detail);
        body.number("status", self.status.map(u64::from));
        body.number("bytes_up", Some(self.bytes_up));
        body.number("bytes_down", Some(self.bytes_down));
        body.number("duration_us", Some(u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX)));
        body.address("upstream", self.upstream);
        body.text("proxy", self.proxy.map(Text::from));
        body.word("upstream_proto", self.upstream_proto);
        body.findings(self.findings);
        body.dns(self.dns.as_ref());
        body.finish();
    }
}

impl Event<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut body = Body::begin(out, "event");
        body.word("event", Some(self.event));
        body.text("detail", self.detail);
        for &(key, text) in self.fields {
            body.text(key, Some(text));
        }
        body.finish();
    }
}

/// Decimal digits. By hand: the formatting machinery was a tenth of what a record costs.
pub(super) fn push_digits(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// A body being written: everything between the `{` and the `hash` of a line, without them.
struct Body<'o> {
    out: &'o mut Vec<u8>,
    /// Fields whose text is not exactly what was sent.
    altered: Vec<&'static str>,
}

impl<'o> Body<'o> {
    fn begin(out: &'o mut Vec<u8>, kind: &'static str) -> Self {
        out.extend_from_slice(b"\"time\":\"");
        clock::write_time(out, SystemTime::now());
        out.push(b'"');
        let mut body = Self { out, altered: Vec::new() };
        body.word("kind", Some(kind));
        body
    }

    fn finish(self) {
        for (at, field) in self.altered.iter().enumerate() {
            self.out.extend_from_slice(if at == 0 { b",\"altered\":[\"" } else { b",\"" });
            self.out.extend_from_slice(field.as_bytes());
            self.out.push(b'"');
        }
        if !self.altered.is_empty() {
            self.out.push(b']');
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn key(&mut self, key: &'static str) {
        self.raw(b",\"");
        self.raw(key.as_bytes());
        self.raw(b"\":");
    }

    fn id(&mut self, id: FlowId) {
        self.raw(b",\"id\":\"f-");
        for floor in [100_000, 10_000, 1_000, 100, 10] {
            if id.flow < floor {
                self.out.push(b'0');
            }
        }
        self.digits(id.flow);
        if id.exchange > 0 {
            self.out.push(b'-');
            self.digits(id.exchange.into());
        }
        self.out.push(b'"');
    }

    /// A word of our own: needs no escaping.
    fn word(&mut self, key: &'static str, word: Option<&'static str>) {
        if let Some(word) = word {
            self.key(key);
            self.out.push(b'"');
            self.raw(word.as_bytes());
            self.out.push(b'"');
        }
    }

    fn text(&mut self, key: &'static str, text: Option<Text<'_>>) {
        self.masked(key, text.map(|t| Cow::Borrowed(t.0)));
    }

    fn masked(&mut self, key: &'static str, text: Option<Cow<'_, [u8]>>) {
        if let Some(text) = text {
            self.key(key);
            self.quote(key, &text);
        }
    }

    fn quote(&mut self, key: &'static str, text: &[u8]) {
        if !quote(self.out, text) && !self.altered.contains(&key) {
            self.altered.push(key);
        }
    }

    fn number(&mut self, key: &'static str, number: Option<u64>) {
        if let Some(number) = number {
            self.key(key);
            self.digits(number);
        }
    }

    fn digits(&mut self, number: u64) {
        push_digits(self.out, number);
    }

    fn address(&mut self, key: &'static str, address: Option<SocketAddr>) {
        let Some(address) = address else { return };
        self.key(key);
        self.out.push(b'"');
        match address {
            SocketAddr::V4(v4) => {
                for (at, octet) in v4.ip().octets().into_iter().enumerate() {
                    if at > 0 {
                        self.out.push(b'.');
                    }
                    self.digits(octet.into());
                }
                self.out.push(b':');
                self.digits(v4.port().into());
            }
            // Writing to a Vec cannot fail.
            SocketAddr::V6(v6) => drop(write!(self.out, "{v6}")),
        }
        self.out.push(b'"');
    }

    fn findings(&mut self, findings: &[Finding<'_>]) {
        if findings.is_empty() {
            return;
        }
        self.key("findings");
        for (at, finding) in findings.iter().take(LIST_LIMIT).enumerate() {
            self.raw(if at == 0 { b"[{\"detector\":" } else { b",{\"detector\":" });
            self.quote("findings", finding.detector.as_bytes());
            self.word("place", Some(finding.place));
            if !finding.encoding.is_empty() {
                self.key("encoding");
                self.quote("findings", finding.encoding.as_bytes());
            }
            self.out.push(b'}');
        }
        self.list_end("findings", findings.len());
    }

    fn dns(&mut self, dns: Option<&Dns<'_>>) {
        let Some(dns) = dns else { return };
        self.masked("qname", Some(Cow::Borrowed(dns.qname.0)));
        self.number("qtype", Some(dns.qtype.into()));
        self.word("rcode", dns.rcode);
        self.addresses("answers", dns.answers);
        self.addresses("blocked", dns.blocked);
        if !dns.chain.is_empty() {
            self.key("chain");
            for (at, name) in dns.chain.iter().take(LIST_LIMIT).enumerate() {
                self.raw(if at == 0 { b"[" } else { b"," });
                self.quote("chain", name.as_bytes());
            }
            self.list_end("chain", dns.chain.len());
        }
        self.number("ttl", dns.ttl.map(u64::from));
    }

    fn addresses(&mut self, key: &'static str, addresses: &[IpAddr]) {
        if addresses.is_empty() {
            return;
        }
        self.key(key);
        for (at, address) in addresses.iter().take(LIST_LIMIT).enumerate() {
            let _ = write!(self.out, "{}\"{address}\"", if at == 0 { '[' } else { ',' });
        }
        self.list_end(key, addresses.len());
    }

    fn list_end(&mut self, key: &'static str, length: usize) {
        self.out.push(b']');
        if length > LIST_LIMIT && !self.altered.contains(&key) {
            self.altered.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(write: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut line = vec![b'{'];
        write(&mut line);
        line.push(b'}');
        assert!(line.iter().all(|b| (0x20..0x7f).contains(b)));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_decision_carries_every_field_that_is_known() {
        let findings = [Finding { detector: "aws", place: "body", encoding: "gzip+base64" }; 20];
        let answers = ["192.0.2.1".parse().unwrap()];
        let chain = ["edge.cdn.test".into(), "a\"b".into()];
        let decision = Decision {
            id: FlowId { flow: 17, exchange: 2 },
            verdict: "allow",
            rule: Some("read"),
            policy: "ab12",
            client: Some("agent"),
            source: Some("192.168.128.2:40000".parse().unwrap()),
            door: Door::Explicit,
            proto: Some("h2"),
            orig_dst: Some("[2001:db8::1]:443".parse().unwrap()),
            dst_mismatch: true,
            sni: Some("api.good.test".into()),
            scheme: Some(Scheme::Https),
            authority: Some("u:p@api.good.test".into()),
            method: Some("GET".into()),
            path: Some("/a?access_token=K5".into()),
            findings: &findings,
            dns: Some(Dns {
                qname: "a.test".into(),
                qtype: 1,
                rcode: Some("NOERROR"),
                answers: &answers,
                blocked: &answers,
                chain: &chain,
                ttl: Some(60),
            }),
            ..Decision::default()
        };
        let value = parse(|out| decision.write(out));
        for (key, expected) in [
            ("kind", json!("decision")),
            ("id", json!("f-000017-2")),
            ("verdict", json!("allow")),
            ("source", json!("192.168.128.2:40000")),
            ("orig_dst", json!("[2001:db8::1]:443")),
            ("dst_mismatch", json!(true)),
            ("authority", json!("*@api.good.test")),
            ("path", json!("/a?access_token=*")),
            ("answers", json!(["192.0.2.1"])),
            ("blocked", json!(["192.0.2.1"])),
            ("chain", json!(["edge.cdn.test", "a\"b"])),
            ("altered", json!(["findings"])),
        ] {
            assert_eq!(value[key], expected, "{key}");
        }
        assert_eq!(value["findings"].as_array().unwrap().len(), LIST_LIMIT);
        assert!(value.get("reason").is_none());
        assert_eq!(format!("{}", decision.id), "f-000017-2");
        assert!(!format!("{decision:?}").contains("K5"));
    }

    #[test]
    fn numbers_and_addresses_are_written_as_everywhere() {
        for number in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_digits(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
        for text in ["192.168.128.2:40000", "0.0.0.0:0", "255.255.255.255:65535", "[2001:db8::1]:443"] {
            let end = End { upstream: text.parse().ok(), ..End::default() };
            assert_eq!(parse(|out| end.write(out))["upstream"], text);
        }
    }

    #[test]
    fn au_02_hostile_text_in_every_field_still_gives_one_object() {
        for hostile in
            [b"\r\n{\"v\":1}\"\\\0\x1b[0m\xff\xe2\x80\xa8".repeat(4000), b"\"".to_vec(), Vec::new()]
        {
            let text = Some(Text::from(hostile.as_slice()));
            let decision = Decision {
                detail: text,
                sni: text,
                authority: text,
                method: text,
                path: text,
                dns: Some(Dns { qname: Text::from(hostile.as_slice()), ..Dns::default() }),
                ..Decision::default()
            };
            let value = parse(|out| decision.write(out));
            assert_eq!(value["verdict"], "deny");
            if hostile.len() > 1024 {
                assert_eq!(
                    value["altered"],
                    json!(["detail", "sni", "authority", "method", "path", "qname"])
                );
            }
        }
    }
}
