//! The command line's side of the admin socket: one blocking request.

use crate::steer::pass;
use std::io::{self, ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As long as the server gives a connection.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// A list of flows is bounded by their limit; this is far above.
const ANSWER_LIMIT: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no daemon listens on {}; is `outgate run` up, with the same configuration?", .0.display())]
    NoDaemon(PathBuf),
    #[error("this user may not use {}; run as the daemon's user or as root", .0.display())]
    Refused(PathBuf),
    #[error("the daemon behind {} did not answer in time", .0.display())]
    Timeout(PathBuf),
    #[error("the answer from {} makes no sense", .0.display())]
    Answer(PathBuf),
    #[error("cannot talk to the daemon over {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Asks the daemon; gives the status and the body.
pub fn call(socket: &Path, method: &str, target: &str) -> Result<(u16, String), Error> {
    send(socket, method, target, "", &[])
}

/// Asks for something with a body and open files, which the daemon gets copies of.
pub fn send(
    socket: &Path,
    method: &str,
    target: &str,
    body: &str,
    files: &[BorrowedFd<'_>],
) -> Result<(u16, String), Error> {
    let failed = |error| explain(socket, error);
    let stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_TIME)).map_err(failed)?;
    stream.set_write_timeout(Some(ANSWER_TIME)).map_err(failed)?;
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let request =
        format!("{method} {target} HTTP/1.1\r\nhost: outgate\r\nconnection: close\r\n{length}\r\n{body}");
    pass::send_bytes(&stream, request.as_bytes(), files).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer).map_err(failed)?;
    if answer.is_empty() {
        // What the daemon does with a user that it does not know.
        return Err(Error::Refused(socket.to_owned()));
    }
    parse(&answer).ok_or_else(|| Error::Answer(socket.to_owned()))
}

fn explain(socket: &Path, source: io::Error) -> Error {
    let path = socket.to_owned();
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Error::NoDaemon(path),
        ErrorKind::PermissionDenied | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            Error::Refused(path)
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout(path),
        _ => Error::Io { path, source },
    }
}

/// The daemon sends a length with each answer, so that one cut short is noticed.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(answer).ok()? else { return None };
    let status = head.code?;
    let stated = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"))?;
    let stated: usize = std::str::from_utf8(stated.value).ok()?.parse().ok()?;
    let body = answer.get(length..)?;
    (body.len() == stated).then(|| String::from_utf8_lossy(body).into_owned()).map(|body| (status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_daemon_is_named_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let error = call(&path, "GET", "/state").unwrap_err();
        assert!(error.to_string().contains("is `outgate run` up"), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(call(&path, "GET", "/state"), Err(Error::NoDaemon(_))));
    }

    #[test]
    fn a_cut_answer_is_no_answer() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
        assert_eq!(parse(answer), Some((200, "body".into())));
        for end in 0..answer.len() {
            assert_eq!(parse(&answer[..end]), None);
        }
    }
}
