#!/usr/bin/env bash
# How long a gateway keeps the connections of clients that have vanished without a word: no FIN, no RST, no ACK.
#
#   sudo test/faults/half-open.sh 15    # Linux' own default of net.ipv4.tcp_retries2
#   sudo test/faults/half-open.sh 5     # as in compose.yaml
#
# The gateway and its clients have a network namespace each, and after a while the clients' address is taken away.
# Whenever it changes, prints how many connections the gateway has: 10 streams of an idle job, 20 of a busy one, and 40
# WebSockets.
set -euo pipefail
cd "$(dirname "$0")/../.."
retries=${1:?Expected a number of retries, got nothing}
dir=$(mktemp -d)
url=http://10.213.0.1:3000

stop() {
  for pid in $(jobs -p); do kill "$pid" || true; done
  wait
  ip netns del quartet-gateway || true
  ip netns del quartet-clients || true
  rm -rf "$dir"
}
trap stop EXIT

# Not for what runs in the background: that would be a shell's child, and outlive it.
on_gateway() { ip netns exec quartet-gateway "$@"; }
on_clients() { ip netns exec quartet-clients "$@"; }
submit() {
  on_clients curl -sf "$url/jobs" -H 'content-type: application/json' -d "$1" | sed -E 's/.*"job_id":"([^"]*)".*/\1/'
}
follow() {
  ip netns exec quartet-clients node --import tsx test/faults/idle-clients.ts "$1" "$url" "$2" "$3" >"$dir/$1-$2" &
  until grep -q "^open $3" "$dir/$1-$2"; do sleep 0.1; done
}
connections() { on_gateway ss -Htnp state established 'sport = :3000' | grep -c users: || true; }

ip netns add quartet-gateway
ip netns add quartet-clients
ip link add gateway netns quartet-gateway type veth peer name clients netns quartet-clients
ip -n quartet-gateway addr add 10.213.0.1/24 dev gateway
ip -n quartet-clients addr add 10.213.0.2/24 dev clients
for name in gateway clients; do
  ip -n "quartet-$name" link set lo up
  ip -n "quartet-$name" link set "$name" up
done
# A vanished client is behind a router that is still there: its hardware address stays known.
mac=$(on_clients cat /sys/class/net/clients/address)
ip -n quartet-gateway neigh replace 10.213.0.2 lladdr "$mac" dev gateway nud permanent
on_gateway sysctl -qw "net.ipv4.tcp_retries2=$retries"

ip netns exec quartet-gateway redis-server --port 6379 --save '' --dir "$dir" >"$dir/redis" &
ip netns exec quartet-gateway env PORT=3000 HOST=10.213.0.1 QUARTET_ALLOW_ANONYMOUS=1 REDIS_URL=redis://127.0.0.1:6379 \
  node --import tsx src/main.ts >"$dir/gateway" &
until grep -q 'listens on' "$dir/gateway"; do sleep 0.1; done
idle=$(submit '{"type":"echo","delay_ms":3600000}')
busy=$(submit '{"type":"countdown","input":{"from":100,"interval_ms":5000}}')
follow sse "$idle" 10
follow sse "$busy" 20
follow websocket "$idle" 40

ip -n quartet-clients addr del 10.213.0.2/24 dev clients
since=$SECONDS
last=
until [ "$last" = 0 ]; do
  now=$(connections)
  if [ "$now" != "$last" ]; then echo "$((SECONDS - since)) s: $now"; fi
  last=$now
  sleep 0.5
done
