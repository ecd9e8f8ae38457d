//! The literal beginnings of all patterns, at most [`DEPTH`] bytes deep. Built by `detectors`, walked by `engine`.

use super::pattern::Pattern;
use super::view::{View, nibble, sextet};

/// Deeper beginnings are compared by the pattern itself. Enough to be rare, short enough to keep what is tried at the end of a chunk small.
pub(super) const DEPTH: usize = 8;

pub(super) struct Trie {
    root: [u16; 256],
    nodes: Vec<Node>,
    /// For each byte, by its place in [`View::ALL`]: can a beginning in that view start with it?
    views: [u8; 256],
}

#[derive(Default)]
struct Node {
    children: Vec<(u8, u16)>,
    patterns: Vec<u16>,
}

/// A place in the trie. The root is no node: `NONE` marks an absent child.
#[derive(Clone, Copy)]
pub(super) struct Place(u16);

const NONE: u16 = u16::MAX;
const ROOT: u16 = u16::MAX - 1;

impl Trie {
    pub const ROOT: Place = Place(ROOT);

    pub fn build(patterns: &[Pattern]) -> Self {
        let mut trie = Self { root: [NONE; 256], nodes: Vec::new(), views: [0; 256] };
        for (i, pattern) in (0..).zip(patterns) {
            let mut place = Self::ROOT;
            for &byte in pattern.literal.expose().iter().take(DEPTH) {
                place = trie.child(place, byte).unwrap_or_else(|| trie.grow(place, byte));
            }
            if let Some(node) = trie.nodes.get_mut(usize::from(place.0)) {
                node.patterns.push(i);
            }
        }
        for byte in 0..=u8::MAX {
            let views = trie.possible(byte);
            if let Some(slot) = trie.views.get_mut(usize::from(byte)) {
                *slot = views;
            }
        }
        trie
    }

    /// The views, by their place in [`View::ALL`], in which something can begin with this byte.
    pub fn views(&self, byte: u8) -> u8 {
        self.views.get(usize::from(byte)).copied().unwrap_or(u8::MAX)
    }

    fn possible(&self, byte: u8) -> u8 {
        let begins = |wanted: &dyn Fn(u8) -> bool| {
            (0..=u8::MAX).any(|first| wanted(first) && self.child(Self::ROOT, first).is_some())
        };
        let escape = matches!(byte, b'%' | b'\\');
        (0..).zip(View::ALL).fold(0, |views, (i, view)| {
            let possible = match view {
                View::Plain | View::Utf16Le => begins(&|first| first == byte),
                View::Escaped => escape || begins(&|first| first == byte),
                View::Utf16Be => byte == 0,
                View::Hex => escape || nibble(byte).is_some_and(|digit| begins(&|first| first >> 4 == digit)),
                View::Base64(shift) => {
                    // What the character holds of the first byte: its low bits are the byte's high ones.
                    let bits = 6 - 2 * u32::from(shift);
                    let held = |first: u8, value: u8| {
                        u32::from(first) >> (8 - bits) == u32::from(value) & ((1 << bits) - 1)
                    };
                    escape || sextet(byte).is_some_and(|value| begins(&|first| held(first, value)))
                }
            };
            views | u8::from(possible) << i
        })
    }

    pub fn child(&self, place: Place, byte: u8) -> Option<Place> {
        let next = if place.0 == ROOT {
            self.root.get(usize::from(byte)).copied()?
        } else {
            let node = self.nodes.get(usize::from(place.0))?;
            node.children.iter().find(|(edge, _)| *edge == byte)?.1
        };
        (next != NONE).then_some(Place(next))
    }

    /// The patterns whose walked beginning ends here.
    pub fn patterns(&self, place: Place) -> &[u16] {
        self.nodes.get(usize::from(place.0)).map_or(&[], |node| &node.patterns)
    }

    fn grow(&mut self, place: Place, byte: u8) -> Place {
        let next = u16::try_from(self.nodes.len()).unwrap_or(NONE);
        self.nodes.push(Node::default());
        if place.0 == ROOT {
            if let Some(slot) = self.root.get_mut(usize::from(byte)) {
                *slot = next;
            }
        } else if let Some(node) = self.nodes.get_mut(usize::from(place.0)) {
            node.children.push((byte, next));
        }
        Place(next)
    }
}
