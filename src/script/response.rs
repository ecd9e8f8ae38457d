//! What the `response` hook sees and may change: the head, after credentials were masked in it.

use super::view::{Handle, Head, register_head};
use http::{HeaderMap, StatusCode};
use rhai::Engine;

/// The head of a response.
#[derive(Debug, Clone, Default)]
pub struct ResponseView {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

pub(super) fn register(engine: &mut Engine) {
    type Response = Handle<ResponseView>;
    engine
        .register_type_with_name::<Response>("Response")
        .register_get("status", |resp: &mut Response| i64::from(resp.state().view.status.as_u16()));
    register_head::<ResponseView>(engine);
}

impl Head for ResponseView {
    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }
}
