//! `[[rule]]`: whom it speaks for, what it opens, and what its action lets it say.

use super::super::matching::Side;
use super::super::pattern::{Breadth, HostPattern};
use super::super::rule::{Action, Dlp, RequestEdits, ResponseEdits, Rule, Tls};
use super::super::verdict::PrivateGrant;
use super::conditions;
use super::edits::{self, SecretUse, TlsFiles};
use super::name;
use super::parts::{bounded, network};
use super::section::{At, Section, closest};
use crate::base::{AddressClass, Scheme};
use ipnet::IpNet;
use std::path::{Path, PathBuf};

/// A rule whose names and files are still words.
#[derive(Debug)]
pub(in crate::policy) struct RuleDraft {
    pub(in crate::policy) rule: Rule,
    /// `None`: every client.
    pub(in crate::policy) clients: Option<Vec<At<String>>>,
    pub(in crate::policy) secrets: Vec<SecretUse>,
    pub(in crate::policy) script: Option<At<PathBuf>>,
    pub(in crate::policy) tls: TlsFiles,
}

/// Keys that shape what is let through, which these actions do not do.
const DENY_HAS_NOT: [&str; 8] =
    ["websocket", "doh", "private", "request", "response", "tls", "dlp", "script"];
const TUNNEL_HAS_NOT: [&str; 8] =
    ["websocket", "doh", "encoded_slash", "match", "request", "response", "tls", "dlp"];

pub(super) fn rule(mut section: Section<'_, '_>, any_host: bool, folder: &Path) -> Option<RuleDraft> {
    let place = section.place.clone();
    let name = name(&mut section, "\"read the repository\"");
    let action = action(&mut section);
    // A wrong action is reported already; the rest is read as if it allowed.
    let assumed = action.unwrap_or(Action::Allow);
    keys_fit(&section, assumed);
    let side = if assumed == Action::Deny { Side::Deny } else { Side::Allow };
    let clients = section.strings("clients");
    if clients.as_ref().is_some_and(Vec::is_empty) {
        section.problem(
            "clients",
            "clients is empty, so the rule speaks for nobody",
            "leave it out for every client",
        );
    }
    let (hosts, addresses) = destinations(&mut section, assumed, any_host);
    let scheme = scheme(&mut section, assumed);
    let ports = ports(&mut section, assumed, scheme);
    let private = grants(&mut section, ports.as_deref());
    let encoded_slash = encoded_slash(&mut section);
    let websocket = section.bool("websocket").is_some_and(|flag| flag.value);
    let doh = section.bool("doh").is_some_and(|flag| flag.value);
    let listed = section.tables("match", "[[rule.match]]");
    bounded(&section, "match", &listed);
    let matches = listed.into_iter().map(|table| conditions::condition(table, side)).collect();
    let (request, secrets) = match section.table("request", "[rule.request]") {
        Some(table) => edits::request(table, assumed, scheme),
        None => (RequestEdits::default(), Vec::new()),
    };
    let response =
        section.table("response", "[rule.response]").map_or_else(ResponseEdits::default, edits::response);
    let tls = section.table("tls", "[rule.tls]");
    let tls = tls.map(|table| edits::tls(table, folder, assumed, scheme)).unwrap_or_default();
    let dlp = section.table("dlp", "[rule.dlp]").map_or_else(Dlp::default, edits::dlp);
    let script = section.table("script", "[rule.script]").and_then(|table| edits::script(table, folder));
    section.finish();
    let rule = Rule {
        name: name?,
        place,
        action: action?,
        clients: None,
        hosts,
        addresses,
        scheme,
        ports,
        matches,
        encoded_slash,
        websocket,
        doh,
        private,
        request,
        response,
        tls: Tls::default(),
        dlp,
        script: None,
    };
    Some(RuleDraft { rule, clients, secrets, script, tls })
}

fn action(section: &mut Section<'_, '_>) -> Option<Action> {
    let text = section.required("action", "\"allow\"")?;
    let known = [Action::Allow, Action::Deny, Action::Tunnel, Action::Observe];
    let found = known.into_iter().find(|action| action.as_str() == text.value);
    if found.is_none() {
        let near = closest(&text.value, &known.map(Action::as_str))
            .map_or(String::new(), |near| format!("; did you mean {near:?}?"));
        let problem = text.place.problem(format!("no such action: {:?}", text.value));
        section.reader.push(problem.help(format!("allow, deny, tunnel or observe{near}")));
    }
    found
}

fn keys_fit(section: &Section<'_, '_>, action: Action) {
    let (has_not, why): (&[&str], _) = match action {
        Action::Deny => (&DENY_HAS_NOT, "a deny rule lets nothing through that this could shape"),
        Action::Tunnel => {
            (&TUNNEL_HAS_NOT, "a tunnel is relayed unread, so nothing in it can be judged or changed")
        }
        Action::Allow | Action::Observe => return,
    };
    for key in has_not.iter().filter(|key| section.has(key)) {
        section.problem(key, format!("{key} in a rule with action = {:?}", action.as_str()), why);
    }
}

fn destinations(
    section: &mut Section<'_, '_>,
    action: Action,
    any_host: bool,
) -> (Vec<HostPattern>, Vec<IpNet>) {
    let hosts = section.strings("hosts").unwrap_or_default();
    let listed = section.strings("addresses").unwrap_or_default();
    if hosts.is_empty() && listed.is_empty() {
        section.problem("hosts", "a rule without hosts and addresses", "add hosts = [\"api.example.com\"]");
    }
    bounded(section, "hosts", &hosts);
    bounded(section, "addresses", &listed);
    let patterns = hosts.iter().filter_map(|text| pattern(section, text, action, any_host)).collect();
    let nets: Vec<IpNet> = listed.iter().filter_map(|text| network(section, text, "an address")).collect();
    if action != Action::Deny {
        for (net, text) in
            nets.iter().zip(&listed).filter(|(net, _)| AddressClass::of(net.addr()) == AddressClass::Never)
        {
            let message = format!("{net} is special-purpose space, which is never dialled");
            section.reader.push(text.place.warning(message));
        }
    }
    (patterns, nets)
}

fn pattern(
    section: &Section<'_, '_>,
    text: &At<String>,
    action: Action,
    any_host: bool,
) -> Option<HostPattern> {
    let pattern = match HostPattern::parse(&text.value) {
        Ok(pattern) => pattern,
        Err(error) => {
            let problem = text.place.problem(format!("{:?}: {error}", text.value));
            section.reader.push(problem.help(error.help()));
            return None;
        }
    };
    if action == Action::Deny {
        return Some(pattern);
    }
    let problem = match pattern.breadth() {
        Breadth::Fine => return Some(pattern),
        Breadth::Everything | Breadth::PublicSuffix if any_host => return Some(pattern),
        Breadth::Everything => text
            .place
            .problem("\"*\" opens every host there is")
            .help("list the hosts; if you mean it, danger_any_host = true at the top of this file"),
        Breadth::PublicSuffix => text
            .place
            .problem(format!("\"{pattern}\" opens every site under a public suffix"))
            .help("name the organisation's own domain; if you mean it, danger_any_host = true at the top of this file"),
        Breadth::PrivateSuffix => {
            text.place.warning(format!("\"{pattern}\": strangers can get names under this suffix"))
        }
    };
    let warning = problem.warning;
    section.reader.push(problem);
    warning.then_some(pattern)
}

fn scheme(section: &mut Section<'_, '_>, action: Action) -> Option<Scheme> {
    let text = section.string("scheme");
    let scheme = match text.as_ref().map(|text| text.value.as_str()) {
        None => return (action != Action::Deny).then_some(Scheme::Https),
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        Some("tcp") => Scheme::Tcp,
        Some(other) => {
            section.problem("scheme", format!("no such scheme: {other:?}"), "https, http or tcp");
            return None;
        }
    };
    match (action, scheme) {
        (Action::Tunnel, Scheme::Http) => {
            let help = "clear HTTP can be read and is judged: use action = \"allow\"; for any bytes, scheme = \"tcp\"";
            section.problem("scheme", "scheme = \"http\" in a tunnel", help);
        }
        (Action::Allow | Action::Observe, Scheme::Tcp) => {
            section.problem("scheme", "scheme = \"tcp\" is only for tunnels", "write action = \"tunnel\"");
        }
        _ => {}
    }
    Some(scheme)
}

fn ports(section: &mut Section<'_, '_>, action: Action, scheme: Option<Scheme>) -> Option<Vec<u16>> {
    if let Some(listed) = section.ports("ports") {
        if listed.is_empty() {
            section.problem(
                "ports",
                "ports is empty, so nothing could match",
                "leave it out for the scheme's own port",
            );
        }
        bounded(section, "ports", &listed);
        return Some(listed.into_iter().map(|port| port.value).collect());
    }
    if section.has("ports") || action == Action::Deny {
        return None;
    }
    let own = scheme.unwrap_or(Scheme::Https).default_port();
    if own.is_none() {
        section.problem("scheme", "scheme = \"tcp\" without ports", "add ports = [22]");
    }
    Some(own.into_iter().collect())
}

/// `private = ["10.99.0.0/24:443"]`
fn grants(section: &mut Section<'_, '_>, ports: Option<&[u16]>) -> Vec<PrivateGrant> {
    let listed = section.strings("private").unwrap_or_default();
    bounded(section, "private", &listed);
    listed
        .iter()
        .filter_map(|text| match grant(&text.value, ports) {
            Ok(grant) => Some(grant),
            Err(message) => {
                section
                    .reader
                    .push(text.place.problem(message).help("write private = [\"10.99.0.0/24:443\"]"));
                None
            }
        })
        .collect()
}

fn grant(text: &str, ports: Option<&[u16]>) -> Result<PrivateGrant, String> {
    let (range, port) = text.rsplit_once(':').ok_or("a private grant is a range and a port")?;
    let range = range.strip_prefix('[').and_then(|r| r.strip_suffix(']')).unwrap_or(range);
    let range = range.parse::<IpNet>().or_else(|_| range.parse::<std::net::IpAddr>().map(IpNet::from));
    let range = range.map_err(|_| "a private grant is a range and a port")?.trunc();
    let port: u16 = port
        .parse()
        .ok()
        .filter(|&p| p > 0)
        .ok_or("the port of a private grant is a number from 1 to 65535")?;
    match (AddressClass::of(range.network()), AddressClass::of(range.broadcast())) {
        (AddressClass::Grantable, AddressClass::Grantable) => {}
        (AddressClass::Never, _) | (_, AddressClass::Never) => {
            return Err(format!(
                "{range} can never be granted: loopback, link-local, metadata and special-purpose addresses stay closed"
            ));
        }
        _ => {
            return Err(format!(
                "{range} is not inside one private range, and public addresses need no grant"
            ));
        }
    }
    if ports.is_some_and(|own| !own.contains(&port)) {
        return Err(format!("port {port} of the grant is not among the rule's ports"));
    }
    Ok(PrivateGrant { range, port })
}

fn encoded_slash(section: &mut Section<'_, '_>) -> bool {
    let Some(text) = section.string("encoded_slash") else { return false };
    match text.value.as_str() {
        "allow" => true,
        "deny" => false,
        _ => {
            section.problem(
                "encoded_slash",
                "encoded_slash is \"allow\" or \"deny\"",
                "the default is \"deny\"",
            );
            false
        }
    }
}
