//! What tells a token from text of the same shape: the checksums that providers put into their tokens, and how random it looks.
//! Called by `pattern` after the shape has matched.

/// A checksum at the end of a token's variable part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub(super) enum Check {
    /// The last six characters are the CRC-32 of those before them, in base 62 (GitHub, npm).
    #[serde(rename = "crc32-base62")]
    Crc32Base62,
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Check {
    pub fn holds(self, variable: &[u8]) -> bool {
        match self {
            Self::Crc32Base62 => {
                let Some((body, sum)) = variable.split_last_chunk::<6>() else { return false };
                *sum == crc32_base62(body)
            }
        }
    }
}

pub(super) fn crc32_base62(body: &[u8]) -> [u8; 6] {
    let mut crc = flate2::Crc::new();
    crc.update(body);
    let mut rest = crc.sum();
    let mut text = [b'0'; 6];
    for place in text.iter_mut().rev() {
        *place = BASE62.get((rest % 62) as usize).copied().unwrap_or(b'0');
        rest /= 62;
    }
    text
}

/// Shannon entropy of the bytes, in bits a byte.
pub(super) fn entropy(bytes: &[u8]) -> f32 {
    let mut counts = [0u16; 256];
    for &byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count = count.saturating_add(1);
        }
    }
    let len = bytes.len() as f32;
    counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| f32::from(count) / len)
        .map(|share| -share * share.log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_published_dead_token_holds() {
        // The body and sum of the example token that the provider's own article on the format showed.
        assert_eq!(&crc32_base62(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"), b"0mLq17");
        assert!(Check::Crc32Base62.holds(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17"));
        assert!(!Check::Crc32Base62.holds(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq18"));
        assert!(!Check::Crc32Base62.holds(b"short"));
    }

    #[test]
    fn entropy_tells_filler_from_random() {
        assert!(entropy(b"xxxxxxxxxxxxxxxx") < 0.1);
        assert!((entropy(b"abcdefgh") - 3.0).abs() < 0.01);
    }
}
