//! The literal beginnings of all patterns, at most [`DEPTH`] bytes deep. Built by `detectors`, walked by `engine`.

use super::pattern::Pattern;

/// Deeper beginnings are compared by the pattern itself. Enough to be rare, short enough to keep what is tried at the end of a chunk small.
pub(super) const DEPTH: usize = 8;

pub(super) struct Trie {
    root: [u16; 256],
    nodes: Vec<Node>,
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
        let mut trie = Self { root: [NONE; 256], nodes: Vec::new() };
        for (i, pattern) in (0..).zip(patterns) {
            let mut place = Self::ROOT;
            for &byte in pattern.literal.expose().iter().take(DEPTH) {
                place = trie.child(place, byte).unwrap_or_else(|| trie.grow(place, byte));
            }
            if let Some(node) = trie.nodes.get_mut(usize::from(place.0)) {
                node.patterns.push(i);
            }
        }
        trie
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
