//! Which header fields are no part of a canonical request: hop-by-hop and connection-named ones (RFC 9110 section
//! 7.6.1), framing (the codec's), fields that make a server behind see another host, path or method, and names that
//! CGI-style servers fold into one of those.
//!
//! Override fields always go, not only under a path, host or method rule: every rule is a host rule, and what a rule
//! needs may not depend on another rule.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE};
use http::{Method, header};

/// What an Upgrade field asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    None,
    WebSocket,
    /// Asks for a WebSocket, but not as RFC 6455 section 4.1 says.
    BrokenWebSocket,
    /// Another protocol inside this connection; `h2c` is only an offer and is taken off instead.
    Foreign,
}

/// Takes off what does not go further and says what upgrade was asked for.
pub(super) fn clean(method: &Method, headers: &mut HeaderMap) -> Upgrade {
    let unwanted: Vec<HeaderName> =
        headers.keys().filter(|name| is_unwanted(name.as_str())).cloned().collect();
    // Every field that asks for an upgrade or names others is itself unwanted.
    if unwanted.is_empty() {
        return Upgrade::None;
    }
    let upgrade = upgrade(method, headers);
    let trailers = headers.get_all(TE).iter().any(|te| has_token(te, "trailers"));
    for name in connection_named(headers) {
        headers.remove(name);
    }
    for name in unwanted {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    upgrade
}

fn upgrade(method: &Method, headers: &HeaderMap) -> Upgrade {
    if headers.contains_key("capsule-protocol") {
        return Upgrade::Foreign;
    }
    if !headers.contains_key(UPGRADE) {
        return Upgrade::None;
    }
    let offers = || headers.get_all(UPGRADE).iter();
    if offers().any(|value| has_token(value, "websocket")) {
        let asked = headers.get_all(CONNECTION).iter().any(|value| has_token(value, "upgrade"));
        let once = |name: HeaderName| headers.get_all(name).iter().count() == 1;
        let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|v| v == "13");
        let key = headers.get(header::SEC_WEBSOCKET_KEY).is_some_and(is_websocket_key);
        let single = once(UPGRADE) && once(header::SEC_WEBSOCKET_VERSION) && once(header::SEC_WEBSOCKET_KEY);
        let whole = *method == Method::GET && asked && version && key && single;
        return if whole { Upgrade::WebSocket } else { Upgrade::BrokenWebSocket };
    }
    let harmless = offers().all(|value| tokens(value).all(|token| token.eq_ignore_ascii_case("h2c")));
    if harmless { Upgrade::None } else { Upgrade::Foreign }
}

/// Sixteen bytes in base64.
fn is_websocket_key(value: &HeaderValue) -> bool {
    STANDARD.decode(value).is_ok_and(|nonce| nonce.len() == 16)
}

fn connection_named(headers: &HeaderMap) -> Vec<HeaderName> {
    let named = headers.get_all(CONNECTION).iter().flat_map(tokens);
    named.filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok()).collect()
}

fn has_token(value: &HeaderValue, wanted: &str) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(wanted))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',').map(str::trim).filter(|token| !token.is_empty())
}

fn is_unwanted(name: &str) -> bool {
    is_managed(name)
        || (may_fold(name) && folded(name).is_some_and(|name| is_managed(&name) || is_credential(&name)))
}

/// Fields that the gate makes itself or never sends on. No rule may name them in `set`, `inject` or `headers`.
pub(super) fn is_managed(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "content-length"
            | "upgrade"
            | "expect"
            | "host"
            | "http2-settings"
            | "alt-used"
            | "capsule-protocol"
            // Messages are inspected, so that no extension may change what they say (RFC 6455 section 9, RFC 7692).
            | "sec-websocket-extensions"
    ) || name.starts_with("proxy-")
        || is_override(name)
}

fn is_override(name: &str) -> bool {
    matches!(
        name,
        "x-host"
            | "x-original-host"
            | "x-original-url"
            | "x-original-uri"
            | "x-rewrite-url"
            | "x-http-host-override"
            | "forwarded"
            | "x-http-method"
            | "x-method"
            | "x-original-method"
            | "x-rest-method"
            | "x-tunneled-method"
    ) || name.starts_with("x-forwarded-")
        // Frameworks differ in what stands before: nothing, `http-`, `x-`, `x-http-`.
        || name.ends_with("method-override")
        || name.ends_with("verb-override")
}

fn is_credential(name: &str) -> bool {
    matches!(name, "authorization" | "cookie" | "cookie2" | "x-api-key")
}

/// The name that a CGI-style server sees: `X_Api_Key` and `X-Api-Key-` are both `x-api-key`.
fn folded(name: &str) -> Option<String> {
    let folded = name.replace('_', "-");
    let folded = folded.trim_matches('-');
    (!folded.is_empty()).then(|| folded.to_owned())
}

/// Whether folding changes anything; few names have it.
fn may_fold(name: &str) -> bool {
    name.contains('_') || name.starts_with('-') || name.ends_with('-')
}

/// Whether a CGI-style server may take both for the same field.
pub(super) fn alike(one: &HeaderName, other: &HeaderName) -> bool {
    let folds = may_fold(one.as_str()) || may_fold(other.as_str());
    one == other || (folds && folded(one.as_str()) == folded(other.as_str()))
}

/// Removes a field and every other name that folds into it.
pub(super) fn remove_with_aliases(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(name);
    let aliases: Vec<HeaderName> = headers.keys().filter(|other| alike(other, name)).cloned().collect();
    for alias in aliases {
        headers.remove(alias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn left(fields: &[(&str, &str)]) -> Vec<String> {
        let mut map = map(fields);
        clean(&Method::GET, &mut map);
        map.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    #[test]
    fn hc_52_pm_21_override_fields_never_go_further() {
        let sent = left(&[
            ("X-Forwarded-Host", "evil.test"),
            ("X-Host", "evil.test"),
            ("X-Original-URL", "/admin"),
            ("X-Rewrite-URL", "/admin"),
            ("Forwarded", "host=evil.test"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-HTTP-Method", "DELETE"),
            ("X-Method-Override", "DELETE"),
            ("X-Method", "DELETE"),
            ("X-Original-Method", "DELETE"),
            ("X-Rest-Method", "DELETE"),
            ("X-Tunneled-Method", "DELETE"),
            ("Method-Override", "DELETE"),
            ("HTTP-Method-Override", "DELETE"),
            ("X-HTTP-Verb-Override", "DELETE"),
            ("X_Http_Method_Override", "DELETE"),
            ("X-HTTP-Method-Override-", "DELETE"),
            ("X_Forwarded_Host", "evil.test"),
            ("Accept", "*/*"),
        ]);
        assert_eq!(sent, ["accept: */*"]);
    }

    #[test]
    fn sm_42_hop_by_hop_and_named_fields_are_removed() {
        let sent = left(&[
            ("Connection", "close, x-mine"),
            ("X-Mine", "1"),
            ("Keep-Alive", "5"),
            ("Proxy-Authorization", "Basic x"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "gzip"),
            ("X-Kept", "1"),
        ]);
        assert_eq!(sent, ["x-kept: 1"]);
        assert_eq!(left(&[("TE", "trailers"), ("Connection", "TE")]), ["te: trailers"]);
    }

    #[test]
    fn sm_25_aliases_of_framing_and_credentials_are_removed() {
        let fields = [
            ("Content_Length", "5"),
            ("Transfer_Encoding", "chunked"),
            ("Authorization_", "x"),
            ("X-Api-Key-", "x"),
            ("-Cookie", "x"),
            ("my_own", "1"),
        ];
        assert_eq!(left(&fields), ["my_own: 1"]);
        let mut headers = map(&[
            ("x_vendor_key", "1"),
            ("x-vendor-key", "2"),
            ("x-vendor-key-", "4"),
            ("-x-vendor-key", "5"),
            ("x-other", "3"),
        ]);
        remove_with_aliases(&mut headers, &HeaderName::from_static("x-vendor-key"));
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn fr_06_13_23_upgrades_are_told_apart() {
        let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let version = ("Sec-WebSocket-Version", "13");
        let asked = ("Connection", "keep-alive, Upgrade");
        let judge = |fields: &[(&str, &str)]| clean(&Method::GET, &mut map(fields));
        assert_eq!(judge(&[asked, ("Upgrade", "WebSocket"), key, version]), Upgrade::WebSocket);
        assert_eq!(judge(&[asked, ("Upgrade", "websocket"), version]), Upgrade::BrokenWebSocket);
        let short = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=!");
        assert_eq!(judge(&[asked, ("Upgrade", "websocket"), short, version]), Upgrade::BrokenWebSocket);
        assert_eq!(judge(&[asked, ("Upgrade", "websocket"), key, key, version]), Upgrade::BrokenWebSocket);
        assert_eq!(judge(&[asked, ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")]), Upgrade::None);
        assert_eq!(judge(&[asked, ("Upgrade", "connect-udp")]), Upgrade::Foreign);
        assert_eq!(judge(&[asked, ("Upgrade", "TLS/1.0")]), Upgrade::Foreign);
        assert_eq!(judge(&[("Capsule-Protocol", "?1")]), Upgrade::Foreign);
    }
}
