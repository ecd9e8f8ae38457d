//! Requests as text and responses as a client of HTTP/1 understands them (RFC 9112), on a `Wire`.

use super::wire::Wire;

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The body ended as its framing said it would.
    pub complete: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A GET in its shortest honest form.
pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

pub fn post(host: &str, path: &str, extra: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{extra}Content-Length: {}\r\n\r\n{body}", body.len())
}

impl Wire {
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Option<Response> {
        self.send(request);
        self.response()
    }

    /// The next final response; interim ones are read over. Nothing when the connection ends before a head.
    pub fn response(&mut self) -> Option<Response> {
        loop {
            let head = self.head()?;
            if head.status >= 200 || head.status == 101 {
                return Some(self.body_of(head));
            }
        }
    }

    /// One head, interim or final, and no body.
    pub fn head(&mut self) -> Option<Response> {
        let head = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(field).collect();
        Some(Response { status, headers, body: Vec::new(), trailers: Vec::new(), complete: true })
    }

    pub fn body_of(&mut self, mut head: Response) -> Response {
        let bodiless = matches!(head.status, 101 | 204 | 304);
        if bodiless {
            return head;
        }
        if head.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            head.complete = self.chunks(&mut head).is_some();
        } else if let Some(length) = head.header("content-length").and_then(|length| length.parse().ok()) {
            match self.exactly(length) {
                Some(body) => head.body = body,
                None => (head.body, head.complete) = (self.rest().0, false),
            }
        } else {
            head.body = self.rest().0;
        }
        head
    }

    /// One chunk's data; empty at the last one, whose trailers are left unread.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until(b"\r\n")?;
        let size = String::from_utf8_lossy(&size).into_owned();
        let size = usize::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
        if size == 0 {
            return Some(Vec::new());
        }
        let data = self.exactly(size)?;
        self.exactly(2)?;
        Some(data)
    }

    fn chunks(&mut self, head: &mut Response) -> Option<()> {
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                break;
            }
            head.body.extend(chunk);
        }
        loop {
            let line = self.until(b"\r\n")?;
            if line == b"\r\n" {
                return Some(());
            }
            head.trailers.extend(field(String::from_utf8_lossy(&line).trim_end()));
        }
    }
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}
