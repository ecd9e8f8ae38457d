//! What a client may send: shapes that others have published as smuggling, in our own words, and requests put together
//! from the same parts at random. The same seed gives the same bytes.

use super::shapes::*;

/// Where a stream is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    V4,
    V6,
    /// Absolute form.
    Explicit,
    /// The same, for a port that is not the scheme's own.
    Port,
}

#[derive(Debug, Clone)]
pub struct Stream {
    pub door: Door,
    pub bytes: Vec<u8>,
    /// Sent byte by byte.
    pub dribbled: bool,
}

/// A small generator (xorshift64*): numbers of no quality but the same ones everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One of the first, and now and then one of the others.
    fn mostly<T: Copy>(&mut self, usual: &[T], others: &[T]) -> T {
        let of = if self.percent(97) { usual } else { others };
        self.one(of)
    }
}

/// Which name is asked for at which door.
fn host(door: Door, random: &mut Random) -> &'static str {
    match door {
        Door::Port => "plain.good.test:8443",
        Door::V6 => random.one(&["plain.good.test", "files.good.test"]),
        _ => random.one(&[
            "plain.good.test",
            "files.good.test",
            "a.wild.test",
            "my_bucket.wild.test",
            "plain.good.test:80",
        ]),
    }
}

fn glue(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn fill(part: &[u8], host: &str, target: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = part;
    while let Some(at) = rest.iter().position(|b| *b == b'{') {
        out.extend(&rest[..at]);
        rest = &rest[at..];
        let holes: [(&[u8], &[u8]); 3] = [
            (b"{host}", host.as_bytes()),
            (b"{HOST}", &host.to_ascii_uppercase().into_bytes()),
            (b"{target}", target),
        ];
        match holes.iter().find(|(hole, _)| rest.starts_with(hole)) {
            Some((hole, filling)) => {
                out.extend(*filling);
                rest = &rest[hole.len()..];
            }
            None => {
                out.push(b'{');
                rest = &rest[1..];
            }
        }
    }
    out.extend(rest);
    out
}

/// Each shape in its usual setting, at the transparent door: a body that some would take for a request of its own.
pub fn published() -> Vec<Stream> {
    let host = "plain.good.test";
    let hidden = b"0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: plain.good.test\r\n\r\n";
    let stream = |line: &[u8], fields: &[u8], body: &[u8]| {
        let line = fill(line, host, b"/published");
        Stream { door: Door::V4, bytes: glue(&[&line, fields, b"\r\n\r\n", body]), dribbled: false }
    };
    let mut all = Vec::new();
    for coding in CODINGS {
        all.push(stream(LINES[0], &glue(&[b"\r\n", *coding]), hidden));
        all.push(stream(LINES[0], &glue(&[b"\r\nContent-Length: 5\r\n", *coding]), hidden));
        all.push(stream(LINES[0], &glue(&[b"\r\n", *coding, b"\r\nContent-Length: 5"]), hidden));
    }
    for length in LENGTHS {
        all.push(stream(
            LINES[0],
            &glue(&[b"\r\n", *length]),
            b"helloGET /hidden HTTP/1.1\r\nHost: plain.good.test\r\n\r\n",
        ));
    }
    for chunks in CHUNKS {
        let behind = glue(&[chunks, &b"GET /hidden HTTP/1.1\r\nHost: plain.good.test\r\n\r\n"[..]]);
        all.push(stream(LINES[0], b"\r\nTransfer-Encoding: chunked", &behind));
    }
    for line in LINES {
        all.push(stream(line, b"\r\nContent-Length: 5", b"hello"));
        all.push(stream(line, b"", b""));
    }
    all
}

/// Some requests on one connection, each put together at random; most parts of most of them are good.
pub fn random(random: &mut Random) -> Stream {
    let door = random.one(&[Door::V4, Door::V4, Door::V6, Door::Port, Door::Explicit]);
    let mut bytes = Vec::new();
    for _ in 0..=random.below(4) {
        bytes.extend(request(random, door));
    }
    if random.percent(6) {
        let at = random.below(bytes.len());
        match random.below(3) {
            0 => bytes[at] = random.one(b"\r\n\0 \t:;,/.%\\\"?#&=5a\x0b\x7f\xff"),
            1 => bytes.insert(at, random.one(b"\r\n\0 \t:;,/.%\\\"?#&=5a\x0b\x7f\xff")),
            _ => drop(bytes.remove(at)),
        }
    }
    Stream { door, bytes, dribbled: random.percent(5) }
}

fn request(random: &mut Random, door: Door) -> Vec<u8> {
    let host = host(door, random);
    let mut target = target(random);
    if matches!(door, Door::Explicit | Door::Port) && !random.percent(5) {
        target = glue(&[b"http://", host.as_bytes(), &target]);
    }
    let mut out = if random.percent(90) {
        let method = random.mostly(METHODS, ODD_METHODS);
        glue(&[method, b" ", &target, b" HTTP/1.1\r\nHost: ", host.as_bytes()])
    } else {
        fill(random.one(LINES), host, &target)
    };
    for _ in 0..random.below(5) {
        out.extend(b"\r\n");
        out.extend(random.mostly(FIELDS, BAD_FIELDS));
    }
    let body = random.one(BODIES);
    match random.below(20) {
        0..7 => out.extend(b"\r\n\r\n"),
        7..12 => {
            out.extend(format!("\r\nContent-Length: {}\r\n\r\n", body.len()).bytes());
            out.extend(body);
        }
        12..17 => {
            out.extend(b"\r\nTransfer-Encoding: chunked\r\n\r\n");
            for part in body.chunks(1 + random.below(20)) {
                out.extend(format!("{:x}\r\n", part.len()).bytes());
                out.extend(part);
                out.extend(b"\r\n");
            }
            out.extend(b"0\r\n\r\n");
        }
        17 => {
            out.extend(glue(&[b"\r\n", random.one(LENGTHS), b"\r\n\r\n", body]));
        }
        18 => {
            out.extend(glue(&[b"\r\n", random.one(CODINGS), b"\r\n\r\n", random.one(CHUNKS)]));
        }
        _ => {
            let (length, coding) = (random.one(LENGTHS), random.one(CODINGS));
            let (one, other) = if random.percent(50) { (length, coding) } else { (coding, length) };
            out.extend(glue(&[b"\r\n", one, b"\r\n", other, b"\r\n\r\n", random.one(CHUNKS)]));
        }
    }
    out
}

fn target(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..=random.below(5) {
        out.push(b'/');
        out.extend(random.mostly(SEGMENTS, BAD_SEGMENTS));
    }
    if random.percent(40) {
        out.extend(random.mostly(QUERIES, BAD_QUERIES));
    }
    out
}
