#!/bin/sh
# What the whole daemon costs for a unit of work, as CPU time: clients, gate and origin in network namespaces of their
# own, with policy, rewrite, DLP, records and its own TLS on both sides. The gate has CPU 0 to itself, all else runs on
# CPU 1; OUTGATE_BENCH_CPUS gives it others. `tools/release` runs the same load to learn what is hot.
# Usage, as root: benches/load.sh OUTGATE [SECONDS]. Needs wrk, h2load (nghttp2-client), curl, nginx, dnsmasq, openssl,
# nft, iproute2, python3-websockets and util-linux.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
outgate=$(readlink -f "${1:?usage: benches/load.sh OUTGATE [SECONDS]}")
seconds=${2:-5}
python=/usr/bin/python3
PATH=$PATH:/usr/sbin:/sbin
if [ -z "${OUTGATE_BENCH_INSIDE:-}" ]; then
    exec env OUTGATE_BENCH_INSIDE=1 unshare --net --mount --pid --fork --kill-child sh "$here/load.sh" "$outgate" "$seconds"
fi
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
dir=$(mktemp -d)
ended() {
    status=$?
    if [ "$status" -ne 0 ]; then tail -n 5 "$dir"/*.log >&2; fi
    rm -rf "$dir"
    exit "$status"
}
trap ended EXIT
chmod 755 "$dir"
cd "$dir"
printf '127.0.0.1 localhost\n10.77.2.2 origin.test secret.origin.test script.origin.test tunnel.origin.test\n10.77.2.3 echo.origin.test\n' > hosts
mount --bind hosts /etc/hosts

# agent 10.77.1.2 -- 10.77.1.1 gate 10.77.2.1 -- 10.77.2.2 origin
ip link set lo up
for peer in "agent 1" "origin 2"; do
    set -- $peer
    ip netns add "$1"
    ip link add "to-$1" type veth peer name eth0 netns "$1"
    ip addr add "10.77.$2.1/24" dev "to-$1"
    ip link set "to-$1" up
    ip -n "$1" link set lo up
    ip -n "$1" addr add "10.77.$2.2/24" dev eth0
    ip -n "$1" link set eth0 up
    ip -n "$1" route add default via "10.77.$2.1"
done
nft -f - <<'NFT'
table ip bench {
    chain to_the_gate {
        type nat hook prerouting priority dstnat;
        iifname "to-agent" tcp dport 443 redirect to :8443
        iifname "to-agent" tcp dport 80 redirect to :8080
    }
}
NFT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -subj "/CN=bench" -days 2 -out ca.pem 2> openssl.log
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout origin.key -subj "/CN=origin.test" -out origin.csr 2>> openssl.log
echo "subjectAltName=DNS:origin.test,DNS:*.origin.test" > san
openssl x509 -req -in origin.csr -CA ca.pem -CAkey ca.key -days 2 -extfile san -out origin.pem 2>> openssl.log

mkdir www policies
head -c 1024 /dev/urandom | base64 -w 0 | head -c 1024 > www/1k
head -c 102400 /dev/urandom > www/100k
head -c 67108864 /dev/urandom > www/64m
"$python" -c 'import json, random
print("\\n".join(json.dumps({"id": n, "name": random.randbytes(9).hex(), "at": random.random()}) for n in range(16000)))' > mib.json
head -c 1048576 mib.json > www/1m
for _ in $(seq 64); do cat www/1m; done > www/json
gzip -1 -c www/json > www/json.gz
chmod -R a+rX www
cat > nginx.conf <<NGINX
daemon off;
worker_processes 1;
pid $dir/nginx.pid;
error_log $dir/nginx.log;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    server {
        listen 10.77.2.2:80;
        listen 10.77.2.2:443 ssl http2;
        ssl_certificate $dir/origin.pem;
        ssl_certificate_key $dir/origin.key;
        root $dir/www;
        location = /sink { proxy_pass http://127.0.0.1:8081; }
    }
    server {
        listen 127.0.0.1:8081;
        location / { return 204; }
    }
}
NGINX
cat > outgate.toml <<TOML
mode = "transparent"
policies = "$dir/policies"
[listen]
explicit = ["10.77.1.1:3128"]
transparent = ["10.77.1.1:8443", "10.77.1.1:8080"]
[resolver]
upstreams = ["10.77.2.2:53"]
[upstream]
roots = "$dir/ca.pem"
[audit]
file = "$dir/audit.jsonl"
[steer]
manage = false
[limits]
flows_per_client = 16384
flows_total = 32768
TOML
cat > policies/bench.toml <<'TOML'
[[secret]]
name = "key"
from = { file = "key" }

[[client]]
name = "bench"
source = ["10.77.1.2"]

[[rule]]
name = "origin"
hosts = ["origin.test"]
action = "allow"
private = ["10.77.2.2:443"]
  [rule.request]
  set = { "x-gate" = "1" }

[[rule]]
name = "origin with a key"
hosts = ["secret.origin.test"]
action = "allow"
private = ["10.77.2.2:443"]
  [rule.request]
  inject = [{ header = "authorization", value = "Bearer {secret.key}" }]

[[rule]]
name = "origin with a script"
hosts = ["script.origin.test"]
action = "allow"
private = ["10.77.2.2:443"]
  [rule.script]
  file = "bench.rhai"

[[rule]]
name = "echo"
hosts = ["echo.origin.test"]
action = "allow"
websocket = true
private = ["10.77.2.3:443"]

[[rule]]
name = "unread"
hosts = ["tunnel.origin.test"]
action = "tunnel"
private = ["10.77.2.2:443"]

[[rule]]
name = "origin in clear text"
hosts = ["origin.test"]
action = "allow"
scheme = "http"
ports = [80]
private = ["10.77.2.2:80"]
TOML

cat > policies/bench.rhai <<'RHAI'
fn request(req) {
    if req.method != "GET" || !req.path.starts_with("/") { return deny("only pages"); }
    pass()
}
fn response(req, resp) {
    if resp.status >= 500 { return deny("the origin is ill"); }
    pass()
}
RHAI
openssl rand -hex 20 > policies/key
chmod 600 policies/key

on_origin() { taskset -c 1 ip netns exec origin "$@"; }
on_agent() { taskset -c 1 ip netns exec agent "$@"; }
on_origin nginx -c "$dir/nginx.conf" 2> nginx.err &
ip -n origin addr add 10.77.2.3/24 dev eth0
on_origin "$python" "$here/echo.py" serve origin.pem origin.key 10.77.2.3 443 2> echo.log &
on_origin dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --listen-address=10.77.2.2 --bind-interfaces \
    --local-ttl=300 --address=/origin.test/10.77.2.2 --address=/echo.origin.test/10.77.2.3 2> dnsmasq.log &
taskset -c "${OUTGATE_BENCH_CPUS:-0}" "$outgate" run -c outgate.toml 2> outgate.log &
gate=$!

# eventually COMMAND...: until it succeeds, for ten seconds at most.
eventually() {
    for _ in $(seq 100); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    echo "this never came true: $*" >&2
    return 1
}
eventually grep -qs "outgate is ready" outgate.log
eventually curl -s --insecure -o /dev/null https://10.77.2.2/1k
eventually curl -s --insecure -o /dev/null https://10.77.2.3/

spent() { awk '{ print $14 + $15 }' "/proc/$gate/stat"; }

# Each kind of load runs for SECONDS and prints how much it was.
requests() {
    on_agent wrk -t 1 -d "$1" -c "$2" "$3" ${4:+-H "$4"} > wrk.log
    if grep -E "Non-2xx|Socket errors" wrk.log >&2; then exit 1; fi
    awk '/requests in/ { print $1 }' wrk.log
}
streams() {
    on_agent h2load -D "$1" -c 8 -m 32 https://origin.test/1k > h2load.log
    awk '/^requests:/ { if ($10 + $12 + $14 > 0) exit 1; print $8 }' h2load.log
}
# On one connection through the explicit door, by CONNECT or in absolute form.
proxied() {
    until=$(($(date +%s) + $1)) count=0
    while [ "$(date +%s)" -lt "$until" ]; do
        on_agent curl -sS --fail --insecure --http1.1 --proxy http://10.77.1.1:3128 -o /dev/null "$2?[1-500]"
        count=$((count + 500))
    done
    echo "$count"
}
messages() { on_agent "$python" "$here/echo.py" ask "$1" "$2"; }
transfers() {
    until=$(($(date +%s) + $1)) count=0
    while [ "$(date +%s)" -lt "$until" ]; do
        on_agent curl -sS --fail --insecure --http1.1 -o /dev/null ${2:+-T "$2"} ${4:+-H "$4"} "$3"
        count=$((count + 1))
    done
    echo "$count"
}

# line WORDS UNIT PER COMMAND...: one warm second of the load, then what it costs; UNIT is PER of what the load counts.
line() {
    words=$1 unit=$2 per=$3
    shift 3
    load=$1
    shift
    "$load" 1 "$@" > /dev/null
    before=$(spent)
    count=$("$load" "$seconds" "$@")
    after=$(spent)
    if [ "${count:-0}" -eq 0 ]; then echo "$words: nothing came back" >&2; exit 1; fi
    awk -v words="$words" -v unit="$unit" -v per="$per" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" \
        -v count="$count" 'BEGIN { printf "%-46s %9d  %8.1f %s\n", words, count, ticks / hz / count * per, unit }'
}

line "HTTPS request, HTTP/1.1, 1 KiB, keep-alive" us 1e6 requests 32 https://origin.test/1k
line "  with a credential put in and masked" us 1e6 requests 32 https://secret.origin.test/1k
line "  with a script before and after" us 1e6 requests 32 https://script.origin.test/1k
line "  one at a time, inside CONNECT" us 1e6 proxied https://origin.test/1k
line "HTTPS request, HTTP/2" us 1e6 streams
line "HTTP request in clear text" us 1e6 requests 32 http://origin.test/1k
line "  one at a time, in absolute form" us 1e6 proxied http://origin.test/1k
line "WebSocket message there and back, 64 bytes" us 1e6 messages wss://echo.origin.test/
line "100 KiB answer" us 1e6 requests 16 https://origin.test/100k
line "new connection" us 1e6 requests 16 https://origin.test/1k "Connection: close"
line "download" s/GiB 16 transfers "" https://origin.test/64m
line "  relayed unread" s/GiB 16 transfers "" https://tunnel.origin.test/64m
line "upload of random bytes, scanned" s/GiB 16 transfers www/64m https://origin.test/sink
line "  of JSON" s/GiB 16 transfers www/json https://origin.test/sink
line "  of JSON in gzip, a GiB of it unpacked" s/GiB 16 transfers www/json.gz https://origin.test/sink "Content-Encoding: gzip"

kill -TERM "$gate"
wait "$gate"
