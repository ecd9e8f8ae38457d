//! Stand-ins: putting the real value in their place, and finding them where they do not belong.
//!
//! Where a swap may happen is the rule's business. After the swaps of a rule no placeholder may be left in what is
//! sent: [`Placeholders`] is asked last, of every header and the target.

use super::Secrets;
use super::forms::forms;
use super::template::{replace, sensitive};
use crate::base::SecretBytes;
use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Basic credentials as clients write them, with or without padding; written back canonically.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The value with the secret wherever the placeholder stood, in plain sight or inside Basic credentials (RFC 7617);
/// marked sensitive. `None` when the placeholder is not there.
pub fn swap_header(value: &HeaderValue, placeholder: &[u8], secret: &SecretBytes) -> Option<HeaderValue> {
    if placeholder.is_empty() {
        return None;
    }
    if let Some(swapped) = replace(value.as_bytes(), placeholder, secret) {
        return sensitive(swapped);
    }
    let (scheme, credentials) = basic(value.as_bytes())?;
    let swapped = Zeroizing::new(replace(&credentials, placeholder, secret)?);
    let mut header = scheme.to_vec();
    header.extend_from_slice(BASIC.encode(&*swapped).as_bytes());
    sensitive(header)
}

/// Finds the placeholders of a set in every spelling: plain, percent, hex, base64, inside Basic credentials.
#[derive(Clone)]
pub struct Placeholders {
    automaton: Option<AhoCorasick>,
    /// The secret that each pattern of the automaton stands for.
    owners: Arc<[Arc<str>]>,
}

impl Placeholders {
    /// Compiles the placeholders; once a snapshot. `None` when there are more than the automaton can hold, which the
    /// limits of a policy exclude.
    pub fn new(secrets: &Secrets) -> Option<Self> {
        let mut patterns = Vec::new();
        let mut owners = Vec::new();
        for entry in secrets.iter() {
            for form in entry.placeholder.iter().flat_map(|p| forms(p.as_bytes())) {
                patterns.push(form);
                owners.push(entry.name.clone());
            }
        }
        let automaton = match patterns.is_empty() {
            true => None,
            false => Some(AhoCorasick::new(patterns.iter().map(|p| p.as_slice())).ok()?),
        };
        Some(Self { automaton, owners: owners.into() })
    }

    pub fn is_empty(&self) -> bool {
        self.automaton.is_none()
    }

    /// The name of the secret whose placeholder stands in a header's value.
    pub fn in_header(&self, value: &HeaderValue) -> Option<&Arc<str>> {
        let automaton = self.automaton.as_ref()?;
        let bytes = value.as_bytes();
        self.find(automaton, bytes)
            .or_else(|| basic(bytes).and_then(|(_, credentials)| self.find(automaton, &credentials)))
    }

    /// The name of the secret whose placeholder stands in a request target, or in any other text of a head.
    pub fn in_target(&self, target: &str) -> Option<&Arc<str>> {
        self.find(self.automaton.as_ref()?, target.as_bytes())
    }

    fn find(&self, automaton: &AhoCorasick, text: &[u8]) -> Option<&Arc<str>> {
        let owner = |text: &[u8]| automaton.find(text).and_then(|m| self.owners.get(m.pattern().as_usize()));
        owner(text).or_else(|| match Cow::from(percent_encoding::percent_decode(text)) {
            // Single characters may be escaped that need not be.
            Cow::Owned(decoded) => owner(&decoded),
            Cow::Borrowed(_) => None,
        })
    }
}

impl fmt::Debug for Placeholders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Placeholders({} spellings)", self.owners.len())
    }
}

/// `Basic ` as it was written, and the credentials after it.
fn basic(value: &[u8]) -> Option<(&[u8], Zeroizing<Vec<u8>>)> {
    let scheme = value.get(..6).filter(|s| s.eq_ignore_ascii_case(b"basic "))?;
    let credentials = value.get(6..)?.trim_ascii();
    Some((scheme, Zeroizing::new(BASIC.decode(credentials).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{Environment, Source, Spec};

    const PLACEHOLDER: &str = "ghp_placeholder/agent";

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    fn secret() -> SecretBytes {
        SecretBytes::new(b"ghp_the_real_value".to_vec())
    }

    fn placeholders() -> Placeholders {
        let spec = Spec {
            name: "github".into(),
            source: Source::Env("T".into()),
            placeholder: Some(PLACEHOLDER.to_owned()),
        };
        Placeholders::new(&Secrets::load(&[spec], &Environment::new([("T".into(), secret())], None)).unwrap())
            .unwrap()
    }

    fn swapped(text: &str) -> Option<String> {
        let value = swap_header(&header(text), PLACEHOLDER.as_bytes(), &secret())?;
        assert!(value.is_sensitive());
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_placeholder_becomes_the_secret_wherever_it_stands() {
        assert_eq!(swapped("token ghp_placeholder/agent").unwrap(), "token ghp_the_real_value");
        assert_eq!(
            swapped("ghp_placeholder/agent,ghp_placeholder/agent;q").unwrap(),
            "ghp_the_real_value,ghp_the_real_value;q"
        );
        assert_eq!(swapped("Bearer something-else"), None);
    }

    #[test]
    fn a_placeholder_inside_basic_credentials_is_swapped_there() {
        let before = BASIC.encode("x-access-token:ghp_placeholder/agent");
        let after = BASIC.encode("x-access-token:ghp_the_real_value");
        assert_eq!(swapped(&format!("Basic {before}")).unwrap(), format!("Basic {after}"));
        assert_eq!(
            swapped(&format!("basic {}", before.trim_end_matches('='))).unwrap(),
            format!("basic {after}")
        );
        assert_eq!(swapped("Basic !!!not-base64!!!"), None);
        assert_eq!(swapped(&format!("Basic {}", BASIC.encode("user:password"))), None);
    }

    #[test]
    fn cr_13_a_placeholder_is_seen_in_every_spelling() {
        let all = placeholders();
        let basic = format!("Basic {}", BASIC.encode("u:ghp_placeholder/agent"));
        let url_safe =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode("{\"t\":\"ghp_placeholder/agent\"}");
        for text in [
            "Bearer ghp_placeholder/agent",
            "ghp_placeholder%2Fagent",
            "ghp_placeholder%2fagent",
            "%67hp_place%68older%2fagent",
            "6768705f706c616365686f6c6465722f6167656e74",
            &basic,
            &url_safe,
        ] {
            assert_eq!(all.in_header(&header(text)).map(|n| &**n), Some("github"), "{text}");
        }
        assert_eq!(all.in_target("/v1?token=ghp_placeholder%2Fagent").map(|n| &**n), Some("github"));
        assert_eq!(all.in_target("/v1?token=100%25"), None);
        assert_eq!(all.in_header(&header("Bearer ghp_place")), None);
    }

    #[test]
    fn without_placeholders_nothing_is_found() {
        let none = Placeholders::new(&Secrets::default()).unwrap();
        assert!(none.is_empty());
        assert_eq!(none.in_header(&header("anything")), None);
    }
}
