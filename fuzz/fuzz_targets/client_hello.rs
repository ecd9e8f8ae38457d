//! Property: a ClientHello means the same however it is cut. Fed byte by byte or at once, any bytes give the same
//! facts or the same kind of refusal, never a panic, and a refusal's alert is a whole TLS alert record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outgate::tls::{Hello, HelloError, Pending, looks_like_tls};

/// Well above real hellos, and below the product's own bound, which cuts by how much is fed at once.
const MAX_BYTES: usize = 6 * 1024;

#[derive(Debug, PartialEq)]
enum Told {
    Hello(Hello),
    Refused(std::mem::Discriminant<HelloError>),
    More,
}

fn feed(pending: &mut Pending, bytes: &[u8]) -> Told {
    match pending.feed(bytes) {
        Ok(Some(opening)) => Told::Hello(opening.hello),
        Ok(None) => Told::More,
        Err(error) => {
            if let Some(alert) = error.alert() {
                assert!(matches!(alert.as_slice(), [21, 3, _, 0, 2, 2, _]), "not a fatal alert: {alert:?}");
            }
            Told::Refused(std::mem::discriminant(&error))
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > MAX_BYTES {
        return;
    }
    let at_once = feed(&mut Pending::default(), bytes);
    let mut pending = Pending::default();
    let piecewise = (1..=bytes.len())
        .map(|end| feed(&mut pending, &bytes[..end]))
        .find(|told| *told != Told::More)
        .unwrap_or(Told::More);
    assert_eq!(piecewise, at_once);
    let sniffed = looks_like_tls(bytes);
    let not_tls = Told::Refused(std::mem::discriminant(&HelloError::NotTls));
    assert_eq!(sniffed == Some(false), at_once == not_tls, "the sniffer and the reader disagree");
});
