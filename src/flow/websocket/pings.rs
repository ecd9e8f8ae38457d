//! Pings of one side that wait for their answer from the other.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Pings that wait for their answer; of more the oldest get none, which RFC 6455 section 5.5.3 allows.
const PINGS: usize = 16;

/// Payloads of the pings that went one way and were not yet answered.
#[derive(Default)]
pub(super) struct Pings(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    next: u32,
    payloads: VecDeque<(u32, Bytes)>,
}

impl Pings {
    /// The payload that goes on in place of this one.
    pub(super) fn ask(&self, payload: &[u8]) -> [u8; 4] {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        if waiting.payloads.len() >= PINGS {
            waiting.payloads.pop_front();
        }
        // A copy: a slice would keep all that was read with it.
        waiting.payloads.push_back((number, Bytes::copy_from_slice(payload)));
        number.to_be_bytes()
    }

    /// The payload that the answer to this number gets back; pings before it need no answer any more.
    pub(super) fn answered(&self, number: &[u8]) -> Option<Bytes> {
        let number = u32::from_be_bytes(number.try_into().ok()?);
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = waiting.payloads.iter().position(|(asked, _)| *asked == number)?;
        waiting.payloads.drain(..=at).next_back().map(|(_, payload)| payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gets_the_payload_of_its_ping_back_once() {
        let pings = Pings::default();
        let (first, second) = (pings.ask(b"first"), pings.ask(b"second"));
        assert_eq!(pings.answered(&second).as_deref(), Some(&b"second"[..]));
        assert_eq!(pings.answered(&second), None);
        assert_eq!(pings.answered(&first), None, "a later answer stands for it");
        assert_eq!(pings.answered(b"no number"), None);
    }

    #[test]
    fn of_many_pings_the_oldest_are_forgotten() {
        let pings = Pings::default();
        let asked: Vec<_> = (0..100_u8).map(|n| pings.ask(&[n])).collect();
        assert_eq!(pings.answered(&asked[50]), None);
        for (n, number) in asked.iter().enumerate().skip(100 - PINGS) {
            assert_eq!(pings.answered(number).as_deref(), Some(&[n as u8][..]));
        }
    }
}
