//! What the hook `message` sees of one message of a WebSocket. It can change nothing.

use super::run::refuse;
use super::view::{Fallible, text};
use crate::base::Host;
use bytes::Bytes;
use rhai::{Dynamic, Engine, ImmutableString};
use std::sync::Arc;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// A complete message, with what its WebSocket was opened for.
#[derive(Debug, Clone)]
pub struct MessageView {
    pub client: Arc<str>,
    pub host: Host,
    pub port: u16,
    /// Of the handshake, as it was sent.
    pub path: Arc<str>,
    pub way: Way,
    pub is_text: bool,
    /// UTF-8 where it is a text.
    pub payload: Bytes,
}

pub(super) fn value(view: MessageView) -> Dynamic {
    Dynamic::from(Arc::new(view))
}

type Message = Arc<MessageView>;

pub(super) fn register(engine: &mut Engine) {
    let most = engine.max_string_size();
    engine
        .register_type_with_name::<Message>("Message")
        .register_get("client", move |ws: &mut Message| text("client", &ws.client, most))
        .register_get("host", |ws: &mut Message| ImmutableString::from(ws.host.to_string()))
        .register_get("port", |ws: &mut Message| i64::from(ws.port))
        .register_get("path", move |ws: &mut Message| text("path", &ws.path, most))
        .register_get("direction", |ws: &mut Message| match ws.way {
            Way::Up => ImmutableString::from("up"),
            Way::Down => ImmutableString::from("down"),
        })
        .register_get("kind", |ws: &mut Message| {
            ImmutableString::from(if ws.is_text { "text" } else { "binary" })
        })
        .register_get("length", |ws: &mut Message| i64::try_from(ws.payload.len()).unwrap_or(i64::MAX))
        .register_get("text", move |ws: &mut Message| text("the message", as_text(ws)?, most));
    // On the whole message, also where that is longer than a text of a script may be.
    engine
        .register_fn("contains", |ws: &mut Message, part: ImmutableString| {
            memchr::memmem::find(&ws.payload, part.as_bytes()).is_some()
        })
        .register_fn("starts_with", |ws: &mut Message, part: ImmutableString| {
            ws.payload.starts_with(part.as_bytes())
        })
        .register_fn("ends_with", |ws: &mut Message, part: ImmutableString| {
            ws.payload.ends_with(part.as_bytes())
        })
        .register_fn("byte", |ws: &mut Message, at: i64| -> Fallible<i64> {
            let byte = usize::try_from(at).ok().and_then(|at| ws.payload.get(at));
            byte.map(|byte| i64::from(*byte)).ok_or_else(|| refuse("the message has no such byte"))
        });
}

fn as_text(message: &MessageView) -> Fallible<&str> {
    let text = message.is_text.then(|| std::str::from_utf8(&message.payload).ok()).flatten();
    text.ok_or_else(|| refuse("a binary message has no text; ask for its bytes"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::script::tests::compile;
    use crate::script::{Decision, Failure};

    pub fn message(is_text: bool, payload: &[u8]) -> MessageView {
        MessageView {
            client: "agent".into(),
            host: Host::parse("live.example.com").unwrap(),
            port: 443,
            path: "/socket".into(),
            way: Way::Up,
            is_text,
            payload: Bytes::copy_from_slice(payload),
        }
    }

    fn ask(body: &str, is_text: bool, payload: &[u8]) -> Result<Decision, Failure> {
        compile(&format!("fn message(ws) {{ {body} }}")).unwrap().message(message(is_text, payload))
    }

    fn says(body: &str, is_text: bool, payload: &[u8]) -> bool {
        let body = format!("if {body} {{ pass() }} else {{ deny(\"no\") }}");
        ask(&body, is_text, payload).unwrap() == Decision::Pass
    }

    #[test]
    fn a_message_shows_where_it_goes_and_what_is_in_it() {
        assert!(says("ws.direction == \"up\" && ws.kind == \"text\" && ws.length == 5", true, b"hello"));
        assert!(says("ws.client == \"agent\" && ws.host == \"live.example.com\"", true, b""));
        assert!(says("ws.port == 443 && ws.path == \"/socket\"", true, b""));
        assert!(says("ws.text.starts_with(\"he\") && ws.text.len() == 5", true, b"hello"));
        assert!(says("ws.kind == \"binary\" && ws.byte(0) == 255 && ws.byte(1) == 0", false, &[255, 0]));
    }

    #[test]
    fn a_long_message_can_be_searched_but_is_never_cut_to_a_text() {
        let long = [&b"{"[..], &[b' '; 10_000], b"\"method\":\"drop\"}"].concat();
        assert!(says(
            "ws.contains(\"\\\"method\\\"\") && ws.starts_with(\"{\") && ws.ends_with(\"}\")",
            true,
            &long
        ));
        assert!(!says("ws.contains(\"other\")", true, &long));
        assert!(ask("ws.text; pass()", true, &long).unwrap_err().message.contains("longer than"));
        assert!(
            ask("ws.text; pass()", false, b"x").is_err() && ask("ws.byte(1); pass()", false, b"x").is_err()
        );
    }

    #[test]
    fn a_message_cannot_be_changed_or_tunnelled() {
        assert!(ask("ws.text = \"other\"; pass()", true, b"x").is_err());
        assert!(ask("tunnel()", true, b"x").is_err());
        assert!(ask("1", true, b"x").is_err());
    }
}
