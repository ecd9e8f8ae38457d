//! The last step before sending: credentials go in, on a type that nothing after can read.

use super::Stop;
use super::judge::Prepared;
use crate::base::Scheme;
use crate::codec::Body;
use crate::policy::{Permit, Reason};
use crate::secrets;
use crate::upstream::UpstreamRequest;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderValue, IF_RANGE, RANGE};
use std::sync::Arc;

/// Whether this permit puts credentials into the request, so that its answer must be redacted.
pub(super) fn carries_credentials(permit: &Permit) -> bool {
    let edits = permit.rule().request();
    !permit.observed() && (!edits.inject.is_empty() || !edits.swap.is_empty())
}

/// The request to send, and the permit that it is sent by.
pub(super) fn into_request(
    prepared: Prepared,
    body: Body,
) -> Result<(Box<UpstreamRequest>, Box<Permit>), Stop> {
    let (permit, lane) = prepared.apart();
    let request = permit.request();
    let mut headers = request.shared_headers();
    if carries_credentials(&permit) {
        if request.scheme() != Scheme::Https {
            return Err(Stop::new(
                Reason::SecretPlaintext,
                "a rule with credentials matched a request in clear text",
            ));
        }
        let headers = Arc::make_mut(&mut headers);
        swap(&permit, headers)?;
        inject(&permit, headers)?;
        // The answer is searched for what was put in: it must come uncoded and whole.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.remove(RANGE);
        headers.remove(IF_RANGE);
    }
    left_over(&permit, &headers)?;
    let target = request.path_and_query().clone();
    let (method, websocket) = (request.method().clone(), request.websocket());
    Ok((Box::new(UpstreamRequest::new(lane, method, target, headers, body, websocket)), permit))
}

fn swap(permit: &Permit, headers: &mut HeaderMap) -> Result<(), Stop> {
    for name in &permit.rule().request().swap {
        let secret = permit.snapshot().secrets().get(name).ok_or_else(|| unavailable(name))?;
        let Some(placeholder) = &secret.placeholder else { continue };
        for value in headers.values_mut() {
            if let Some(swapped) = secrets::swap_header(value, placeholder.as_bytes(), &secret.value) {
                *value = swapped;
            }
        }
    }
    Ok(())
}

fn inject(permit: &Permit, headers: &mut HeaderMap) -> Result<(), Stop> {
    for inject in &permit.rule().request().inject {
        let value = inject
            .value
            .render(permit.snapshot().secrets())
            .map_err(|missing| Stop::new(Reason::SecretUnavailable, missing.to_string()))?;
        headers.insert(inject.header.clone(), value);
    }
    Ok(())
}

/// After the swaps no placeholder may be left: one that stood behind another in the same value, or under a rule that
/// only observes, would be sent as it is.
fn left_over(permit: &Permit, headers: &HeaderMap) -> Result<(), Stop> {
    let placeholders = permit.snapshot().placeholders();
    if placeholders.is_empty() {
        return Ok(());
    }
    match headers.values().find_map(|value| placeholders.in_header(value)) {
        None => Ok(()),
        Some(name) => {
            let detail = format!("the placeholder of {name} was left where this rule does not swap it");
            Err(Stop::new(Reason::SecretWrongHost, detail))
        }
    }
}

fn unavailable(name: &str) -> Stop {
    Stop::new(Reason::SecretUnavailable, format!("the secret {name} is not available"))
}
