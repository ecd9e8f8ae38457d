//! One immutable set of everything that a decision needs: rules, clients, secrets, detectors. A reload makes a new
//! one; flows hold the one they were judged under.

use super::client::{ClientId, Clients, SoleClient};
use super::file::{self, Draft};
use super::index::Index;
use super::problem::{Place, Problem, Problems, SourceFile};
use super::resolve::{self, Holds, Resolved};
use super::rule::{Action, Rule};
use crate::base::{Ingress, Scheme};
use crate::dlp::{self, Detectors};
use crate::script;
use crate::secrets::{self, Environment, Placeholders, Redactor, Secrets};
use aws_lc_rs::digest;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A folder of policies holds a handful of files.
const MAX_FILES: usize = 1_000;
/// A script or certificate file that a rule names.
const MAX_NAMED_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug)]
pub struct Snapshot {
    pub(super) clients: Clients,
    pub(super) rules: Vec<Arc<Rule>>,
    pub(super) index: Index,
    tcp: Vec<(u16, Arc<Rule>)>,
    secrets: Arc<Secrets>,
    redactor: Redactor,
    placeholders: Placeholders,
    detectors: Arc<Detectors>,
    version: String,
    warnings: Vec<Problem>,
}

/// What loading needs beside the files.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// What the environment held at start.
    pub environment: Option<&'a Environment>,
    /// Leave the secrets' values unread: for `test` and `explain` on a machine that has none.
    pub without_secrets: bool,
    pub scripts: script::Settings,
    /// Every flow is this client's, whatever interface and source say.
    pub sole_client: Option<&'a SoleClient>,
    /// The set in use: its rotated values stay guarded for a while.
    pub previous: Option<&'a Snapshot>,
}

impl Snapshot {
    /// Reads `*.toml` of the folder in the order of their names (case files are `cases`' business) and what they
    /// point to. Nothing is run except commands that give secrets. Blocks: call it off the runtime's own threads.
    pub fn load(dir: &Path, options: &LoadOptions<'_>) -> Result<Self, Problems> {
        let sources = read_folder(dir, |name| name.ends_with(".toml") && !name.ends_with(".cases.toml"))?;
        if sources.is_empty() {
            let problem = Problem::with_file(dir, "no policy files (*.toml) here");
            return Err(Problems::one(
                problem
                    .help("write one; a policy without rules denies everything, a missing one is a mistake"),
            ));
        }
        let empty = Environment::default();
        let environment = options.environment.unwrap_or(&empty);
        Self::compile(&sources, options, &mut |path, holds| read_named(path, holds, environment))
    }

    /// The same from texts in memory, for tests, benches and fuzzers: what rules name on disk is not found.
    pub fn parse(sources: &[SourceFile], options: &LoadOptions<'_>) -> Result<Self, Problems> {
        Self::compile(sources, options, &mut |_, _| Err("not among the texts given".into()))
    }

    fn compile(
        sources: &[SourceFile],
        options: &LoadOptions<'_>,
        fetch: &mut resolve::Fetch<'_>,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut draft = Draft::default();
        let mut hash = digest::Context::new(&digest::SHA256);
        for source in sources {
            hashed(&mut hash, &source.path, source.text.as_bytes());
            file::read(source, &mut draft, &mut problems);
        }
        let engine = script::Engine::new(options.scripts);
        if options.without_secrets {
            draft.rules.iter_mut().for_each(|rule| rule.tls.client_certificate = None);
        }
        let mut fetch_hashed = |path: &Path, holds: Holds| {
            let bytes = fetch(path, holds)?;
            hashed(&mut hash, path, &bytes);
            Ok(bytes)
        };
        let mut resolved = resolve::resolve(draft, &engine, &mut fetch_hashed, &mut problems);
        if let Some(sole) = options.sole_client
            && let Err(why) = resolved.clients.leave_to(sole)
        {
            let file = sources.first().map_or(Path::new(""), |source| &source.path);
            problems.push(Problem::with_file(file, why).help("name it with --client NAME"));
        }
        if resolved.clients.len() == 0
            && !problems.has_errors()
            && let Some(source) = sources.first()
        {
            let problem = Problem::with_file(
                &source.path,
                "no [[client]] anywhere: every source is refused as unknown",
            );
            problems.push(Problem { warning: true, ..problem });
        }
        let secrets = load_secrets(&resolved, options, &mut problems);
        let detectors = detectors(&resolved, &secrets, &mut problems);
        let redactor = Redactor::new(secrets.values().map(|(_, value)| value));
        let placeholders = Placeholders::new(&secrets);
        let (Some(detectors), Some(redactor), Some(placeholders)) = (detectors, redactor, placeholders)
        else {
            if !problems.has_errors() {
                let file = sources.first().map_or(Path::new(""), |source| &source.path);
                problems.push(Problem::with_file(file, "more secrets than can be guarded"));
            }
            return Err(problems.into_result().err().unwrap_or_default());
        };
        let warnings = problems.into_result()?;
        let Resolved { clients, rules, .. } = resolved;
        let index = Index::new(&rules, clients.len());
        let tcp = tcp_ports(&rules);
        let version = short_hex(hash.finish().as_ref());
        let (secrets, detectors) = (Arc::new(secrets), Arc::new(detectors));
        Ok(Self { clients, rules, index, tcp, secrets, redactor, placeholders, detectors, version, warnings })
    }

    /// Short hash of every byte that was read, for records.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What is odd about the policy, but no error.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Who a flow belongs to. `None` is refused.
    pub fn client(&self, interface: Option<&str>, source: IpAddr) -> Option<ClientId> {
        self.clients.find(interface, source)
    }

    /// Who a flow belongs to that came in there. `None` is refused.
    pub fn client_of(&self, ingress: &Ingress, source: IpAddr) -> Option<ClientId> {
        self.clients.of(ingress, source)
    }

    /// Whether there is a client of this name that is known by its attachment.
    pub fn may_attach(&self, name: &str) -> bool {
        self.clients.by_name(name).is_some_and(|id| self.clients.is_attached(id))
    }

    pub fn client_by_name(&self, name: &str) -> Option<ClientId> {
        self.clients.by_name(name)
    }

    /// Empty for an id of another snapshot.
    pub fn client_name(&self, client: ClientId) -> Arc<str> {
        self.clients.name(client).cloned().unwrap_or_default()
    }

    pub fn clients(&self) -> impl Iterator<Item = ClientId> + use<> {
        self.clients.ids()
    }

    /// In file order.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    pub fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    pub fn placeholders(&self) -> &Placeholders {
        &self.placeholders
    }

    pub fn detectors(&self) -> &Arc<Detectors> {
        &self.detectors
    }

    /// TCP ports that some rule opens, whatever for: the redirect has to take them, so that they are judged.
    pub fn open_ports(&self) -> BTreeSet<u16> {
        let opening = self.rules.iter().filter(|rule| rule.action != Action::Deny);
        opening.flat_map(|rule| rule.ports.iter().flatten().copied()).collect()
    }

    pub(super) fn tcp_rules(&self, port: u16) -> impl Iterator<Item = &Rule> {
        let start = self.tcp.partition_point(|(own, _)| *own < port);
        self.tcp.iter().skip(start).take_while(move |(own, _)| *own == port).map(|(_, rule)| &**rule)
    }
}

/// The environment variables that the policies of a folder name: the daemon takes them out of its environment before
/// it loads the rest.
pub fn environment_names(dir: &Path) -> Result<Vec<String>, Problems> {
    let names = draft(dir)?.secrets.into_iter().filter_map(|(spec, _)| match spec.source {
        secrets::Source::Env(name) => Some(name),
        _ => None,
    });
    Ok(names.collect())
}

/// The files that the policies of a folder take secrets from, and the keys of their client certificates: nobody who is
/// judged by them may read those.
pub fn secret_files(dir: &Path) -> Result<Vec<PathBuf>, Problems> {
    let draft = draft(dir)?;
    let files = draft.secrets.into_iter().filter_map(|(spec, _)| match spec.source {
        secrets::Source::File(path) => Some(path),
        _ => None,
    });
    let keys = draft.rules.into_iter().filter_map(|rule| Some(rule.tls.client_certificate?.1.value));
    Ok(files.chain(keys).collect())
}

fn draft(dir: &Path) -> Result<Draft, Problems> {
    let sources = read_folder(dir, |name| name.ends_with(".toml") && !name.ends_with(".cases.toml"))?;
    let mut draft = Draft::default();
    let mut problems = Problems::default();
    for source in &sources {
        file::read(source, &mut draft, &mut problems);
    }
    problems.into_result()?;
    Ok(draft)
}

/// The files of a folder whose names fit, in the order of their names.
pub(super) fn read_folder(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<Vec<SourceFile>, Problems> {
    let unreadable =
        |path: &Path, error: std::io::Error| Problem::with_file(path, format!("cannot be read: {error}"));
    let entries = std::fs::read_dir(dir).map_err(|error| Problems::one(unreadable(dir, error)))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Problems::one(unreadable(dir, error)))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.starts_with('.') && fits(&name) {
            paths.push(path);
        }
    }
    if paths.len() > MAX_FILES {
        return Err(Problems::one(Problem::with_file(dir, format!("more than {MAX_FILES} files"))));
    }
    paths.sort();
    let mut sources = Vec::new();
    let mut problems = Problems::default();
    for path in paths {
        match read_bounded(&path, file::MAX_FILE_BYTES as u64).and_then(utf8) {
            Ok(text) => sources.push(SourceFile { path, text }),
            Err(error) => problems.push(unreadable(&path, error)),
        }
    }
    if problems.has_errors() { Err(problems) } else { Ok(sources) }
}

fn utf8(bytes: Vec<u8>) -> std::io::Result<String> {
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8"))
}

fn read_named(path: &Path, holds: Holds, environment: &Environment) -> Result<Vec<u8>, String> {
    if holds == Holds::Key {
        let read = secrets::read_private(path, environment).map(|mut bytes| std::mem::take(&mut *bytes));
        return read.map_err(|cause| format!("{cause}; {}", cause.help()));
    }
    read_bounded(path, MAX_NAMED_BYTES).map_err(|error| error.to_string())
}

fn read_bounded(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(std::io::Error::other(format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

fn hashed(hash: &mut digest::Context, path: &Path, bytes: &[u8]) {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for part in [name.as_bytes(), bytes] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
}

fn short_hex(hash: &[u8]) -> String {
    hash.iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn place_of<'a>(name: &str, mut named: impl Iterator<Item = (&'a str, &'a Place)>) -> Option<&'a Place> {
    named.find(|(own, _)| *own == name).map(|(_, place)| place)
}

fn load_secrets(resolved: &Resolved, options: &LoadOptions<'_>, problems: &mut Problems) -> Secrets {
    if options.without_secrets || problems.has_errors() {
        return Secrets::default();
    }
    let specs: Vec<secrets::Spec> = resolved.secrets.iter().map(|(spec, _)| spec.clone()).collect();
    let empty = Environment::default();
    let loaded = match Secrets::load(&specs, options.environment.unwrap_or(&empty)) {
        Ok(loaded) => loaded,
        Err(errors) => {
            for error in errors {
                let named = resolved.secrets.iter().map(|(spec, place)| (&*spec.name, place));
                if let Some(place) = place_of(&error.name, named) {
                    problems.push(place.problem(error.to_string()).help(error.help()));
                }
            }
            return Secrets::default();
        }
    };
    match options.previous {
        Some(previous) => loaded.succeeding(&previous.secrets, Instant::now()),
        None => loaded,
    }
}

fn detectors(resolved: &Resolved, secrets: &Secrets, problems: &mut Problems) -> Option<Detectors> {
    let known: Vec<dlp::KnownSecret> = secrets
        .values()
        .map(|(name, value)| dlp::KnownSecret { name: name.clone(), value: value.clone() })
        .collect();
    let custom: Vec<dlp::Custom> = resolved.detectors.iter().map(|(custom, _)| custom.clone()).collect();
    match Detectors::compile(&known, &custom) {
        Ok(detectors) => {
            let stand_ins = secrets.iter().filter_map(|entry| entry.placeholder.as_ref());
            Some(detectors.sparing(stand_ins.map(|text| text.as_bytes().to_vec())))
        }
        Err(error) => {
            use dlp::CompileError as E;
            let name: &str = match &error {
                E::ShortSecret { name } | E::Regex { name, .. } | E::Unbounded { name } => name,
                E::TooLong { name, .. } | E::Empty { name } | E::TooLarge { name } => name,
                E::Shipped(_) => "",
            };
            let detectors = resolved.detectors.iter().map(|(custom, place)| (&*custom.name, place));
            let secrets = resolved.secrets.iter().map(|(spec, place)| (&*spec.name, place));
            problems.push(match place_of(name, detectors.chain(secrets)) {
                Some(place) => place.problem(error.to_string()),
                None => Problem::with_file(Path::new("detectors"), error.to_string()),
            });
            None
        }
    }
}

fn tcp_ports(rules: &[Arc<Rule>]) -> Vec<(u16, Arc<Rule>)> {
    let opening =
        rules.iter().filter(|rule| rule.action == Action::Tunnel && rule.scheme == Some(Scheme::Tcp));
    let pairs = opening.flat_map(|rule| rule.ports.iter().flatten().map(move |port| (*port, rule.clone())));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by_key(|(port, _)| *port);
    pairs
}
