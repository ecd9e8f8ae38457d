//! Who asks, and from where: what every decision on a connection says alike. Written once and copied into each of its
//! records, of which it is nearly half.

use super::body::Body;
use super::text::Text;
use crate::base::Door;
use std::net::SocketAddr;

/// Fields of a decision, as they stand in its line.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    fields: Vec<u8>,
    altered: Vec<&'static str>,
}

impl Asker {
    pub(super) const UNKNOWN: &'static Self = &Self { fields: Vec::new(), altered: Vec::new() };

    pub fn new(client: Option<&str>, source: SocketAddr, door: Door) -> Self {
        Self::default().with(|body| {
            body.text("client", client.map(Text::from));
            body.address("source", Some(source));
            body.word("door", Some(door.as_str()));
        })
    }

    /// Where the client's packets went.
    #[must_use]
    pub fn to(self, orig_dst: Option<SocketAddr>) -> Self {
        self.with(|body| body.address("orig_dst", orig_dst))
    }

    /// The name in its ClientHello.
    #[must_use]
    pub fn greeting(self, sni: Option<Text<'_>>) -> Self {
        self.with(|body| body.text("sni", sni))
    }

    fn with(mut self, write: impl FnOnce(&mut Body<'_>)) -> Self {
        let mut body = Body::go_on(&mut self.fields);
        write(&mut body);
        self.altered.extend(body.into_altered());
        self
    }

    pub(super) fn write(&self, body: &mut Body<'_>) {
        body.raw(&self.fields);
        body.altered(&self.altered);
    }
}
