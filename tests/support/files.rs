//! Files as an everyday web server gives them: validators and conditions (RFC 9110 section 13), ranges (section 14), and
//! whatever header fields a test wants to find unchanged.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::pages::{Answer, sha256, typed};

/// When every file was last changed.
pub const MODIFIED: &str = "Sat, 01 Jan 2022 00:00:00 GMT";

#[derive(Debug, Clone)]
pub struct File {
    pub status: StatusCode,
    pub headers: Vec<(String, String)>,
    pub bytes: Bytes,
    /// Quoted, as it stands in the field.
    pub tag: String,
}

impl File {
    pub fn new(headers: &[(&str, &str)], bytes: Bytes) -> Self {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let tag = format!("\"{}\"", &sha256(&bytes)[..16]);
        Self { status: StatusCode::OK, headers, bytes, tag }
    }

    /// The answer to a GET or HEAD with these header fields.
    pub fn answer(&self, asked: &HeaderMap) -> Answer {
        if self.status != StatusCode::OK {
            return with_status(typed("text/plain", self.bytes.clone()), self.status);
        }
        let mut answer = if self.is_unchanged(asked) {
            with_status(typed("", Bytes::new()), StatusCode::NOT_MODIFIED)
        } else {
            self.part(asked)
        };
        let fields = answer.headers_mut();
        fields.remove(header::CONTENT_TYPE);
        for (name, value) in &self.headers {
            fields.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        fields.insert(header::ETAG, self.tag.parse().unwrap());
        fields.insert(header::LAST_MODIFIED, HeaderValue::from_static(MODIFIED));
        fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        answer
    }

    fn is_unchanged(&self, asked: &HeaderMap) -> bool {
        match asked.get(header::IF_NONE_MATCH) {
            Some(tag) => tag == self.tag.as_str(),
            None => asked.get(header::IF_MODIFIED_SINCE).is_some_and(|date| date == MODIFIED),
        }
    }

    /// The one range that is asked for, or all of it.
    fn part(&self, asked: &HeaderMap) -> Answer {
        let whole = || typed("", self.bytes.clone());
        let current = |condition: &HeaderValue| condition == self.tag.as_str() || condition == MODIFIED;
        if !asked.get(header::IF_RANGE).is_none_or(current) {
            return whole();
        }
        let range = asked.get(header::RANGE).and_then(|range| range.to_str().ok());
        let Some((from, to)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
            return whole();
        };
        let length = self.bytes.len();
        let from: usize = from.parse().unwrap();
        let end = to.parse::<usize>().map_or(length, |last| length.min(last + 1));
        if from >= end {
            let mut answer = with_status(typed("", Bytes::new()), StatusCode::RANGE_NOT_SATISFIABLE);
            let all = format!("bytes */{length}");
            answer.headers_mut().insert(header::CONTENT_RANGE, all.parse().unwrap());
            return answer;
        }
        let mut answer = with_status(typed("", self.bytes.slice(from..end)), StatusCode::PARTIAL_CONTENT);
        let these = format!("bytes {from}-{}/{length}", end - 1);
        answer.headers_mut().insert(header::CONTENT_RANGE, these.parse().unwrap());
        answer
    }
}

fn with_status(mut answer: Answer, status: StatusCode) -> Answer {
    *answer.status_mut() = status;
    answer
}
