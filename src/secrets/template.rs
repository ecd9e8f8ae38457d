//! Header values with secrets in them: `Bearer {secret.github}`.
//!
//! Parsed when the policy is loaded, rendered under a permit. `{{` and `}}` stand for single braces.

use super::Secrets;
use crate::base::SecretBytes;
use http::HeaderValue;
use std::sync::Arc;

/// A header value in which `{secret.NAME}` stands for a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Secret(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("a brace is not closed or not opened; write {{{{ or }}}} for a brace itself")]
    Brace,
    #[error("only {{secret.NAME}} can stand in braces, with a name of letters, digits, '-', '_' and '.'")]
    Expression,
    #[error("a character that no header value may hold")]
    Character,
}

/// A secret that a template names and the set does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("secret {name:?} is not available")]
pub struct Missing {
    pub name: Arc<str>,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.chars().any(|c| c.is_control() || !c.is_ascii()) {
            return Err(TemplateError::Character);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from_brace) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from_brace.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = from_brace.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else {
                let inner = from_brace.strip_prefix('{').ok_or(TemplateError::Brace)?;
                let (expression, after) = inner.split_once('}').ok_or(TemplateError::Brace)?;
                let name = expression
                    .strip_prefix("secret.")
                    .filter(|n| is_name(n))
                    .ok_or(TemplateError::Expression)?;
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(Part::Secret(name.into()));
                rest = after;
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    /// The secrets it names, in order.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Secret(name) => Some(name),
            Part::Text(_) => None,
        })
    }

    /// The value, marked sensitive so that no HTTP library prints or indexes it. A snapshot may render once and clone:
    /// clones share the bytes.
    pub fn render(&self, secrets: &Secrets) -> Result<HeaderValue, Missing> {
        let mut value = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => value.extend_from_slice(text.as_bytes()),
                Part::Secret(name) => {
                    let entry = secrets.get(name).ok_or_else(|| Missing { name: name.clone() })?;
                    value.extend_from_slice(entry.value.expose());
                }
            }
        }
        sensitive(value).ok_or_else(|| Missing { name: self.secrets().next().cloned().unwrap_or_default() })
    }
}

/// A header value that `http` treats as secret; `None` for bytes that cannot stand in one.
pub(super) fn sensitive(value: Vec<u8>) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Every occurrence of `needle` replaced; `None` when there is none.
pub(super) fn replace(text: &[u8], needle: &[u8], secret: &SecretBytes) -> Option<Vec<u8>> {
    let finder = memchr::memmem::Finder::new(needle);
    let mut out = Vec::new();
    let mut copied = 0;
    for at in finder.find_iter(text) {
        out.extend_from_slice(text.get(copied..at)?);
        out.extend_from_slice(secret.expose());
        copied = at + needle.len();
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(text.get(copied..)?);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{Environment, Source, Spec};

    fn secrets() -> Secrets {
        let value = SecretBytes::new(b"ghp_0123456789".to_vec());
        let spec = Spec { name: "git.hub-1".into(), source: Source::Env("T".into()), placeholder: None };
        Secrets::load(&[spec], &Environment::new([("T".into(), value)], None)).unwrap()
    }

    #[test]
    fn a_template_becomes_a_sensitive_value() {
        let template = Template::parse("Bearer {secret.git.hub-1}").unwrap();
        assert_eq!(template.secrets().map(|n| &**n).collect::<Vec<_>>(), ["git.hub-1"]);
        let value = template.render(&secrets()).unwrap();
        assert_eq!(value.as_bytes(), b"Bearer ghp_0123456789");
        assert!(value.is_sensitive());
        assert_eq!(format!("{value:?}"), "Sensitive");
    }

    #[test]
    fn braces_are_written_twice() {
        let value = Template::parse("{{a}}={secret.git.hub-1};").unwrap().render(&secrets()).unwrap();
        assert_eq!(value.as_bytes(), b"{a}=ghp_0123456789;");
    }

    #[test]
    fn what_is_not_a_template_is_an_error() {
        for (text, error) in [
            ("Bearer {secret.x", TemplateError::Brace),
            ("Bearer secret.x}", TemplateError::Brace),
            ("{x}", TemplateError::Expression),
            ("{secret.}", TemplateError::Expression),
            ("{secret.a b}", TemplateError::Expression),
            ("{env.HOME}", TemplateError::Expression),
            ("a\r\nb", TemplateError::Character),
            ("a\u{e9}", TemplateError::Character),
        ] {
            assert_eq!(Template::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn cr_25_a_missing_secret_is_an_error_and_no_half_value() {
        let missing = Template::parse("Bearer {secret.gone}").unwrap().render(&secrets()).unwrap_err();
        assert_eq!(&*missing.name, "gone");
    }
}
