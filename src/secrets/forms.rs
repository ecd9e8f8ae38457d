//! The spellings in which a value turns up: as it is, and as the usual encodings write it.

use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// One spelling of a secret: as secret as the value.
pub(super) type Form = Zeroizing<Vec<u8>>;

/// Every distinct spelling of at least eight bytes, the plain one first. Base64 is given for each of the three places
/// that the value can have within a group of three bytes, without the characters that its neighbours have a part in:
/// of the first and last byte up to six bits stay outside.
pub(super) fn forms(value: &[u8]) -> Vec<Form> {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let component = |b: u8| unreserved(b) || b"!'()*".contains(&b);
    let mut all = vec![
        value.to_vec(),
        percent(value, unreserved, true),
        percent(value, unreserved, false),
        percent(value, component, true),
        percent(value, |_| false, true),
        percent(value, |_| false, false),
        hex(value, true),
        hex(value, false),
        json(value, |b| b == b'"' || b == b'\\', false),
        json(value, |b| matches!(b, b'"' | b'\\' | b'/'), false),
        json(value, |b| b == b'"' || b == b'\\', true),
        html(value, b"&#39;"),
        html(value, b"&#x27;"),
    ];
    for offset in 0..3 {
        all.push(base64_at(value, offset, &STANDARD_NO_PAD));
        all.push(base64_at(value, offset, &URL_SAFE_NO_PAD));
    }
    let mut distinct: Vec<Form> = Vec::new();
    for form in all.into_iter().map(Zeroizing::new) {
        if form.len() >= super::SHORTEST && !distinct.contains(&form) {
            distinct.push(form);
        }
    }
    distinct
}

/// `%XX` for every byte but those to keep (RFC 3986 section 2.1).
fn percent(value: &[u8], keep: impl Fn(u8) -> bool, upper: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() * 3);
    for byte in value {
        if keep(*byte) {
            out.push(*byte);
        } else {
            out.push(b'%');
            out.extend(hex(&[*byte], upper));
        }
    }
    out
}

fn hex(value: &[u8], upper: bool) -> Vec<u8> {
    let digit = |d: u8| match d {
        0..=9 => b'0' + d,
        _ if upper => b'A' + d - 10,
        _ => b'a' + d - 10,
    };
    value.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// The inside of a JSON string (RFC 8259 section 7). `html_safe`: `<`, `>`, `&` and `'` as `\u00XX`, as several
/// frameworks write them. Values hold no control bytes, so no other escape is needed.
fn json(value: &[u8], escape: impl Fn(u8) -> bool, html_safe: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 8);
    for byte in value {
        if html_safe && b"<>&'".contains(byte) {
            out.extend_from_slice(b"\\u00");
            out.extend(hex(&[*byte], false));
        } else {
            if escape(*byte) {
                out.push(b'\\');
            }
            out.push(*byte);
        }
    }
    out
}

fn html(value: &[u8], apostrophe: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 8);
    for byte in value {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            b'\'' => out.extend_from_slice(apostrophe),
            other => out.push(*other),
        }
    }
    out
}

/// The characters that stand for nothing but `value` when `offset` other bytes come before it in its group.
fn base64_at(value: &[u8], offset: usize, engine: &impl base64::Engine) -> Vec<u8> {
    let mut padded = Zeroizing::new(vec![0; offset]);
    padded.extend_from_slice(value);
    // 8 bits of a neighbour reach into the second character, 16 into the third.
    let first = if offset == 0 { 0 } else { offset + 1 };
    let end = padded.len() * 8 / 6;
    let encoded = Zeroizing::new(engine.encode(&padded));
    encoded.as_bytes().get(first..end).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    fn has(value: &str, form: &str) -> bool {
        forms(value.as_bytes()).iter().any(|f| f.as_slice() == form.as_bytes())
    }

    #[test]
    fn the_usual_encodings_are_there() {
        assert!(has("a/b+c d\"e&f", "a%2Fb%2Bc%20d%22e%26f"));
        assert!(has("a/b+c d\"e&f", "a%2fb%2bc%20d%22e%26f"));
        assert!(has("a/b+c d\"e&f", "a\\/b+c d\\\"e&f"));
        assert!(has("a/b+c d\"e&f", "a/b+c d\\\"e\\u0026f"));
        assert!(has("a/b+c d\"e&f", "a/b+c d&quot;e&amp;f"));
        assert!(has("secret12", "7365637265743132"));
        assert!(has("secret12", "%73%65%63%72%65%74%31%32"));
    }

    #[test]
    fn base64_is_found_after_any_number_of_other_bytes() {
        let value = b"ghp_0123456789abcdef?>?>";
        let needles = forms(value);
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            for before in 0..7 {
                for after in 0..4 {
                    let text = [&vec![b'u'; before][..], value, &vec![b'~'; after]].concat();
                    let encoded = engine.encode(text);
                    let found = needles.iter().any(|n| memchr::memmem::find(encoded.as_bytes(), n).is_some());
                    assert!(found, "{before} {after} {encoded}");
                }
            }
        }
    }

    #[test]
    fn spellings_that_are_the_same_are_given_once() {
        let all = forms(b"onlyletters");
        assert_eq!(all.iter().filter(|f| f.as_slice() == b"onlyletters").count(), 1);
    }
}
