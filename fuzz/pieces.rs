//! How the targets that claim something of every way to cut a message cut it. Beside the targets: each file there is one.

/// Cuts a message into pieces of 1 to `most` bytes, by a small generator.
pub fn cut(message: &[u8], most: usize, mut seed: u32) -> Vec<&[u8]> {
    let mut rest = message;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = (1 + (seed >> 16) as usize % most).min(rest.len());
        let (piece, tail) = rest.split_at(length);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}
