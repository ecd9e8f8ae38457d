//! RFC 3339 UTC with microseconds, cheap enough for every record: a thread formats a second once.

use std::cell::Cell;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// 9999-12-31T23:59:59Z: RFC 3339 has four digits for the year.
const LATEST_SECOND: u64 = 253_402_300_799;

type Seconds = [u8; 19];

thread_local! {
    static LAST: Cell<(u64, Seconds)> = const { Cell::new((u64::MAX, [b'0'; 19])) };
}

/// Appends for example `2026-11-21T07:05:59.000123Z`. A clock before 1970 reads as 1970.
pub(super) fn write_time(out: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs().min(LATEST_SECOND);
    let (mut cached, mut text) = LAST.get();
    if cached != second {
        (cached, text) = (second, format_second(second));
        LAST.set((cached, text));
    }
    out.extend_from_slice(&text);
    out.push(b'.');
    let mut micros = since.subsec_micros();
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (micros % 10) as u8;
        micros /= 10;
    }
    out.extend_from_slice(&digits);
    out.push(b'Z');
}

fn format_second(second: u64) -> Seconds {
    let at = i64::try_from(second)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut text = [b'0'; 19];
    // Bounded by LATEST_SECOND, the text is exactly as long as the array.
    let _ = write!(
        text.as_mut_slice(),
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn text(at: SystemTime) -> String {
        let mut out = Vec::new();
        write_time(&mut out, at);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_rfc_3339_with_microseconds() {
        assert_eq!(
            text(UNIX_EPOCH + Duration::from_micros(1_795_244_759_000_123)),
            "2026-11-21T07:05:59.000123Z"
        );
        assert_eq!(
            text(UNIX_EPOCH + Duration::from_micros(951_782_400_999_999)),
            "2000-02-29T00:00:00.999999Z"
        );
    }

    #[test]
    fn ft_15_an_absurd_clock_gives_an_absurd_time_and_no_panic() {
        assert_eq!(text(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(text(UNIX_EPOCH + Duration::from_secs(1 << 50)), "9999-12-31T23:59:59.000000Z");
    }
}
