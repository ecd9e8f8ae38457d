//! git's own smart-HTTP server, run as CGI behind the test internet's HTTPS, and a small repository to clone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use super::pages::{Answer, typed};

/// A bare repository `name` below `root` with one commit.
pub fn repository(root: &Path, name: &str) {
    let script = format!(
        "cd {root}; git init -q --bare -b main {name}; git init -q -b main seed; cd seed; echo 'a file' > file; \
         git add file; git -c user.name=t -c user.email=t@good.test commit -q -m one; \
         git push -q ../{name} main; rm -rf ../seed",
        root = root.display()
    );
    let done = Command::new("sh").args(["-ec", &script]).env("HOME", root).output().expect("sh");
    assert!(done.status.success(), "git: {}", String::from_utf8_lossy(&done.stderr));
}

/// One commit on `main` of the repository `name` below `root` for each word, with a file of that name. A repository
/// that is not there is made, and has nothing in common with any other.
pub fn history(root: &Path, name: &str, words: &str) {
    let at = root.join(name);
    let is_new = !at.exists();
    if is_new {
        let made = Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&at).status();
        assert!(made.unwrap().success(), "git init");
    }
    let mut stream = String::new();
    for (number, word) in words.split_whitespace().enumerate() {
        let from = if number == 0 && !is_new { "from refs/heads/main^0\n" } else { "" };
        let time = 1_700_000_000 + number;
        stream += &format!(
            "commit refs/heads/main\ncommitter t <t@good.test> {time} +0000\ndata {}\n{word}\n{from}M 644 inline {word}\n\
             data {}\n{word}\n",
            word.len(),
            word.len()
        );
    }
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(at).args(["fast-import", "--quiet"]).stdin(Stdio::piped());
    let mut child = git.spawn().expect("git");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stream.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "git fast-import");
}

/// Lets the repository `name` below `root` be pushed to.
pub fn takes_pushes(root: &Path, name: &str) {
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(root.join(name)).args(["config", "http.receivepack", "true"]);
    assert!(git.status().unwrap().success(), "git config");
}

pub async fn backend(
    root: Option<PathBuf>,
    path: &str,
    method: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let Some(root) = root else { return typed("text/plain", "no repositories\n") };
    let path = path.to_owned();
    let work = move || {
        let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap_or(""));
        let mut child = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REQUEST_METHOD", method)
            .env("CONTENT_TYPE", text("content-type"))
            .env("CONTENT_LENGTH", body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
            .env("GIT_PROTOCOL", text("git-protocol"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git http-backend");
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), &body).ok();
        child.wait_with_output().expect("git http-backend").stdout
    };
    let said = tokio::task::spawn_blocking(work).await.unwrap();
    let end = said.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let mut answer = typed("text/plain", Bytes::copy_from_slice(&said[(end + 4).min(said.len())..]));
    for line in String::from_utf8_lossy(&said[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("status") {
            *answer.status_mut() = value[..3].parse().unwrap_or(StatusCode::BAD_GATEWAY);
        } else if let Ok(name) = name.parse::<HeaderName>() {
            answer.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    answer
}
