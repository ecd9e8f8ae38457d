//! From the drafts of all files to rules that can judge: names become numbers, files become what they hold, and what
//! only shows across rules is checked. Files are read through a function, so that this stays pure.

use super::client::{ClientId, Clients};
use super::file::{At, Draft, MAX_CLIENTS, MAX_RULES, RuleDraft};
use super::pattern::HostPattern;
use super::problem::{Place, Problem, Problems};
use super::rule::{Action, ClientCertificate, Rule};
use crate::dlp;
use crate::script::Engine;
use crate::secrets;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Gives the bytes of a file that a policy names, or says why it cannot.
pub(super) type Fetch<'a> = dyn FnMut(&Path, Holds) -> Result<Vec<u8>, String> + 'a;

/// What a file is to be guarded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    /// A private key: read only where nobody else could have.
    Key,
}

/// A policy whose every word is understood.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) clients: Clients,
    pub(super) rules: Vec<Arc<Rule>>,
    pub(super) secrets: Vec<(secrets::Spec, Place)>,
    pub(super) detectors: Vec<(dlp::Custom, Place)>,
}

pub(super) fn resolve(
    draft: Draft,
    engine: &Engine,
    fetch: &mut Fetch<'_>,
    problems: &mut Problems,
) -> Resolved {
    unique(draft.clients.iter().map(|(c, place)| (&*c.name, place)), "client", problems);
    unique(draft.secrets.iter().map(|(s, place)| (&*s.name, place)), "secret", problems);
    unique(draft.detectors.iter().map(|(d, place)| (&*d.name, place)), "detector", problems);
    unique(draft.rules.iter().map(|d| (&*d.rule.name, &d.rule.place)), "rule", problems);
    too_many(draft.clients.get(MAX_CLIENTS).map(|(_, place)| place), MAX_CLIENTS, "clients", problems);
    too_many(draft.rules.get(MAX_RULES).map(|d| &d.rule.place), MAX_RULES, "rules", problems);
    let places: HashMap<Arc<str>, Place> =
        draft.clients.iter().map(|(c, p)| (c.name.clone(), p.clone())).collect();
    let (clients, ties) = Clients::new(draft.clients.into_iter().map(|(client, _)| client).collect());
    for (first, second) in ties {
        if let Some(place) = places.get(&second) {
            let message = format!("clients {first:?} and {second:?} claim the same source");
            problems.push(place.problem(message).help("give each its own source or interface"));
        }
    }
    let mut scripts = HashMap::new();
    let mut rules = Vec::with_capacity(draft.rules.len());
    for draft_rule in draft.rules {
        check_secrets(&draft_rule, &draft.secrets, problems);
        let mut rule = draft_rule.rule;
        rule.clients = draft_rule.clients.map(|names| client_ids(&names, &clients, problems));
        if let Some(file) = draft_rule.script {
            rule.script = script(&file, engine, fetch, &mut scripts, problems);
            never_asked(&rule, &file.place, problems);
        }
        if let Some(file) = &draft_rule.tls.roots {
            rule.tls.roots = roots(file, fetch, problems);
        }
        if let Some((chain, key)) = &draft_rule.tls.client_certificate {
            rule.tls.client_certificate = client_certificate(chain, key, fetch, problems);
        }
        rules.push(Arc::new(rule));
    }
    unjudgeable_denies(&rules, problems);
    Resolved { clients, rules, secrets: draft.secrets, detectors: draft.detectors }
}

fn unique<'a>(named: impl Iterator<Item = (&'a str, &'a Place)>, what: &str, problems: &mut Problems) {
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    for (name, place) in named {
        if let Some(first) = seen.get(name) {
            let problem = place.problem(format!("a second {what} with the name {name:?}"));
            problems.push(problem.help(format!("the first is at {first}")));
        } else {
            seen.insert(name, place);
        }
    }
}

fn too_many(first_over: Option<&Place>, most: usize, what: &str, problems: &mut Problems) {
    if let Some(place) = first_over {
        problems.push(place.problem(format!("more than {most} {what}")));
    }
}

fn client_ids(names: &[At<String>], clients: &Clients, problems: &mut Problems) -> Vec<ClientId> {
    let mut ids = Vec::new();
    for name in names {
        match clients.by_name(&name.value) {
            Some(id) => ids.push(id),
            None => {
                let known: Vec<&str> =
                    clients.ids().filter_map(|id| clients.name(id)).take(20).map(|n| &**n).collect();
                let problem = name.place.problem(format!("no such client: {:?}", name.value));
                problems.push(problem.help(format!("known clients: {}", known.join(", "))));
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn check_secrets(draft: &RuleDraft, secrets: &[(secrets::Spec, Place)], problems: &mut Problems) {
    for used in &draft.secrets {
        match secrets.iter().find(|(spec, _)| spec.name == used.name) {
            None => {
                let problem = used.place.problem(format!("no such secret: {:?}", used.name));
                problems.push(problem.help(format!("add [[secret]] with name = {:?}", used.name)));
            }
            Some((spec, _)) if used.swap && spec.placeholder.is_none() => {
                let problem =
                    used.place.problem(format!("secret {:?} has no placeholder to be swapped", used.name));
                problems.push(problem.help("add placeholder = \"...\" to its [[secret]]"));
            }
            Some(_) => {}
        }
    }
}

fn fetched(
    file: &At<PathBuf>,
    holds: Holds,
    fetch: &mut Fetch<'_>,
    problems: &mut Problems,
) -> Option<Vec<u8>> {
    match fetch(&file.value, holds) {
        Ok(bytes) => Some(bytes),
        Err(why) => {
            problems.push(file.place.problem(format!("{}: {why}", file.value.display())));
            None
        }
    }
}

type Scripts = HashMap<PathBuf, Option<Arc<crate::script::Script>>>;

/// Compiles each file once, however many rules use it.
fn script(
    file: &At<PathBuf>,
    engine: &Engine,
    fetch: &mut Fetch<'_>,
    scripts: &mut Scripts,
    problems: &mut Problems,
) -> Option<Arc<crate::script::Script>> {
    if let Some(known) = scripts.get(&file.value) {
        return known.clone();
    }
    let compiled = fetched(file, Holds::Text, fetch, problems).and_then(|bytes| {
        let Ok(text) = String::from_utf8(bytes) else {
            problems.push(Problem::with_file(&file.value, "the script is not UTF-8"));
            return None;
        };
        match engine.compile(&file.value, &text) {
            Ok(script) => Some(Arc::new(script)),
            Err(error) => {
                let problem = Problem::with_file(&file.value, error.message);
                problems.push(Problem { line: error.line, column: error.column, ..problem });
                None
            }
        }
    });
    scripts.insert(file.value.clone(), compiled.clone());
    compiled
}

/// A guard that is never asked looks like one that is.
fn never_asked(rule: &Rule, place: &Place, problems: &mut Problems) {
    if !rule.websocket && rule.script.as_ref().is_some_and(|script| script.has_message()) {
        let problem = place.problem("its script has the hook message, but the rule opens no WebSocket");
        problems.push(problem.help("add websocket = true, or use a script without the hook"));
    }
}

fn certificates(
    file: &At<PathBuf>,
    fetch: &mut Fetch<'_>,
    problems: &mut Problems,
) -> Vec<CertificateDer<'static>> {
    let Some(bytes) = fetched(file, Holds::Text, fetch, problems) else { return Vec::new() };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => certificates,
        _ => {
            let message = format!("{} holds no PEM certificate, or a broken one", file.value.display());
            problems.push(file.place.problem(message));
            Vec::new()
        }
    }
}

/// Certificates to trust: each has to be one that can be, since a root that is left out would show as odd failures.
fn roots(file: &At<PathBuf>, fetch: &mut Fetch<'_>, problems: &mut Problems) -> Vec<CertificateDer<'static>> {
    let found = certificates(file, fetch, problems);
    let mut store = RootCertStore::empty();
    if let Some(error) = found.iter().find_map(|root| store.add(root.clone()).err()) {
        let message = format!("{} holds a certificate that cannot be trusted: {error}", file.value.display());
        problems.push(file.place.problem(message));
    }
    found
}

/// Who we are to an origin. That key and certificate belong together shows here and not at the first handshake.
fn client_certificate(
    chain: &At<PathBuf>,
    key: &At<PathBuf>,
    fetch: &mut Fetch<'_>,
    problems: &mut Problems,
) -> Option<ClientCertificate> {
    let (file, place) = (key.value.display(), &key.place);
    let certificates = certificates(chain, fetch, problems);
    let bytes = zeroize::Zeroizing::new(fetched(key, Holds::Key, fetch, problems)?);
    let Ok(private) = PrivateKeyDer::from_pem_slice(&bytes) else {
        problems.push(place.problem(format!("{file} holds no PEM private key without a passphrase")));
        return None;
    };
    if certificates.is_empty() {
        return None;
    }
    let signing = match any_supported_type(&private) {
        Ok(signing) => signing,
        Err(error) => {
            problems.push(place.problem(format!("the key in {file} cannot be used: {error}")));
            return None;
        }
    };
    // Not knowing is no mismatch: some keys do not give their public half.
    match CertifiedKey::new(certificates.clone(), signing).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
            Some(ClientCertificate { chain: certificates, key: private })
        }
        Err(error) => {
            let problem =
                place.problem(format!("{file} is not the key of {}: {error}", chain.value.display()));
            problems.push(
                problem.help(
                    "the certificate file begins with the client's own certificate, its issuers follow",
                ),
            );
            None
        }
    }
}

/// A deny with conditions on a host that a tunnel opens could never be judged: the tunnel is not read.
fn unjudgeable_denies(rules: &[Arc<Rule>], problems: &mut Problems) {
    let tunnels = Tunnels::new(rules);
    if tunnels.is_empty() {
        return;
    }
    for deny in rules.iter().filter(|rule| rule.action == Action::Deny && !rule.is_unconditional()) {
        let met = tunnels.meeting(deny);
        if let Some(tunnel) = met {
            let message =
                format!("this deny has conditions, but rule {:?} tunnels the same place unread", tunnel.name);
            let help = format!("remove the conditions, or narrow the tunnel at {}", tunnel.place);
            problems.push(deny.place.problem(message).help(help));
        }
    }
}

/// Tunnel rules by every name at which another pattern could meet theirs.
struct Tunnels<'a> {
    all: Vec<&'a Rule>,
    exact: HashMap<&'a str, Vec<&'a Rule>>,
    under: HashMap<&'a str, Vec<&'a Rule>>,
    /// Keyed by each parent of each pattern.
    below: HashMap<&'a str, Vec<&'a Rule>>,
    any: Vec<&'a Rule>,
}

impl<'a> Tunnels<'a> {
    fn new(rules: &'a [Arc<Rule>]) -> Self {
        let all: Vec<&Rule> = rules.iter().map(|r| &**r).filter(|r| r.action == Action::Tunnel).collect();
        let mut tunnels = Self {
            all,
            exact: HashMap::new(),
            under: HashMap::new(),
            below: HashMap::new(),
            any: Vec::new(),
        };
        for rule in tunnels.all.clone() {
            for pattern in &rule.hosts {
                let name = match pattern {
                    HostPattern::Any => {
                        tunnels.any.push(rule);
                        continue;
                    }
                    HostPattern::Exact(name) => {
                        tunnels.exact.entry(name.as_str()).or_default().push(rule);
                        name
                    }
                    HostPattern::Under(name) => {
                        tunnels.under.entry(name.as_str()).or_default().push(rule);
                        name
                    }
                };
                for parent in name.parents() {
                    tunnels.below.entry(parent).or_default().push(rule);
                }
            }
        }
        tunnels
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn meeting(&self, deny: &Rule) -> Option<&'a Rule> {
        let fits = |tunnel: &&&'a Rule| {
            let tunnel: &Rule = tunnel;
            deny.scheme.is_none_or(|own| Some(own) == tunnel.scheme)
                && share(deny.ports.as_deref(), tunnel.ports.as_deref())
                && share(deny.clients.as_deref(), tunnel.clients.as_deref())
        };
        let by_name = deny.hosts.iter().find_map(|pattern| match pattern {
            HostPattern::Any => self.all.iter().filter(|t| !t.hosts.is_empty()).find(fits),
            HostPattern::Exact(name) => {
                let exact = self.exact.get(name.as_str()).into_iter().flatten();
                exact
                    .chain(name.parents().filter_map(|p| self.under.get(p)).flatten())
                    .chain(&self.any)
                    .find(fits)
            }
            HostPattern::Under(name) => {
                let same = self.under.get(name.as_str()).into_iter().flatten();
                let above = name.parents().filter_map(|p| self.under.get(p)).flatten();
                let below = self.below.get(name.as_str()).into_iter().flatten();
                same.chain(above).chain(below).chain(&self.any).find(fits)
            }
        });
        let overlap = |t: &&&Rule| {
            t.addresses.iter().any(|a| deny.addresses.iter().any(|b| a.contains(b) || b.contains(a)))
        };
        by_name.or_else(|| self.all.iter().filter(overlap).find(fits)).copied()
    }
}

/// `None` is everything.
fn share<T: PartialEq>(a: Option<&[T]>, b: Option<&[T]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.iter().any(|x| b.contains(x)),
        _ => true,
    }
}
