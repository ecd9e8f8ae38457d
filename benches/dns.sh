#!/bin/sh
# What an answer from the cache costs: dnsperf against the DNS door, all on the loopback of a network namespace of its
# own, the gate alone on CPU 0. Usage, as root: benches/dns.sh OUTGATE [SECONDS]. Needs dnsperf, dnsmasq and util-linux.
set -eu
outgate=$(readlink -f "${1:?usage: benches/dns.sh OUTGATE [SECONDS]}")
seconds=${2:-10}
if [ -z "${OUTGATE_BENCH_INSIDE:-}" ]; then
    exec env OUTGATE_BENCH_INSIDE=1 unshare --net --mount --pid --fork --kill-child sh "$0" "$outgate" "$seconds"
fi
mount -t proc proc /proc
ip link set lo up
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
mkdir "$dir/policies"
cat > "$dir/outgate.toml" <<'TOML'
mode = "regular"
[listen]
explicit = ["127.0.0.1:3128"]
dns = ["127.0.0.1:5353"]
[steer]
manage = false
[resolver]
upstreams = ["127.0.0.2:5300"]
[limits]
dns_queries_per_second = 10000000
dns_burst = 10000000
TOML
cat > "$dir/policies/bench.toml" <<'TOML'
[[client]]
name = "bench"
source = ["127.0.0.1"]
[[rule]]
name = "bench"
hosts = ["good.test", "a.good.test", "b.good.test", "c.good.test", "d.good.test"]
action = "allow"
TOML
printf '%s\n' 'good.test A' 'a.good.test A' 'b.good.test A' 'c.good.test AAAA' 'd.good.test A' > "$dir/questions"
dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --listen-address=127.0.0.2 --bind-interfaces --port=5300 \
    --local-ttl=300 --address=/good.test/93.184.216.34 --address=/good.test/2606:2800:220:1::1 2> "$dir/dnsmasq.log" &
taskset -c 0 "$outgate" run -c "$dir/outgate.toml" 2> "$dir/outgate.log" &
gate=$!
for _ in $(seq 100); do
    if grep -qs "outgate is ready" "$dir/outgate.log"; then break; fi
    sleep 0.1
done
grep -q "outgate is ready" "$dir/outgate.log" || { cat "$dir/outgate.log"; exit 1; }
ask() { taskset -c 1 dnsperf -s 127.0.0.1 -p 5353 -d "$dir/questions" -c 16 -q 200 -l "$1" > "$dir/dnsperf" 2>&1; }
spent() { awk '{ print $14 + $15 }' "/proc/$gate/stat"; }
ask 1
before=$(spent)
ask "$seconds"
after=$(spent)
grep -E 'Queries (sent|completed|lost)|Response codes|Queries per second|Average Latency' "$dir/dnsperf"
done=$(awk '/Queries completed/ { print $3 }' "$dir/dnsperf")
awk -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" -v n="$done" -v seconds="$seconds" 'BEGIN {
    cpu = ticks / hz
    printf "  CPU of the gate: %.2f s of %s s, %.2f us a question, so %d a second and core\n", cpu, seconds, cpu * 1e6 / n, n / cpu }'
grep -c '"kind":"decision"' "$dir/audit.jsonl" | sed 's/^/  decision records: /'
kill -TERM "$gate"
wait "$gate"
