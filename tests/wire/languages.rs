//! Gauntlet CL-02: the HTTP libraries of the languages that agents write, by the transparent door and by CONNECT: what
//! they ask for, what they send, and what they say when nobody told them of the CA.

use crate::support::pages::sha256;
use crate::support::*;

/// Each library says on one line what it got for a page and for an upload, or why it got nothing.
const PYTHON: &str = r#"
import asyncio, os, sys, urllib.request
import aiohttp, httpx, requests

URL = "https://api.good.test"
BODY = bytes(range(256)) * 4096

def with_urllib():
    first = urllib.request.urlopen(URL + "/").read()
    return first, urllib.request.urlopen(URL + "/upload", data=BODY).read()

def with_requests():
    with requests.Session() as session:
        first = session.get(URL + "/redirect?/")
        assert len(first.history) == 1
        return first.content, session.post(URL + "/upload", data=iter([BODY[:9], BODY[9:]])).content

def with_httpx():
    with httpx.Client(http2=True, follow_redirects=True) as client:
        first = client.get(URL + "/redirect?/")
        assert first.http_version == "HTTP/2", first.http_version
        return first.content, client.post(URL + "/upload", content=BODY).content

def with_aiohttp():
    async def both():
        async with aiohttp.ClientSession(trust_env=True) as session:
            async def get():
                async with session.get(URL + "/") as answer:
                    return await answer.read()
            first = await asyncio.gather(*[get() for _ in range(20)])
            assert len(set(first)) == 1
            return first[0], await (await session.post(URL + "/upload", data=BODY)).read()
    return asyncio.run(both())

for name in ["urllib", "requests", "httpx", "aiohttp"]:
    try:
        first, second = globals()["with_" + name]()
        print(name, first.decode().strip(), second.decode().strip())
    except Exception as error:
        print(name, "failed:", repr(error)[:1000])
"#;

/// The same by Node's three ways; where a door is named, by the CONNECT that its proxy agents make.
const NODE: &str = r#"
const https = require('https'), http = require('http'), http2 = require('http2');
const URL = 'https://api.good.test', BODY = Buffer.alloc(1 << 20, 'a');
const text = stream => new Promise((done, fail) => {
  let all = ''; stream.on('data', part => all += part).on('end', () => done(all.trim())).on('error', fail);
});
const viaHttps = (options, body) => new Promise((done, fail) => {
  const request = https.request({ host: 'api.good.test', ...options }, answer => done(text(answer)));
  request.on('error', fail).end(body);
});
const door = process.argv[2];
const tunnel = () => new Promise((done, fail) => {
  const [host, port] = door.split(':');
  const path = 'api.good.test:443';
  const request = http.request({ host, port, method: 'CONNECT', path, headers: { host: path } });
  request.on('connect', (answer, socket) => answer.statusCode === 200 ? done(socket) : fail(Error('' + answer.statusCode)));
  request.on('error', fail).end();
});
const inside = async (options, body) => {
  const socket = await tunnel();
  const secure = require('tls').connect({ socket, servername: 'api.good.test' });
  return viaHttps({ ...options, agent: false, createConnection: () => secure }, body);
};
const overHttp2 = () => new Promise((done, fail) => {
  const session = http2.connect(URL).on('error', fail);
  const post = session.request({ ':path': '/upload', ':method': 'POST' }); post.end(BODY);
  Promise.all([text(session.request({ ':path': '/' }).on('error', fail)), text(post.on('error', fail))]).then(both => {
    session.close(); done(both);
  }, fail);
});
const ways = door ? {
  https: async () => [await inside({ path: '/' }), await inside({ path: '/upload', method: 'POST' }, BODY)],
} : {
  fetch: async () => [
    (await (await fetch(URL + '/redirect?/')).text()).trim(),
    (await (await fetch(URL + '/upload', { method: 'POST', body: BODY })).text()).trim()],
  https: async () => [await viaHttps({ path: '/' }), await viaHttps({ path: '/upload', method: 'POST' }, BODY)],
  http2: overHttp2,
};
(async () => {
  for (const [name, way] of Object.entries(ways)) {
    await way().then(both => console.log(name, ...both),
      error => console.log(name, 'failed:', error.message, error.code, error.cause ? error.cause.code : ''));
  }
})();
"#;

/// Java's client offers an upgrade to h2c in clear text, which is the proxy's to leave out.
const JAVA: &str = r#"
import java.net.*;
import java.net.http.*;
import javax.net.ssl.SSLContext;

public class Client {
    static String both(String name, HttpClient client, String url) {
        try {
            var page = HttpRequest.newBuilder(URI.create(url + "/redirect?/")).build();
            var first = client.send(page, HttpResponse.BodyHandlers.ofString());
            var upload = HttpRequest.newBuilder(URI.create(url + "/upload"))
                .POST(HttpRequest.BodyPublishers.ofByteArray(new byte[1 << 20])).build();
            var second = client.send(upload, HttpResponse.BodyHandlers.ofString());
            return name + " " + first.version() + " " + first.body().strip() + " " + second.body().strip();
        } catch (Exception error) {
            return name + " failed: " + error;
        }
    }

    static HttpClient.Builder builder() {
        return HttpClient.newBuilder().followRedirects(HttpClient.Redirect.NORMAL);
    }

    public static void main(String[] arguments) throws Exception {
        var untold = SSLContext.getInstance("TLS");
        untold.init(null, null, null);
        System.out.println(both("untold", builder().sslContext(untold).build(), "https://api.good.test"));
        System.setProperty("javax.net.ssl.trustStore", arguments[0]);
        System.out.println(both("h2", builder().build(), "https://api.good.test"));
        System.out.println(both("h1", builder().version(HttpClient.Version.HTTP_1_1).build(), "https://api.good.test"));
        System.out.println(both("clear", builder().build(), "http://plain.good.test"));
        var door = ProxySelector.of(new InetSocketAddress("10.77.1.1", 3128));
        System.out.println(both("connect", builder().proxy(door).build(), "https://api.good.test"));
        System.out.println(both("absolute", builder().proxy(door).build(), "http://plain.good.test"));
    }
}
"#;

const EXPLICIT: &str = "https_proxy=http://10.77.1.1:3128";
const UNTOLD: &str = "env -u SSL_CERT_FILE -u REQUESTS_CA_BUNDLE -u CURL_CA_BUNDLE -u NODE_EXTRA_CA_CERTS";

/// What follows a name on its line when all went well.
fn good(body: &[u8]) -> String {
    format!("hello from api.good.test {} {}", body.len(), sha256(body))
}

#[test]
fn cl_02_pythons_libraries_work_by_both_doors_and_name_the_certificate_without_the_ca() {
    let bed = Bed::new(P1);
    std::fs::write(bed.gate.dir.join("client.py"), PYTHON).unwrap();
    let body: Vec<u8> = (0..=255_u8).cycle().take(256 * 4096).collect();
    let libraries = ["urllib", "requests", "httpx", "aiohttp"];
    let expected: String = libraries.iter().map(|name| format!("{name} {}\n", good(&body))).collect();
    for settings in ["env", &format!("env {EXPLICIT}")] {
        assert_eq!(bed.succeed(&format!("{settings} /usr/bin/python3 client.py")), expected, "{settings}");
    }
    let said = bed.succeed(&format!("{UNTOLD} /usr/bin/python3 client.py"));
    assert_eq!(said.lines().count(), libraries.len(), "{said}");
    for (line, name) in said.lines().zip(libraries) {
        assert!(line.starts_with(&format!("{name} failed: ")), "{line}");
        assert!(
            line.contains("CERTIFICATE_VERIFY_FAILED") || line.contains("certificate verify failed"),
            "{line}"
        );
    }
}

#[test]
fn cl_02_nodes_three_ways_work_and_so_does_a_connect_and_they_name_the_certificate_without_the_ca() {
    let bed = Bed::new(P1);
    std::fs::write(bed.gate.dir.join("client.js"), NODE).unwrap();
    let body = vec![b'a'; 1 << 20];
    let expected =
        |names: &[&str]| -> String { names.iter().map(|name| format!("{name} {}\n", good(&body))).collect() };
    assert_eq!(bed.succeed("node client.js"), expected(&["fetch", "https", "http2"]));
    assert_eq!(bed.succeed("node client.js 10.77.1.1:3128"), expected(&["https"]));
    let said = bed.succeed(&format!("{UNTOLD} node client.js"));
    assert_eq!(said.lines().count(), 3, "{said}");
    for line in said.lines() {
        let named =
            line.contains("UNABLE_TO_VERIFY_LEAF_SIGNATURE") || line.contains("SELF_SIGNED_CERT_IN_CHAIN");
        assert!(line.contains("failed:") && named, "{line}");
    }
}

#[test]
fn cl_02_javas_client_works_by_every_door_and_names_the_certificate_without_the_ca() {
    let bed = Bed::new(P1);
    let store = outgate::tls::java_store(&bed.roots());
    std::fs::write(bed.gate.dir.join("trust.jks"), store).unwrap();
    std::fs::write(bed.gate.dir.join("Client.java"), JAVA).unwrap();
    // One file of source is compiled by the launcher itself, so that no compiler need be installed.
    let said = bed.succeed("java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC Client.java trust.jks");
    let lines: Vec<&str> = said.lines().collect();
    let body = vec![0; 1 << 20];
    let (secure, clear) = (good(&body), good(&body).replace("api.", "plain."));
    assert!(
        lines[0].starts_with("untold failed: ") && lines[0].contains("PKIX path building failed"),
        "{said}"
    );
    let expected = [
        format!("h2 HTTP_2 {secure}"),
        format!("h1 HTTP_1_1 {secure}"),
        format!("clear HTTP_1_1 {clear}"),
        format!("connect HTTP_2 {secure}"),
        format!("absolute HTTP_1_1 {clear}"),
    ];
    assert_eq!(lines[1..], expected, "{said}");
    let requests = bed.world.origin.requests();
    assert!(
        requests.iter().all(|request| request.header("upgrade").is_empty()),
        "no offer of h2c came through"
    );
}
