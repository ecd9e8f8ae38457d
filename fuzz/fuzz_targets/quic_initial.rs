//! Property: a datagram's header means the same however much of it is looked at, and an answer is a Version Negotiation
//! packet that is smaller than its cause, echoes the IDs swapped, and offers only versions that nobody speaks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outgate::quic::{Long, Parsed, SHORTEST, answer, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let early = (0..bytes.len().min(600)).map(|end| parse(&bytes[..end])).find(|p| *p != Parsed::More);
    if let Some(early) = early {
        assert_eq!(early, whole);
    }
    // The fuzzer should not have to find 1200 bytes by itself.
    let mut datagram = bytes.to_vec();
    datagram.resize(datagram.len().max(SHORTEST), 0);
    assert_eq!(answer(&datagram[..SHORTEST - 1]), None);
    let Some(reply) = answer(&datagram) else { return };
    assert!(reply.len() < SHORTEST);
    let Parsed::Long(Long { version, destination, source }) = parse(&datagram) else { panic!("no header") };
    assert!(version != 0);
    assert!(reply[0] & 0x80 != 0 && reply[1..5] == [0; 4]);
    let ids = [&[source.len() as u8], source, &[destination.len() as u8], destination].concat();
    let offered = reply[5..].strip_prefix(&ids[..]).expect("the IDs, swapped");
    assert!(!offered.is_empty() && offered.len() % 4 == 0);
    for offer in offered.chunks_exact(4) {
        let offer = u32::from_be_bytes(offer.try_into().unwrap());
        assert!(offer & 0x0f0f_0f0f == 0x0a0a_0a0a && offer != version);
    }
    assert_eq!(answer(&reply), None, "two responders never talk to each other");
});
