//! The version-independent part of QUIC (RFC 8999), and the Version Negotiation packet (RFC 9000 section 17.2.1).

/// A client pads the datagram that opens a connection to at least this (RFC 9000 section 14.1). What is shorter gets no
/// answer, so that an answer is always smaller than its cause.
pub const SHORTEST: usize = 1200;

/// Versions of the reserved form `0x?a?a?a?a` (RFC 9000 section 15), which nobody speaks.
const OFFERED: [u32; 2] = [0x1a2a_3a4a, 0x5a6a_7a8a];
/// Versions 1 and 2 (RFC 9369), whose connection IDs have 20 bytes at most.
const SHORT_IDS: [u32; 2] = [1, 0x6b33_43cf];
const LONGEST_SHORT_ID: usize = 20;

/// What the first bytes of a datagram are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    Long(Long<'a>),
    /// Nothing that opens a connection, whatever follows.
    No,
    /// The datagram ends inside the header.
    More,
}

/// A long header that may open a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Long<'a> {
    pub version: u32,
    pub destination: &'a [u8],
    pub source: &'a [u8],
}

/// Reads a long header. A short header, and a Version Negotiation packet (version 0), are a no.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((first, rest)) = bytes.split_first() else { return Parsed::More };
    if first & 0x80 == 0 {
        return Parsed::No;
    }
    let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Parsed::More };
    let version = u32::from_be_bytes(*version);
    if version == 0 {
        return Parsed::No;
    }
    let (destination, rest) = match connection_id(version, rest) {
        Id::Whole(id, rest) => (id, rest),
        Id::TooLong => return Parsed::No,
        Id::More => return Parsed::More,
    };
    match connection_id(version, rest) {
        Id::Whole(source, _) => Parsed::Long(Long { version, destination, source }),
        Id::TooLong => Parsed::No,
        Id::More => Parsed::More,
    }
}

enum Id<'a> {
    Whole(&'a [u8], &'a [u8]),
    TooLong,
    More,
}

fn connection_id(version: u32, bytes: &[u8]) -> Id<'_> {
    let Some((length, rest)) = bytes.split_first() else { return Id::More };
    let length = usize::from(*length);
    if SHORT_IDS.contains(&version) && length > LONGEST_SHORT_ID {
        return Id::TooLong;
    }
    match rest.split_at_checked(length) {
        Some((id, rest)) => Id::Whole(id, rest),
        None => Id::More,
    }
}

/// The Version Negotiation packet for a datagram that opens a connection; nothing for any other.
pub fn answer(datagram: &[u8]) -> Option<Vec<u8>> {
    if datagram.len() < SHORTEST {
        return None;
    }
    let Parsed::Long(Long { version, destination, source }) = parse(datagram) else { return None };
    let mut reply = Vec::with_capacity(32 + destination.len() + source.len());
    // The form bit and, for demultiplexers, the bit that is fixed in version 1; the other bits mean nothing.
    reply.push(0xc0 | (destination.first().unwrap_or(&0) & 0x3f));
    reply.extend_from_slice(&[0; 4]);
    for id in [source, destination] {
        reply.push(u8::try_from(id.len()).ok()?);
        reply.extend_from_slice(id);
    }
    // A packet that lists the client's own choice is one that it throws away.
    for offered in OFFERED.into_iter().filter(|offered| *offered != version) {
        reply.extend_from_slice(&offered.to_be_bytes());
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(version: u32, destination: &[u8], source: &[u8], length: usize) -> Vec<u8> {
        let mut bytes = vec![0xc3];
        bytes.extend(version.to_be_bytes());
        for id in [destination, source] {
            bytes.push(id.len() as u8);
            bytes.extend(id);
        }
        bytes.resize(length.max(bytes.len()), 0);
        bytes
    }

    #[test]
    fn the_answer_echoes_the_ids_swapped_and_offers_what_nobody_speaks() {
        let reply = answer(&initial(1, b"the-dest", b"src", 1200)).unwrap();
        assert_eq!(reply[0] & 0xc0, 0xc0);
        assert_eq!(reply[1..5], [0; 4]);
        assert_eq!(reply[5..9], *b"\x03src");
        assert_eq!(reply[9..18], *b"\x08the-dest");
        let versions: Vec<u32> =
            reply[18..].chunks_exact(4).map(|v| u32::from_be_bytes(v.try_into().unwrap())).collect();
        assert_eq!(versions.len(), 2);
        assert!(versions.iter().all(|version| version & 0x0f0f_0f0f == 0x0a0a_0a0a), "{versions:x?}");
        assert!(reply.len() < 1200 && (reply.len() - 18).is_multiple_of(4));
    }

    #[test]
    fn by_01_all_else_is_met_with_silence() {
        let good = initial(1, b"dest", b"src", 1200);
        assert!(answer(&good).is_some());
        for (what, bytes) in [
            ("one byte short of the least", good[..1199].to_vec()),
            ("a short header", [vec![0x43], good[1..].to_vec()].concat()),
            ("a Version Negotiation packet", initial(0, b"dest", b"src", 1200)),
            ("an id longer than version 1 has", initial(1, &[7; 21], b"", 1200)),
            ("the other id", initial(1, b"", &[7; 21], 1200)),
            ("the same of version 2", initial(0x6b33_43cf, &[7; 21], b"", 1200)),
            ("nothing", Vec::new()),
            ("zeros", vec![0; 1200]),
            ("text", b"GET / HTTP/1.1\r\n".repeat(100)),
        ] {
            assert_eq!(answer(&bytes), None, "{what}");
        }
        let mut cut = initial(0x2a2a_2a2a, &[9; 200], &[9; 255], 1200);
        cut[6 + 200] = 255;
        cut.truncate(300);
        assert_eq!(answer(&cut), None, "an id that goes beyond the datagram");
    }

    #[test]
    fn unknown_versions_may_have_ids_of_255_bytes_and_are_never_offered_what_they_asked_for() {
        let reply = answer(&initial(OFFERED[0], &[1; 255], &[2; 255], 1200)).unwrap();
        assert_eq!(reply.len(), 5 + 256 + 256 + 4);
        assert!(reply.len() < SHORTEST && reply.ends_with(&OFFERED[1].to_be_bytes()));
        assert!(answer(&initial(0xff00_001d, b"", b"", 1200)).is_some());
    }

    #[test]
    fn every_prefix_says_the_same_as_the_whole_or_asks_for_more() {
        for whole in
            [initial(1, b"dest", b"src", 60), initial(0, b"d", b"s", 60), initial(1, &[7; 30], b"", 60)]
        {
            let said = parse(&whole);
            let first = (0..whole.len()).map(|n| parse(&whole[..n])).find(|p| *p != Parsed::More);
            assert_eq!(first.unwrap(), said);
        }
    }
}
