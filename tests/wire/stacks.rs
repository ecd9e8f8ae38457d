//! Gauntlet TL-15 and CL-02: the TLS stacks that clients are built on take a minted leaf where they were told of the CA,
//! and say what is wrong where they were not. Every one of them is the real program.

use crate::support::pages::sha256;
use crate::support::*;

/// A client, its line with the CA and how its output must end, and the words with which it refuses without the CA.
struct Stack {
    name: &'static str,
    line: String,
    says: &'static str,
    /// What stands in the line for the CA, and what takes its place.
    distrusting: (&'static str, &'static str),
    refuses: &'static str,
}

const HELLO: &str = "hello from api.good.test\n";
const URL: &str = "https://api.good.test/";

/// Forgets every setting that names a CA.
const FORGET: &str = "env -u SSL_CERT_FILE -u REQUESTS_CA_BUNDLE -u CURL_CA_BUNDLE -u NODE_EXTRA_CA_CERTS";

fn python(program: &str) -> String {
    format!("env /usr/bin/python3 -c \"{program}\"")
}

fn stacks() -> Vec<Stack> {
    let env =
        ("env ", "env -u SSL_CERT_FILE -u REQUESTS_CA_BUNDLE -u CURL_CA_BUNDLE -u NODE_EXTRA_CA_CERTS ");
    let of = |name, line, refuses| Stack { name, line, says: HELLO, distrusting: env, refuses };
    vec![
        Stack {
            name: "OpenSSL",
            line: "openssl s_client -connect api.good.test:443 -servername api.good.test -verify_hostname api.good.test \
                   -x509_strict -verify_return_error -CAfile $SSL_CERT_FILE </dev/null 2>&1 | grep 'Verify'"
                .into(),
            says: "Verify return code: 0 (ok)\n",
            distrusting: ("-CAfile $SSL_CERT_FILE", "-no-CAfile -no-CApath"),
            refuses: "unable to get local issuer|self-signed certificate in certificate chain|unable to verify",
        },
        Stack {
            name: "GnuTLS",
            line: "gnutls-cli --x509cafile=$SSL_CERT_FILE api.good.test </dev/null 2>&1 | grep Status".into(),
            says: "The certificate is trusted. \n",
            distrusting: ("--x509cafile=$SSL_CERT_FILE", ""),
            refuses: "issuer is unknown",
        },
        of(
            "urllib",
            python(&format!("import urllib.request; print(urllib.request.urlopen('{URL}').read().decode(), end='')")),
            "CERTIFICATE_VERIFY_FAILED",
        ),
        of(
            "requests",
            python(&format!("import requests; print(requests.get('{URL}').text, end='')")),
            "CERTIFICATE_VERIFY_FAILED",
        ),
        of(
            "httpx over h2",
            python(&format!(
                "import httpx; r = httpx.Client(http2=True).get('{URL}'); assert r.http_version == 'HTTP/2'; print(r.text, end='')"
            )),
            "CERTIFICATE_VERIFY_FAILED",
        ),
        of(
            "aiohttp",
            python(&format!(
                "import aiohttp, asyncio\nasync def main():\n    async with aiohttp.ClientSession() as s, s.get('{URL}') as r:\n        \
                 print(await r.text(), end='')\nasyncio.run(main())"
            )),
            "CERTIFICATE_VERIFY_FAILED",
        ),
        of(
            "node https",
            format!("env node -e \"require('https').get('{URL}', r => r.pipe(process.stdout))\""),
            "UNABLE_TO_VERIFY_LEAF_SIGNATURE|unable to verify the first certificate|SELF_SIGNED_CERT_IN_CHAIN",
        ),
        of(
            "node fetch",
            format!("env node -e \"fetch('{URL}').then(r => r.text()).then(t => process.stdout.write(t))\""),
            "UNABLE_TO_VERIFY_LEAF_SIGNATURE|unable to verify the first certificate|SELF_SIGNED_CERT_IN_CHAIN",
        ),
    ]
}

#[test]
fn tl_15_cl_02_every_stack_takes_a_leaf_with_the_ca_and_says_what_is_wrong_without() {
    let bed = Bed::new(P1);
    for stack in stacks() {
        let said = bed.succeed(&stack.line);
        assert!(said.ends_with(stack.says), "{}: {said}", stack.name);
        let (told, untold) = stack.distrusting;
        assert!(stack.line.contains(told), "{}", stack.name);
        let refused = bed.program(&format!(
            "{} 2>&1",
            stack.line.replacen(told, untold, 1).replace("| grep", "| grep -E . #")
        ));
        let said = String::from_utf8_lossy(&refused.stdout);
        assert!(stack.refuses.split('|').any(|words| said.contains(words)), "{}: {said}", stack.name);
        assert!(!said.contains(stack.says), "{}: {said}", stack.name);
    }
}

const JAVA: &str = r#"
import java.net.URI;
import java.net.http.*;
public class Main {
    public static void main(String[] args) throws Exception {
        var client = HttpClient.newHttpClient();
        var request = HttpRequest.newBuilder(URI.create("https://api.good.test/")).build();
        var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.print(answer.version() + " " + answer.body());
        var old = (java.net.HttpURLConnection) request.uri().toURL().openConnection();
        System.out.print(old.getResponseCode());
    }
}
"#;

#[test]
fn tl_15_cl_02_java_takes_a_leaf_with_the_ca_and_says_what_is_wrong_without() {
    let bed = Bed::new(P1);
    std::fs::write(bed.gate.dir.join("Main.java"), JAVA).unwrap();
    bed.succeed(
        "javac -d . Main.java && keytool -importcert -noprompt -keystore trust.p12 -storepass changeit -alias outgate -file $SSL_CERT_FILE",
    );
    let said = bed.succeed(
        "java -Djavax.net.ssl.trustStore=trust.p12 -Djavax.net.ssl.trustStorePassword=changeit -cp . Main",
    );
    assert_eq!(said, format!("HTTP_2 {HELLO}200"));
    let refused = bed.program("java -cp . Main");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("unable to find valid certification path"), "{said}");
}

/// skopeo is written in Go: its TLS and HTTP are those of Go's library.
#[test]
fn tl_15_cl_02_go_takes_a_leaf_with_the_ca_and_an_image_is_pulled_whole() {
    let bed = Bed::new(P1);
    let pages = &bed.world.origin.pages;
    let blob = |kind: &str, bytes: Vec<u8>| {
        let digest = format!("sha256:{}", sha256(&bytes));
        let described =
            format!("{{\"mediaType\":\"{kind}\",\"size\":{},\"digest\":\"{digest}\"}}", bytes.len());
        pages.serve_file(&format!("/v2/demo/image/blobs/{digest}"), "application/octet-stream", bytes);
        described
    };
    let layer = crate::support::pages::pattern(3_000_000);
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{}\"]}}}}",
        sha256(&layer)
    );
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"config\":{},\"layers\":[{}]}}",
        blob("application/vnd.oci.image.config.v1+json", config.into_bytes()),
        blob("application/vnd.oci.image.layer.v1.tar", layer)
    );
    pages.serve_file("/v2/", "application/json", "{}");
    pages.serve_file("/v2/demo/image/manifests/one", kind, manifest);
    let pull = "skopeo --insecure-policy copy -q docker://files.good.test/demo/image:one dir:image";
    bed.succeed(&format!("{pull} && test $(ls image | wc -l) = 4"));
    let refused = bed.program(&format!("{FORGET} {}", pull.replace("dir:image", "dir:other")));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("certificate signed by unknown authority"), "{said}");
    bed.gate.wait_for_record("the client's distrust", |record| record.mentions("does not trust our CA"));
}
