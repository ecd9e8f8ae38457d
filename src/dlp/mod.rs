//! Streaming detection of secrets in what leaves: request targets, headers and bodies, and inbound where a rule asks.
//!
//! `policy` compiles [`Detectors`] into its snapshot; `pipeline` asks [`Detectors::scan`] about short values and runs
//! a [`Stream`] over each body. Pure and synchronous: no I/O, no clock, no task.
//!
//! How it works, top to bottom of the house:
//! - `stream` holds back what may still become a finding and hands out the rest, without copying it; `gzip` decodes for it.
//! - `scanner` reads a message in pieces and keeps what is undecided; short whole values go past it.
//! - `window` looks at one contiguous piece of a message and says what is found and where a finding may still begin.
//! - `filter` is the only code that touches every byte: a sampled three-byte filter over the beginnings of all patterns in all encodings.
//! - `engine` walks a candidate exactly: `view` decodes on the fly, `trie` knows the literal beginnings, `pattern` the rest.
//! - `custom` runs user-defined patterns as one automaton beside it; `rules` reads the shipped ones from `tokens.toml`.
//!
//! Understood: raw, percent and JSON/`\x` escapes of any part, base64 (both alphabets, any alignment, padded or not, wrapped at 17 columns
//! and more),
//! hex, UTF-16, each of the last three also inside escapes; gzip around all of it.
//! Not understood, by choice: encrypted, reversed or otherwise scrambled values, a value split over messages, base64 of base64,
//! escapes inside base64, hex of mixed case within one value's first bytes, DER keys, JSON Web Tokens (ordinary traffic carries them).

mod check;
mod custom;
mod detectors;
mod engine;
mod filter;
mod gzip;
mod needle;
mod pattern;
mod rules;
mod scanner;
mod stream;
#[cfg(test)]
mod tests;
mod trie;
mod view;
mod window;

pub use detectors::Detectors;
pub use stream::{Coding, Limits, Stop, Stream};

use crate::base::SecretBytes;
use std::sync::Arc;

/// What a detector looks for. The names are those of policy files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    KnownSecrets,
    Tokens,
    PrivateKeys,
    Custom,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::KnownSecrets, Self::Tokens, Self::PrivateKeys, Self::Custom];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KnownSecrets => "known-secrets",
            Self::Tokens => "tokens",
            Self::PrivateKeys => "private-keys",
            Self::Custom => "custom",
        }
    }

    /// The kind of that name in a policy file.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::KnownSecrets => 1,
            Self::Tokens => 2,
            Self::PrivateKeys => 4,
            Self::Custom => 8,
        }
    }
}

/// Which kinds are on for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Selection(u8);

impl Selection {
    pub const fn none() -> Self {
        Self(0)
    }

    pub const fn all() -> Self {
        Self(15)
    }

    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | kind.bit())
    }

    pub const fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Kind> for Selection {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::none(), Self::with)
    }
}

/// A configured secret that must not leave. At least [`MIN_SECRET`] bytes.
#[derive(Clone, Debug)]
pub struct KnownSecret {
    pub name: Arc<str>,
    pub value: SecretBytes,
}

/// Shorter values would be found in ordinary text.
pub const MIN_SECRET: usize = 8;

/// A pattern that the operator wrote. Searched in raw bytes only.
#[derive(Clone, Debug)]
pub struct Custom {
    pub name: Arc<str>,
    pub regex: String,
}

/// How a finding was written where it was found (inside the content coding, if there was one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Plain,
    /// Percent or backslash escapes in any part of it.
    Escaped,
    Base64,
    Hex,
    Utf16,
}

impl Encoding {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Escaped => "escaped",
            Self::Base64 => "base64",
            Self::Hex => "hex",
            Self::Utf16 => "utf16",
        }
    }
}

/// Something was found. Never carries the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// The name of the secret or pattern.
    pub rule: Arc<str>,
    pub encoding: Encoding,
    /// Bytes from the beginning of the message (of the decoded message, for gzip). For a custom pattern: where it ends.
    pub offset: u64,
    /// The public prefix of a token format and `***`; only `***` where the prefix would be part of the value.
    pub masked: String,
}

/// Why detectors cannot be compiled. Names the entry, never a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    #[error(
        "secret \"{name}\" is shorter than {MIN_SECRET} bytes and would be found in ordinary text; use a longer one"
    )]
    ShortSecret { name: Arc<str> },
    #[error("pattern \"{name}\" is not a regular expression that can be used: {reason}")]
    Regex { name: Arc<str>, reason: String },
    #[error(
        "pattern \"{name}\" has no longest match; replace `*`, `+` and `{{n,}}` by a bounded count such as `{{1,64}}`"
    )]
    Unbounded { name: Arc<str> },
    #[error("pattern \"{name}\" may match {len} bytes; at most {max} are allowed")]
    TooLong { name: Arc<str>, len: usize, max: usize },
    #[error("pattern \"{name}\" matches the empty text; make it ask for at least one byte")]
    Empty { name: Arc<str> },
    #[error("pattern \"{name}\" needs too large an automaton; use smaller counts or fewer alternatives")]
    TooLarge { name: Arc<str> },
    #[error("the shipped patterns are broken: {0}")]
    Shipped(String),
}
