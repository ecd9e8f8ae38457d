//! Gauntlet CL-09: gRPC as its own library speaks it on both sides, through the gate.

use std::time::Duration;

use crate::support::gate::wait_until;
use crate::support::proxy::Program;
use crate::support::*;

/// Messages are plain bytes, so that nothing has to be compiled. Each method says what reached it.
const SERVER: &str = r#"
import sys, threading, grpc
from concurrent import futures

def unary(request, context):
    sent = dict(context.invocation_metadata())
    if request == b"fail":
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing, é")
    context.send_initial_metadata((("x-first", sent.get("x-said", "")),))
    context.set_trailing_metadata((("x-last", "1"), ("x-last-bin", b"\x00\xff")))
    return request * 2

def client_stream(requests, context):
    return b"%d" % sum(len(request) for request in requests)

def server_stream(request, context):
    for n in range(int(request)):
        yield b"%d" % n

def bidi(requests, context):
    for request in requests:
        yield request[::-1]

def slow(request, context):
    # The deadline came along, or there would be no end.
    with open("deadline", "w") as file:
        file.write(str(context.time_remaining()))
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait()
    with open("cancelled", "w") as file:
        file.write("yes")
    return b""

handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Client": grpc.stream_unary_rpc_method_handler(client_stream),
    "Server": grpc.unary_stream_rpc_method_handler(server_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Echo", handlers),))
credentials = grpc.ssl_server_credentials([(open("leaf.key", "rb").read(), open("leaf.pem", "rb").read())])
assert server.add_secure_port("0.0.0.0:50051", credentials) == 50051
server.start()
server.wait_for_termination()
"#;

const CLIENT: &str = r#"
import sys, grpc, queue
roots = open(sys.argv[1], "rb").read()
channel = grpc.secure_channel("api.good.test:443", grpc.ssl_channel_credentials(roots))
call = lambda kind, name: getattr(channel, kind)("/t.Echo/" + name)

answer, told = call("unary_unary", "Unary").with_call(b"ab", metadata=(("x-said", "hi"),), timeout=20)
assert answer == b"abab", answer
assert ("x-first", "hi") in told.initial_metadata(), told.initial_metadata()
last = {key: value for key, value in told.trailing_metadata()}
assert (last["x-last"], last["x-last-bin"]) == ("1", b"\x00\xff"), last

large = bytes(3 << 20)
assert call("unary_unary", "Unary")(large[: 1 << 20], timeout=20) == large[: 2 << 20]
assert call("stream_unary", "Client")(iter([b"x" * 1000] * 500), timeout=20) == b"500000"
assert list(call("unary_stream", "Server")(b"1000", timeout=20)) == [b"%d" % n for n in range(1000)]

# Each message is answered before the next one is made.
outgoing = queue.Queue()
incoming = call("stream_stream", "Bidi")(iter(outgoing.get, None), timeout=20)
for n in range(200):
    message = b"message %d" % n
    outgoing.put(message)
    assert next(incoming) == message[::-1]
outgoing.put(None)
assert list(incoming) == []

try:
    call("unary_unary", "Unary")(b"fail", timeout=20)
    sys.exit("no error")
except grpc.RpcError as error:
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing, é"), error
    assert ("x-why", "because") in error.trailing_metadata(), error.trailing_metadata()

try:
    call("unary_unary", "Slow")(b"", timeout=1)
    sys.exit("no deadline")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
assert call("unary_unary", "Unary")(b"c", timeout=20) == b"cc", "the channel lives on"

try:
    call("unary_unary", "Denied")(b"", timeout=20)
    sys.exit("not denied")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
print("good")
"#;

const POLICY: &str = r#"
[[rule]]
name = "grpc"
hosts = ["api.good.test"]
action = "allow"

[[rule]]
name = "not this"
hosts = ["api.good.test"]
action = "deny"
  [[rule.match]]
  path = { exact = "/t.Echo/Denied" }
"#;

#[test]
fn cl_09_grpc_works_in_all_four_forms_with_trailers_deadlines_and_refusals() {
    let bed = Bed::new(POLICY);
    let dir = &bed.gate.dir;
    bed.world.authorities.write_leaf(dir, "api.good.test");
    std::fs::write(dir.join("server.py"), SERVER).unwrap();
    std::fs::write(dir.join("client.py"), CLIENT).unwrap();
    // Debian's python, which has Debian's grpc.
    // The world's own hosts have port 443.
    bed.world.dns.set("api.good.test", &[PUB1]);
    bed.world.net.sh(format!(
        "nft 'table ip grpc {{ chain in {{ type nat hook prerouting priority dstnat; \
         ip daddr {PUB1} tcp dport 443 redirect to :50051; }}; }}'"
    ));
    let _server = Program::start(&bed.world, "/usr/bin/python3 server.py", at(PUB1, 50051));
    let said = bed.succeed(&format!("/usr/bin/python3 client.py {}", bed.ca_file().display()));
    assert_eq!(said, "good\n");
    let deadline: f64 = std::fs::read_to_string(dir.join("deadline")).unwrap().parse().unwrap();
    assert!(deadline < 2.0, "the server knew of the second that was left: {deadline}");
    let cancelled = || dir.join("cancelled").exists().then_some(());
    assert!(wait_until(Duration::from_secs(10), cancelled).is_some(), "and that nobody waits any more");
    let decisions = bed.gate.records();
    assert!(decisions.iter().filter(|record| record.text("proto") == "h2").count() >= 9);
}
