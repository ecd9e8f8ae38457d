//! The fields of a line, as they are written. `record` says which fields a kind of record has.

use super::clock;
use super::record::{Dns, Finding, FlowId};
use super::text::{Text, quote};
use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

/// How many findings or answers one record lists.
pub(super) const LIST_LIMIT: usize = 16;

/// Decimal digits. Not with `write!`: the formatting machinery was a tenth of what a record costs.
pub(super) fn push_digits(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A body being written: everything between the `{` and the `hash` of a line, without them.
pub(super) struct Body<'o> {
    out: &'o mut Vec<u8>,
    /// Fields whose text is not exactly what was sent.
    altered: Vec<&'static str>,
}

impl<'o> Body<'o> {
    pub(super) fn begin(out: &'o mut Vec<u8>, kind: &'static str) -> Self {
        out.extend_from_slice(b"\"time\":\"");
        clock::write_time(out, SystemTime::now());
        out.push(b'"');
        let mut body = Self::go_on(out);
        body.word("kind", Some(kind));
        body
    }

    /// More fields behind those that `out` has.
    pub(super) fn go_on(out: &'o mut Vec<u8>) -> Self {
        Self { out, altered: Vec::new() }
    }

    pub(super) fn into_altered(self) -> Vec<&'static str> {
        self.altered
    }

    pub(super) fn altered(&mut self, fields: &[&'static str]) {
        self.altered.extend_from_slice(fields);
    }

    pub(super) fn finish(self) {
        for (at, field) in self.altered.iter().enumerate() {
            self.out.extend_from_slice(if at == 0 { b",\"altered\":[\"" } else { b",\"" });
            self.out.extend_from_slice(field.as_bytes());
            self.out.push(b'"');
        }
        if !self.altered.is_empty() {
            self.out.push(b']');
        }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn key(&mut self, key: &'static str) {
        self.raw(b",\"");
        self.raw(key.as_bytes());
        self.raw(b"\":");
    }

    pub(super) fn id(&mut self, id: FlowId) {
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
    pub(super) fn word(&mut self, key: &'static str, word: Option<&'static str>) {
        if let Some(word) = word {
            self.key(key);
            self.out.push(b'"');
            self.raw(word.as_bytes());
            self.out.push(b'"');
        }
    }

    pub(super) fn text(&mut self, key: &'static str, text: Option<Text<'_>>) {
        self.masked(key, text.map(|t| Cow::Borrowed(t.0)));
    }

    pub(super) fn masked(&mut self, key: &'static str, text: Option<Cow<'_, [u8]>>) {
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

    pub(super) fn number(&mut self, key: &'static str, number: Option<u64>) {
        if let Some(number) = number {
            self.key(key);
            self.digits(number);
        }
    }

    fn digits(&mut self, number: u64) {
        push_digits(self.out, number);
    }

    pub(super) fn address(&mut self, key: &'static str, address: Option<SocketAddr>) {
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

    pub(super) fn findings(&mut self, findings: &[Finding<'_>]) {
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

    pub(super) fn dns(&mut self, dns: Option<&Dns<'_>>) {
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
