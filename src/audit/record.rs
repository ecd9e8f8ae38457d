//! The kinds of record, and how each becomes the body of a line. `docs/records.md` describes the fields.
//!
//! A body lacks what only the writer knows: `v`, `run`, `seq` and `hash`. Callers fill in the structs; absent fields are
//! left out of the line.

use super::asker::Asker;
use super::body::Body;
use super::text::{Text, mask_target, mask_userinfo};
use crate::base::Scheme;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

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
    /// Whose it is, and where the connection came from and went.
    pub asker: &'a Asker,
    /// What the client speaks: `http/1.1`, `h2`, `tls`, `tcp`, `udp`.
    pub proto: Option<&'static str>,
    /// The client went to an address that its name does not (or no longer) lead to.
    pub dst_mismatch: bool,
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
            asker: Asker::UNKNOWN,
            proto: None,
            dst_mismatch: false,
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
    pub websocket: Option<WebSocket>,
    pub duration: Duration,
    /// The address that was dialled, and what was spoken to it.
    pub upstream: Option<SocketAddr>,
    /// The proxy that the connection went through.
    pub proxy: Option<&'a str>,
    pub upstream_proto: Option<&'static str>,
    pub findings: &'a [Finding<'a>],
    pub dns: Option<Dns<'a>>,
}

/// What passed in a WebSocket, and the code that it was closed with (RFC 6455 section 7.1.5).
#[derive(Debug, Clone, Copy)]
pub struct WebSocket {
    pub messages_up: u64,
    pub messages_down: u64,
    pub close_code: u16,
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
        self.asker.write(&mut body);
        body.word("proto", self.proto);
        if self.dst_mismatch {
            body.raw(b",\"dst_mismatch\":true");
        }
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
        if let Some(websocket) = self.websocket {
            body.number("messages_up", Some(websocket.messages_up));
            body.number("messages_down", Some(websocket.messages_down));
            body.number("close_code", Some(u64::from(websocket.close_code)));
        }
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

#[cfg(test)]
mod tests {
    use super::super::body::{LIST_LIMIT, push_digits};
    use super::*;
    use crate::base::Door;
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
            asker: &Asker::new(Some("agent"), "192.168.128.2:40000".parse().unwrap(), Door::Explicit)
                .to("[2001:db8::1]:443".parse().ok())
                .greeting(Some("api.good.test".into())),
            proto: Some("h2"),
            dst_mismatch: true,
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
            ("client", json!("agent")),
            ("source", json!("192.168.128.2:40000")),
            ("door", json!("explicit")),
            ("sni", json!("api.good.test")),
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
            let source = "192.0.2.1:1".parse().unwrap();
            let decision = Decision {
                detail: text,
                asker: &Asker::new(None, source, Door::Dns).greeting(text),
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
