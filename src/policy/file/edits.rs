//! What a rule does to what it lets through: `[rule.request]`, `[rule.response]`, `[rule.tls]`, `[rule.dlp]`,
//! `[rule.script]`.

use super::super::problem::Place;
use super::super::rule::{Action, Dlp, Inject, OnMatch, RequestEdits, ResponseEdits};
use super::conditions::header_name;
use super::section::{At, Section};
use crate::base::Scheme;
use crate::dlp;
use crate::secrets::Template;
use http::{HeaderName, HeaderValue};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A secret that a rule uses, and where it says so.
#[derive(Debug)]
pub(in crate::policy) struct SecretUse {
    pub(in crate::policy) name: Arc<str>,
    pub(in crate::policy) place: Place,
    /// A swap needs a placeholder.
    pub(in crate::policy) swap: bool,
}

/// Files that `[rule.tls]` names, from the policy's folder.
#[derive(Debug, Default)]
pub(in crate::policy) struct TlsFiles {
    pub(in crate::policy) roots: Option<At<PathBuf>>,
    /// Chain and key.
    pub(in crate::policy) client_certificate: Option<(At<PathBuf>, At<PathBuf>)>,
}

pub(super) fn request(
    mut section: Section<'_, '_>,
    action: Action,
    scheme: Option<Scheme>,
) -> (RequestEdits, Vec<SecretUse>) {
    for key in ["inject", "swap"].into_iter().filter(|key| section.has(key)) {
        if scheme == Some(Scheme::Http) {
            let help = "a secret goes out over verified TLS only: use scheme = \"https\"";
            section.problem(key, format!("{key} with scheme = \"http\""), help);
        }
        if action == Action::Observe {
            let help = "what would be denied never gets a credential: use action = \"allow\"";
            section.problem(key, format!("{key} in an observe rule"), help);
        }
    }
    let mut uses = Vec::new();
    let strip = header_names(&mut section, "strip");
    let set = section.string_map("set");
    let set = set.into_iter().filter_map(|(name, value)| field(&section, &name, &value)).collect();
    let listed = section.tables("inject", "inject");
    let inject: Vec<Inject> = listed.into_iter().filter_map(|table| inject(table, &mut uses)).collect();
    let swap = section.strings("swap").unwrap_or_default();
    uses.extend(swap.iter().map(|text| SecretUse {
        name: text.value.as_str().into(),
        place: text.place.clone(),
        swap: true,
    }));
    let swap = swap.into_iter().map(|text| text.value.into()).collect();
    let edits = RequestEdits { strip, set, inject, swap };
    let mut headers: Vec<&HeaderName> = edits.inject.iter().map(|i| &i.header).collect();
    headers.extend(edits.set.iter().map(|(name, _)| name));
    headers.sort_by_key(|name| name.as_str());
    if let Some([twice, _]) =
        headers.windows(2).find_map(|pair| <[_; 2]>::try_from(pair).ok().filter(|[a, b]| a == b))
    {
        section.problem("inject", format!("{twice} is set or injected twice"), "keep one of them");
    }
    section.finish();
    (edits, uses)
}

fn field(
    section: &Section<'_, '_>,
    name: &At<String>,
    value: &At<String>,
) -> Option<(HeaderName, HeaderValue)> {
    let header = header_name(section, name);
    if value.value.contains("{secret.") {
        let problem = value.place.problem("a secret in set would not be written in");
        section.reader.push(problem.help("use inject = [{ header = \"...\", value = \"...\" }]"));
        return None;
    }
    match HeaderValue::from_str(&value.value) {
        Ok(value) => Some((header?, value)),
        Err(_) => {
            section.reader.push(value.place.problem("a character that no header value may hold"));
            None
        }
    }
}

fn inject(mut section: Section<'_, '_>, uses: &mut Vec<SecretUse>) -> Option<Inject> {
    let header = section.required("header", "\"authorization\"");
    let header = header.and_then(|text| header_name(&section, &text));
    let text = section.required("value", "\"Bearer {secret.github}\"");
    let value = text.and_then(|text| match Template::parse(&text.value) {
        Ok(template) if template.secrets().next().is_none() => {
            let problem = text.place.problem("an injected value without a secret");
            section.reader.push(problem.help("write {secret.NAME} in it, or use set"));
            None
        }
        Ok(template) => {
            let place = &text.place;
            uses.extend(template.secrets().map(|name| SecretUse {
                name: name.clone(),
                place: place.clone(),
                swap: false,
            }));
            Some(template)
        }
        Err(error) => {
            section.reader.push(text.place.problem(error.to_string()));
            None
        }
    });
    section.finish();
    Some(Inject { header: header?, value: value? })
}

fn header_names(section: &mut Section<'_, '_>, key: &'static str) -> Vec<HeaderName> {
    let listed = section.strings(key).unwrap_or_default();
    listed.iter().filter_map(|text| header_name(section, text)).collect()
}

pub(super) fn response(mut section: Section<'_, '_>) -> ResponseEdits {
    let strip = header_names(&mut section, "strip");
    section.finish();
    ResponseEdits { strip }
}

pub(super) fn tls(
    mut section: Section<'_, '_>,
    folder: &Path,
    action: Action,
    scheme: Option<Scheme>,
) -> TlsFiles {
    if scheme == Some(Scheme::Http) {
        section.problem("roots", "[rule.tls] with scheme = \"http\"", "use scheme = \"https\"");
    }
    if action == Action::Observe && section.has("client_certificate") {
        let help = "what would be denied never gets a credential: use action = \"allow\"";
        section.problem("client_certificate", "client_certificate in an observe rule", help);
    }
    let file = |text: At<String>| At { value: folder.join(&text.value), place: text.place };
    let roots = section.string("roots").map(file);
    let client_certificate =
        section.table("client_certificate", "client_certificate").and_then(|mut table| {
            let chain = table.required("certificate", "\"agent.pem\"").map(file);
            let key = table.required("key", "\"agent.key\"").map(file);
            table.finish();
            Some((chain?, key?))
        });
    section.finish();
    TlsFiles { roots, client_certificate }
}

impl Default for Dlp {
    /// What a rule does that says nothing: every detector on what leaves, none on what comes back.
    fn default() -> Self {
        Self {
            outbound: dlp::Selection::all(),
            inbound: dlp::Selection::none(),
            on_match: OnMatch::Block,
            max_body: None,
        }
    }
}

pub(super) fn dlp(mut section: Section<'_, '_>) -> Dlp {
    let default = Dlp::default();
    let outbound = selection(&mut section, "outbound").unwrap_or(default.outbound);
    let inbound = selection(&mut section, "inbound").unwrap_or(default.inbound);
    let on_match = match section.string("on_match").as_ref().map(|text| text.value.as_str()) {
        None | Some("block") => OnMatch::Block,
        Some("log") => OnMatch::Log,
        Some(other) => {
            let message = match other {
                "ask" => "on_match = \"ask\" needs approvals, which this version does not have".into(),
                "redact" => "on_match = \"redact\" is not available in this version".into(),
                _ => format!("no such reaction: {other:?}"),
            };
            section.problem("on_match", message, "block or log");
            OnMatch::Block
        }
    };
    let max_body = section.string("max_body").and_then(|text| {
        let size = size(&text.value);
        if size.is_none() {
            section.problem("max_body", format!("not a size: {:?}", text.value), "write it as \"16 MiB\"");
        }
        size
    });
    section.finish();
    Dlp { outbound, inbound, on_match, max_body }
}

/// `"16 MiB"`: a whole number and a binary unit.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|size| *size > 0)
}

fn selection(section: &mut Section<'_, '_>, key: &'static str) -> Option<dlp::Selection> {
    let listed = section.strings(key)?;
    let kind = |text: &At<String>| {
        let kind = dlp::Kind::parse(&text.value);
        if kind.is_none() {
            let problem = text.place.problem(format!("no such kind of detector: {:?}", text.value));
            let names = dlp::Kind::ALL.map(dlp::Kind::as_str).join(", ");
            section.reader.push(problem.help(format!("{names} (custom: every [[detector]] of the policy)")));
        }
        kind
    };
    Some(listed.iter().filter_map(kind).collect())
}

pub(super) fn script(mut section: Section<'_, '_>, folder: &Path) -> Option<At<PathBuf>> {
    let file = section.required("file", "\"github.rhai\"");
    section.finish();
    file.map(|text| At { value: folder.join(&text.value), place: text.place })
}
