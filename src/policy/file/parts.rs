//! `[[client]]`, `[[secret]]` and `[[detector]]`.

use super::super::client::Client;
use super::super::problem::Place;
use super::section::{At, Section};
use super::{MAX_LIST, name};
use crate::dlp;
use crate::secrets::{Source, Spec};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::Path;

pub(super) fn client(mut section: Section<'_, '_>) -> Option<(Client, Place)> {
    let place = section.place.clone();
    let name = name(&mut section, "\"agent\"");
    let interface = section.string("interface").and_then(|text| {
        let fits = !text.value.is_empty() && text.value.len() < 16 && !text.value.contains(['/', ' ']);
        if !fits {
            let message = "an interface has a name of 1 to 15 characters, as `ip link` shows it";
            section.reader.push(text.place.problem(message));
        }
        fits.then(|| text.value.into())
    });
    let listed = section.strings("source");
    let sources: Vec<IpNet> =
        listed.iter().flatten().filter_map(|text| network(&section, text, "a source")).collect();
    let attached = section.bool("attached").is_some_and(|flag| flag.value);
    let placed = section.has("interface") || section.has("source");
    if attached && placed {
        section.problem(
            "attached",
            "an attached client has no source and no interface",
            "it is known by what `outgate attach` attaches; name another client for a source or an interface",
        );
    } else if !attached
        && !section.has("interface")
        && sources.is_empty()
        && listed.is_none_or(|list| list.is_empty())
    {
        section.problem(
            "source",
            "a client without source and interface",
            "add source = [\"192.168.128.0/24\"] or interface = \"eth1\", or attached = true for `outgate attach`",
        );
    }
    section.finish();
    Some((Client { name: name?, interface, sources, attached }, place))
}

pub(super) fn secret(mut section: Section<'_, '_>, folder: &Path) -> Option<(Spec, Place)> {
    let place = section.place.clone();
    let name = name(&mut section, "\"github\"").filter(|name| {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !plain {
            section.problem(
                "name",
                "a secret's name has letters, digits, '-', '_' and '.'",
                "rename it; values say {secret.NAME}",
            );
        }
        plain
    });
    let placeholder = section.string("placeholder").map(|text| text.value);
    let source = if section.has("from") {
        section.table("from", "from").and_then(|from| origin(from, folder))
    } else {
        section.table("from", "from");
        section.problem(
            "name",
            "[[secret]] without from",
            "add from = { env = \"NAME\" }, or file, credential, command",
        );
        None
    };
    section.finish();
    Some((Spec { name: name?, source: source?, placeholder }, place))
}

fn origin(mut from: Section<'_, '_>, folder: &Path) -> Option<Source> {
    let source = if from.has("command") {
        let words: Vec<String> = from.strings("command")?.into_iter().map(|word| word.value).collect();
        if words.is_empty() {
            from.problem("command", "the command is empty", "write command = [\"program\", \"argument\"]");
            return None;
        }
        Source::Command(words)
    } else {
        let (kind, text) = from.one_of(&["env", "file", "credential", "command"])?;
        match kind {
            "env" => Source::Env(text.value),
            "file" => Source::File(folder.join(text.value)),
            _ => Source::Credential(text.value),
        }
    };
    from.finish();
    Some(source)
}

pub(super) fn detector(mut section: Section<'_, '_>) -> Option<(dlp::Custom, Place)> {
    let place = section.place.clone();
    let name = name(&mut section, "\"ticket numbers\"");
    let regex = section.required("regex", "\"ACME-[0-9]{6}\"");
    section.finish();
    Some((dlp::Custom { name: name?, regex: regex?.value }, place))
}

/// A network, or an address as a network of one.
pub(super) fn network(section: &Section<'_, '_>, text: &At<String>, what: &str) -> Option<IpNet> {
    let parsed = text.value.parse::<IpNet>().or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
    match parsed {
        Ok(net) if net.addr() != net.trunc().addr() => {
            let message = format!("{what} {net} has bits set behind its prefix");
            section.reader.push(text.place.problem(message).help(format!("write {}", net.trunc())));
            None
        }
        Ok(net) => Some(net),
        Err(_) => {
            let message = format!("{what} is an address or a network, not {:?}", text.value);
            section
                .reader
                .push(text.place.problem(message).help("write \"192.0.2.0/24\" or \"2001:db8::/32\""));
            None
        }
    }
}

/// Refuses what no rule needs in such numbers.
pub(super) fn bounded<T>(section: &Section<'_, '_>, key: &str, list: &[T]) -> bool {
    let fits = list.len() <= MAX_LIST;
    if !fits {
        section.problem(key, format!("{key} has more than {MAX_LIST} entries"), "split the rule");
    }
    fits
}
