//! Credentials: where they come from, and the forms in which they travel.
//!
//! [`Secrets`] is an immutable set, loaded at start and again at each reload. [`Template`] and [`swap_header`] put a
//! value into a head, [`Placeholders`] finds stand-ins where they do not belong, [`Redactor`] masks values in what
//! comes back. `policy` loads the set into its snapshot, `pipeline` uses the rest. Which rule may use which secret is
//! decided by `policy`; what leaves in a body is found by `dlp`.
//!
//! Loading blocks (files, commands of at most ten seconds): call it off the runtime's own threads.

mod environment;
mod forms;
mod placeholder;
mod redact;
mod source;
mod template;

pub use environment::{Environment, SealError};
pub use placeholder::{Placeholders, swap_header};
pub use redact::{Redaction, Redactor};
pub use source::{Cause, LoadError, Source, read_private};
pub use template::{Missing, Template, TemplateError};

use crate::base::SecretBytes;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shorter values cannot be told from ordinary text, so neither redaction nor DLP could guard them.
pub const SHORTEST: usize = 8;

/// How long a value that was rotated out stays among [`Secrets::values`]: answers that began before the rotation and
/// agents that still hold an old echo are over by then.
pub const RETIRED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Retired values of the whole set; beyond it the oldest goes first.
const RETIRED_MOST: usize = 256;

/// A `[[secret]]` of the policy.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: Arc<str>,
    pub source: Source,
    /// What the client holds in its place.
    pub placeholder: Option<String>,
}

/// A loaded secret.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: Arc<str>,
    pub value: SecretBytes,
    pub placeholder: Option<Arc<str>>,
}

/// The secrets of one snapshot.
#[derive(Clone, Default)]
pub struct Secrets {
    entries: BTreeMap<Arc<str>, Entry>,
    retired: Vec<Retired>,
}

/// A value that was in use before a reload.
#[derive(Clone)]
struct Retired {
    name: Arc<str>,
    value: SecretBytes,
    until: Instant,
}

impl Secrets {
    /// Reads every secret, or says of each that could not be had why. `environment` is what was there at start;
    /// files, credentials and commands are read anew.
    pub fn load(specs: &[Spec], environment: &Environment) -> Result<Self, Vec<LoadError>> {
        let mut entries = BTreeMap::new();
        let mut errors = Vec::new();
        for spec in specs {
            let loaded = if entries.contains_key(&spec.name) {
                Err(Cause::SecondOfName)
            } else {
                check_placeholder(spec).and_then(|()| source::read(&spec.source, environment))
            };
            match loaded {
                Ok(value) => {
                    let placeholder = spec.placeholder.as_deref().map(Arc::from);
                    entries.insert(spec.name.clone(), Entry { name: spec.name.clone(), value, placeholder });
                }
                Err(cause) => errors.push(LoadError::new(spec, cause)),
            }
        }
        errors.extend(
            specs
                .iter()
                .filter(|s| is_ambiguous(s, specs, &entries))
                .map(|s| LoadError::new(s, Cause::PlaceholderAmbiguous)),
        );
        if errors.is_empty() { Ok(Self { entries, retired: Vec::new() }) } else { Err(errors) }
    }

    /// This set, with the values of `old` that are no longer in it kept for [`RETIRED_FOR`] among
    /// [`Secrets::values`]. A value whose time is over goes with the first reload after it.
    pub fn succeeding(mut self, old: &Secrets, now: Instant) -> Self {
        let was_live = old.entries.values().map(|entry| Retired {
            name: entry.name.clone(),
            value: entry.value.clone(),
            until: now + RETIRED_FOR,
        });
        let was_retired = old.retired.iter().filter(|retired| retired.until > now).cloned();
        let mut retired: Vec<Retired> = Vec::new();
        for candidate in was_live.chain(was_retired) {
            let known = |value: &SecretBytes| value.expose() == candidate.value.expose();
            if !self.entries.values().any(|e| known(&e.value)) && !retired.iter().any(|r| known(&r.value)) {
                retired.push(candidate);
            }
        }
        retired.sort_by_key(|r| std::cmp::Reverse(r.until));
        retired.truncate(RETIRED_MOST);
        self.retired = retired;
        self
    }

    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The secrets in use, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Every value that must not be seen: those in use and those that lately were. For [`Redactor`] and DLP.
    pub fn values(&self) -> impl Iterator<Item = (&Arc<str>, &SecretBytes)> {
        let live = self.entries.values().map(|e| (&e.name, &e.value));
        live.chain(self.retired.iter().map(|r| (&r.name, &r.value)))
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.retired.is_empty()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

/// A stand-in is looked for in heads, so it has to be long enough to be found there and only there.
fn check_placeholder(spec: &Spec) -> Result<(), Cause> {
    match &spec.placeholder {
        Some(text) if text.len() < SHORTEST || !text.bytes().all(|b| b.is_ascii_graphic()) => {
            Err(Cause::Placeholder)
        }
        _ => Ok(()),
    }
}

/// Whether the placeholder of `spec` stands inside another one, or it and some value inside each other: then a swap
/// would write into the wrong text.
fn is_ambiguous(spec: &Spec, specs: &[Spec], entries: &BTreeMap<Arc<str>, Entry>) -> bool {
    let Some(placeholder) = spec.placeholder.as_deref() else { return false };
    let others = specs.iter().filter(|other| other.name != spec.name);
    others.filter_map(|other| other.placeholder.as_deref()).any(|other| other.contains(placeholder))
        || entries.values().any(|entry| {
            let (value, placeholder) = (entry.value.expose(), placeholder.as_bytes());
            memchr::memmem::find(value, placeholder).or(memchr::memmem::find(placeholder, value)).is_some()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(values: &[(&str, &str)]) -> Environment {
        Environment::new(
            values.iter().map(|(n, v)| ((*n).into(), SecretBytes::new(v.as_bytes().to_vec()))),
            None,
        )
    }

    fn spec(name: &str, placeholder: Option<&str>) -> Spec {
        Spec {
            name: name.into(),
            source: Source::Env(name.to_uppercase()),
            placeholder: placeholder.map(Into::into),
        }
    }

    fn causes(specs: &[Spec], environment: &Environment) -> Vec<Cause> {
        Secrets::load(specs, environment).unwrap_err().into_iter().map(|e| e.cause).collect()
    }

    #[test]
    fn cr_25_every_unusable_value_is_reported_at_once_and_none_is_printed() {
        let environment = environment(&[
            ("EMPTY", ""),
            ("SHORT", "1234567"),
            ("LINES", "secret-value\r\nx-evil: 1"),
            ("NUL", "secret\0value"),
            ("FINE", "a-fine-value"),
        ]);
        let specs = ["empty", "short", "lines", "nul", "absent", "fine"].map(|n| spec(n, None));
        let errors = Secrets::load(&specs, &environment).unwrap_err();
        let text: String = errors.iter().map(|e| format!("{e}\n{e:?}\n{}\n", e.help())).collect();
        assert_eq!(errors.len(), 5, "{text}");
        for value in ["1234567", "secret-value", "x-evil", "a-fine"] {
            assert!(!text.contains(value), "{text}");
        }
        for name in ["EMPTY", "SHORT", "LINES", "NUL", "ABSENT"] {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn debug_prints_names_only() {
        let set =
            Secrets::load(&[spec("github", None)], &environment(&[("GITHUB", "ghp_0123456789")])).unwrap();
        assert_eq!(format!("{set:?}"), "{\"github\"}");
        assert!(!format!("{:?}", set.get("github")).contains("ghp_"));
    }

    #[test]
    fn placeholders_that_could_be_mistaken_are_refused() {
        let environment = environment(&[("A", "value-of-a-0"), ("B", "value-of-b-0")]);
        assert!(matches!(causes(&[spec("a", Some("short"))], &environment)[..], [Cause::Placeholder]));
        assert!(matches!(causes(&[spec("a", Some("with a blank"))], &environment)[..], [Cause::Placeholder]));
        let inside = [spec("a", Some("stand-in")), spec("b", Some("stand-in-b"))];
        assert!(matches!(causes(&inside, &environment)[..], [Cause::PlaceholderAmbiguous]));
        let same = [spec("a", Some("stand-in")), spec("b", Some("stand-in"))];
        assert_eq!(causes(&same, &environment).len(), 2);
        let value = [spec("a", Some("x-value-of-b-0")), spec("b", None)];
        assert!(matches!(causes(&value, &environment)[..], [Cause::PlaceholderAmbiguous]));
        let twice = [spec("a", None), spec("a", None)];
        assert!(matches!(causes(&twice, &environment)[..], [Cause::SecondOfName]));
    }

    #[test]
    fn cr_24_a_rotated_value_stays_known_for_its_time_and_no_longer() {
        let load = |value| Secrets::load(&[spec("k", None)], &environment(&[("K", value)])).unwrap();
        let values = |set: &Secrets| {
            set.values().map(|(_, v)| String::from_utf8(v.expose().to_vec()).unwrap()).collect::<Vec<_>>()
        };
        let start = Instant::now();
        let second = load("second-value").succeeding(&load("first-value"), start);
        assert_eq!(second.get("k").unwrap().value.expose(), b"second-value");
        assert_eq!(values(&second), ["second-value", "first-value"]);
        let reloaded = load("second-value").succeeding(&second, start + RETIRED_FOR / 2);
        assert_eq!(values(&reloaded), ["second-value", "first-value"]);
        let later = load("second-value").succeeding(&reloaded, start + RETIRED_FOR);
        assert_eq!(values(&later), ["second-value"]);
        let back = load("first-value").succeeding(&second, start);
        assert_eq!(values(&back), ["first-value", "second-value"]);
    }
}
