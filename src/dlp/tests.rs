//! What the detectors as a whole must do: every shipped pattern in every encoding, the gauntlet's cases, the hold.
//! Tokens are made at run time; nothing here looks like one.

use super::check::crc32_base62;
use super::pattern::{Edges, Pattern};
use super::*;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use std::io::Write;
use std::sync::LazyLock;

pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self, set: &[u8], len: usize) -> String {
        (0..len).map(|_| set[self.below(set.len())] as char).collect()
    }
}

const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A value of the pattern's shape: of its shortest or longest form.
fn make(pattern: &Pattern, random: &mut Random, longest: bool) -> Vec<u8> {
    loop {
        let mut variable = Vec::new();
        for atom in &pattern.atoms {
            let set: Vec<u8> = atom.set.bytes().collect();
            let count = if longest { atom.max } else { atom.min };
            variable.extend((0..count).map(|_| set[random.below(set.len())]));
        }
        if pattern.check.is_some() {
            let body = variable.len() - 6;
            let sum = crc32_base62(&variable[..body]);
            variable.splice(body.., sum);
        }
        if check::entropy(&variable) >= pattern.entropy {
            return [pattern.literal.expose(), &variable].concat();
        }
    }
}

fn secret() -> String {
    format!("{}-{}", "hunter", "Zq8!x/7+pW=Kd2")
}

pub(super) fn detectors() -> &'static Arc<Detectors> {
    static DETECTORS: LazyLock<Arc<Detectors>> = LazyLock::new(|| {
        let known = KnownSecret { name: "db".into(), value: SecretBytes::new(secret().into_bytes()) };
        let custom = Custom { name: "project".into(), regex: "PROJ-[0-9]{6}".into() };
        Arc::new(Detectors::compile(&[known], &[custom]).unwrap())
    });
    &DETECTORS
}

fn token() -> String {
    let body = Random(11).text(BASE62, 30);
    format!("ghp_{body}{}", String::from_utf8(crc32_base62(body.as_bytes()).to_vec()).unwrap())
}

fn key_id() -> String {
    format!("AKIA{}", Random(5).text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16))
}

fn rule(text: impl AsRef<[u8]>) -> Option<String> {
    detectors().scan(Selection::all(), text.as_ref()).map(|finding| finding.rule.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn percent(bytes: &[u8], some: impl Fn(usize) -> bool) -> String {
    let escape =
        |(i, byte): (usize, &u8)| if some(i) { format!("%{byte:02X}") } else { (*byte as char).to_string() };
    bytes.iter().enumerate().map(escape).collect()
}

fn wrap(text: &str, columns: usize, line: &str) -> String {
    text.as_bytes().chunks(columns).map(|part| String::from_utf8_lossy(part) + line).collect()
}

mod patterns {
    use super::*;

    /// The value in every encoding, alone in a line of text where it needs edges.
    fn forms(value: &[u8], edges: Edges, random: &mut Random) -> Vec<(&'static str, Vec<u8>)> {
        let lead: &[u8] = if edges == Edges::Number { b"id 12345678" } else { b"value \"" };
        let plain = [lead, value, b"\" end"].concat();
        let shift = random.below(3);
        let inside = [&b"abc"[..shift], &plain].concat();
        let standard = BASE64_STANDARD.encode(&inside);
        vec![
            ("plain", plain.clone()),
            ("base64", standard.clone().into_bytes()),
            ("base64url", BASE64_URL_SAFE_NO_PAD.encode(&inside).into_bytes()),
            (
                "wrapped",
                wrap(&BASE64_STANDARD.encode([random.bytes(90 + shift), plain.clone()].concat()), 76, "\r\n")
                    .into_bytes(),
            ),
            ("escaped base64", percent(standard.as_bytes(), |i| i % 3 == 1).into_bytes()),
            ("hex", hex(&plain).into_bytes()),
            ("HEX", hex(&plain).to_uppercase().into_bytes()),
            ("percent", percent(&plain, |_| true).into_bytes()),
            ("some percent", percent(&plain, |i| i % 4 == 2).into_bytes()),
            ("json", plain.iter().map(|byte| format!("\\u{:04x}", byte)).collect::<String>().into_bytes()),
            ("utf-16le", plain.iter().flat_map(|&byte| [byte, 0]).collect()),
            ("utf-16be", plain.iter().flat_map(|&byte| [0, byte]).collect()),
        ]
    }

    #[test]
    fn dl_16_18_every_shipped_pattern_is_found_in_every_encoding() {
        let mut random = Random(42);
        for pattern in rules::shipped().unwrap() {
            for longest in [false, true] {
                let value = make(&pattern, &mut random, longest);
                for (form, text) in forms(&value, pattern.edges, &mut random) {
                    let finding = detectors().scan(Selection::none().with(pattern.kind), &text);
                    let finding =
                        finding.unwrap_or_else(|| panic!("{} as {form}, longest {longest}", pattern.rule));
                    assert!(!finding.masked.contains(&String::from_utf8_lossy(&value)[..]));
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_filler_or_inside_a_word_is_no_finding() {
        assert_eq!(rule(format!("AKIA{}", "X".repeat(16))), None);
        assert_eq!(rule(format!("{}{}", key_id(), "ABC")), None);
        assert_eq!(rule(format!("some{}", key_id())), None);
        assert_eq!(rule(format!("sk-{}", "x".repeat(48))), None);
        assert_eq!(rule("-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----"), None);
        assert_eq!(rule("-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUabcdefghijkl\n"), None);
    }

    #[test]
    fn a_right_checksum_is_believed_inside_a_word_and_a_wrong_one_only_alone() {
        assert_eq!(rule(format!("abc{}xyz", token())).as_deref(), Some("github-token"));
        let mut wrong = token();
        let last = if wrong.pop() == Some('a') { 'b' } else { 'a' };
        wrong.push(last);
        assert_eq!(rule(format!("abc{wrong}xyz")), None);
        assert_eq!(rule(format!("token {wrong} here")).as_deref(), Some("github-token"));
    }

    #[test]
    fn a_private_key_is_found_from_its_header_and_first_bytes_also_in_json_and_base64() {
        for label in ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "] {
            let pem = format!(
                "-----BEGIN {label}{}-----\n{}",
                "PRIVATE KEY",
                BASE64_STANDARD.encode(Random(3).bytes(30))
            );
            assert_eq!(rule(&pem).as_deref(), Some("private-key"));
            assert_eq!(
                rule(format!("{{\"key\":\"{}\"}}", pem.replace('\n', "\\n"))).as_deref(),
                Some("private-key")
            );
            assert_eq!(rule(BASE64_STANDARD.encode(&pem)).as_deref(), Some("private-key"));
        }
        let legacy = format!("-----BEGIN RSA {}-----\r\nProc-Type: 4,ENCRYPTED", "PRIVATE KEY");
        assert_eq!(rule(legacy).as_deref(), Some("private-key-with-headers"));
    }
}

mod cases {
    use super::*;

    #[test]
    fn dl_01_in_a_query_value_a_query_key_and_a_path_segment() {
        let key = key_id();
        for target in [
            format!("/a?q={key}&b=1"),
            format!("/a?{key}=1"),
            format!("/a/{key}/b"),
            format!("/a?q=%22{key}%22"),
        ] {
            assert_eq!(rule(&target).as_deref(), Some("aws-access-key-id"), "{target}");
        }
    }

    #[test]
    fn dl_02_dl_03_in_header_values_and_as_a_basic_password() {
        for value in [format!("a=1; session={}", token()), format!("Mozilla/5.0 {}", token()), token()] {
            assert_eq!(rule(value).as_deref(), Some("github-token"));
        }
        for user in ["u", "us", "use", "user"] {
            for password in [token(), secret()] {
                let value = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
                let finding = detectors().scan(Selection::all(), value.as_bytes()).expect("found");
                assert_eq!(finding.encoding, Encoding::Base64);
            }
        }
    }

    #[test]
    fn dl_06_dl_08_in_json_and_forms() {
        assert_eq!(rule(format!("{{\"a\":[1,{{\"b\":\"{}\"}}]}}", token())).as_deref(), Some("github-token"));
        assert_eq!(
            rule(format!("{{\"a\":\"{{\\\"b\\\":\\\"{}\\\"}}\"}}", key_id())).as_deref(),
            Some("aws-access-key-id")
        );
        assert_eq!(
            rule(format!(
                "x=1&y={}",
                percent(secret().as_bytes(), |i| !secret().as_bytes()[i].is_ascii_alphanumeric())
            ))
            .as_deref(),
            Some("db")
        );
        assert_eq!(
            rule(format!("x=1&y={}", percent(token().as_bytes(), |i| i == 3))).as_deref(),
            Some("github-token")
        );
    }

    #[test]
    fn dl_16_base64_of_a_known_secret_alone_and_inside_text_at_three_offsets() {
        for lead in ["", "a", "ab", "abc"] {
            let inside = format!("{lead}{}tail", secret());
            for coded in [
                BASE64_STANDARD.encode(&inside),
                BASE64_STANDARD_NO_PAD.encode(&inside),
                BASE64_URL_SAFE_NO_PAD.encode(&inside),
            ] {
                for text in [
                    coded.clone(),
                    format!("see {coded}, thanks"),
                    wrap(&coded, 20, "\n"),
                    percent(coded.as_bytes(), |i| i % 2 == 0),
                ] {
                    assert_eq!(rule(&text).as_deref(), Some("db"), "{text}");
                }
            }
        }
    }

    #[test]
    fn dl_18_dl_21_hex_and_utf_16_of_a_known_secret() {
        assert_eq!(rule(hex(secret().as_bytes())).as_deref(), Some("db"));
        assert_eq!(rule(hex(secret().as_bytes()).to_uppercase()).as_deref(), Some("db"));
        let wide: Vec<u8> =
            format!("\u{feff}x {}", secret()).encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(rule(wide).as_deref(), Some("db"));
        let wide: Vec<u8> =
            format!("\u{feff}x {}", secret()).encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(rule(wide).as_deref(), Some("db"));
    }

    #[test]
    fn dl_50_lock_files_are_no_findings() {
        let mut random = Random(50);
        let mut text = String::new();
        for i in 0..3000 {
            text += &format!(
                "\"node_modules/p{i}\": {{\"version\": \"1.{i}.0\", \"resolved\": \"https://node.packages.example/p{i}/-/p{i}-1.0.tgz\", \"integrity\": \"sha512-{}\"}},\n",
                BASE64_STANDARD.encode(random.bytes(64))
            );
            text += &format!("checksum = \"{}\"\n", hex(&random.bytes(32)));
            text += &format!(
                "example.com/m{i} v0.0.0-2020{:08}-{} h1:{}\n",
                i,
                hex(&random.bytes(6)),
                BASE64_STANDARD.encode(random.bytes(32))
            );
            text += &format!("    {{file = \"p-{i}.whl\", hash = \"sha256:{}\"}},\n", hex(&random.bytes(32)));
        }
        assert_eq!(rule(text), None);
    }

    #[test]
    fn dl_52_dl_53_random_bytes_raw_and_in_base64_are_no_findings() {
        let mut random = Random(53);
        for _ in 0..2 {
            let bytes = random.bytes(256 << 10);
            for text in [BASE64_STANDARD.encode(&bytes), BASE64_URL_SAFE_NO_PAD.encode(&bytes), hex(&bytes)] {
                assert_eq!(rule(format!("data:image/png;base64,{text}")), None);
                assert_eq!(rule(wrap(&text, 76, "\r\n")), None);
                assert_eq!(rule(wrap(&text, 64, "\n")), None);
            }
            assert_eq!(rule(bytes), None);
        }
    }

    #[test]
    fn only_what_is_selected_is_found() {
        let select = Selection::all();
        assert!(detectors().scan(select, secret().as_bytes()).is_some());
        assert!(detectors().scan(Selection::none().with(Kind::Tokens), secret().as_bytes()).is_none());
        assert!(detectors().scan(Selection::none(), token().as_bytes()).is_none());
        assert_eq!(rule("see PROJ-123456.").as_deref(), Some("project"));
        let (i, finding) = detectors().scan_each(select, [&b"a"[..], token().as_bytes()]).unwrap();
        assert_eq!((i, finding.masked.as_str()), (1, "ghp_***"));
    }

    #[test]
    fn a_placeholder_shaped_like_a_token_is_no_finding() {
        let spared = Detectors::compile(&[], &[]).unwrap().sparing([token().into_bytes()]);
        assert!(spared.scan(Selection::all(), format!("Bearer {}", token()).as_bytes()).is_none());
        assert!(spared.scan(Selection::all(), format!("Bearer {}", key_id()).as_bytes()).is_some());
    }

    #[test]
    fn a_short_secret_is_refused_and_nothing_secret_is_in_words() {
        let short = KnownSecret { name: "pin".into(), value: SecretBytes::new(b"1234567".to_vec()) };
        assert_eq!(
            Detectors::compile(&[short], &[]).err(),
            Some(CompileError::ShortSecret { name: "pin".into() })
        );
        let finding = detectors().scan(Selection::all(), secret().as_bytes()).unwrap();
        assert!(!format!("{finding:?} {:?}", detectors()).contains("hunter"));
    }
}

#[path = "stream_tests.rs"]
mod stream_tests;
