#!/usr/bin/env bash
# The cluster of docker-compose.yml, in real containers: brought up from a built binary, written to while a broker's container
# is killed, another paused and a third cut off the network, then read back: every acknowledged line must be there, in order
# by key. Needs a Docker engine, and no registry. Where no engine runs, it says so and passes.
#   tests/containers/compose.sh target/release/highwater
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/../.."

if ! timeout 10 docker info >/dev/null 2>&1; then
  echo "SKIPPED: no Docker engine runs here"
  exit 0
fi
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
if ! "${compose[@]}" version >/dev/null 2>&1; then
  echo "SKIPPED: a Docker engine runs, but there is no Compose"
  exit 0
fi

export COMPOSE_PROJECT_NAME=highwater-test-$$ HIGHWATER_IMAGE=highwater-test:$$
work=$(mktemp -d)
finish() {
  code=$?
  if [ $code -ne 0 ]; then
    echo "FAILED (exit $code); the ends of the nodes' logs:"
    "${compose[@]}" logs --no-color --tail=15 2>&1 | tail -n 100 || true
  fi
  "${compose[@]}" down -v --remove-orphans >/dev/null 2>&1 || true
  docker rmi -f "$HIGHWATER_IMAGE" >/dev/null 2>&1 || true
  rm -rf "$work"
  exit $code
}
trap finish EXIT

say() { echo "$(date +%T) $*"; }
cli() { "${compose[@]}" run --rm -T cli "$@" 2>>"$work/compose.log"; }
node() { "${compose[@]}" ps -q "$1"; }
until_true() { # what, seconds, command...
  local what=$1 deadline=$((SECONDS + $2)); shift 2
  until "$@"; do
    [ $SECONDS -lt $deadline ] || { echo "not in time: $what"; return 1; }
    sleep 0.2
  done
}
healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' $("${compose[@]}" ps -q) | grep -c '^healthy$')" -ge "$1" ]; }
# The leader of partition $1.
leader() { cli topic describe orders --output json | awk -v n="$1" '/"partition":/ { p = $2 + 0 } /"leader":/ && p == n { found = $2 + 0 } END { print found }'; }
others_lead() { now=$(leader 0) && [ -n "$now" ] && [ "$now" != "$1" ]; }
# Its output is read to the end: who is left writing to a closed pipe fails.
all_in_sync() { [ "$(cli topic describe orders | awk '$1 == "under-replicated" { print $2 }')" = 0 ]; }

deploy/image-root.sh "$binary" "$work/image"
docker build -q -f deploy/Dockerfile -t "$HIGHWATER_IMAGE" --target prebuilt "$work/image" >/dev/null 2>&1
size=$(docker image inspect -f '{{.Size}}' "$HIGHWATER_IMAGE")
say "image: $((size / 1000000)) MB"

up=$SECONDS
"${compose[@]}" up -d >>"$work/compose.log" 2>&1
until_true "all nodes healthy" 60 healthy 6
say "up and healthy after about $((SECONDS - up)) s"
for service in controller-1 broker-1; do
  [ "$(docker inspect -f '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}' "$(node $service)")" = "65532:65532 true" ]
done

cli topic create orders --partitions 3 >/dev/null
# Keyed, so that order can be checked: key n % 10, value n. A slow writer, which outlasts the faults.
lines=60000
( for n in $(seq $lines); do echo "k$((n % 10)):$n"; [ $((n % 100)) -ne 0 ] || sleep 0.02; done ) \
  | cli produce orders --key-separator : --timeout 60 >"$work/produced" 2>&1 &
writer=$!

victim=$(leader 0)
docker kill -s KILL "$(node "broker-$victim")" >/dev/null
killed=$SECONDS
until_true "a new leader after kill -9" 30 others_lead "$victim"
say "kill -9 of broker-$victim: another leads after about $((SECONDS - killed)) s"
docker start "$(node "broker-$victim")" >/dev/null
until_true "all in sync again" 60 all_in_sync

victim=$(leader 0)
docker pause "$(node "broker-$victim")" >/dev/null
until_true "a new leader after the pause" 30 others_lead "$victim"
say "pause of broker-$victim: another leads"
docker unpause "$(node "broker-$victim")" >/dev/null
until_true "all in sync again" 60 all_in_sync

victim=$(leader 0)
docker network disconnect "${COMPOSE_PROJECT_NAME}_default" "$(node "broker-$victim")"
until_true "a new leader after the cut" 30 others_lead "$victim"
say "broker-$victim off the network: another leads"
docker network connect --alias "broker-$victim" "${COMPOSE_PROJECT_NAME}_default" "$(node "broker-$victim")"
until_true "all in sync again" 60 all_in_sync

wait $writer || { echo "the writer failed:"; cat "$work/produced"; exit 1; }
cli consume orders --until-end --format '%k:%v' >"$work/read"
# Every line once or, where a retry stored it twice, more often; the first appearances of each key in order.
awk -F: -v lines=$lines '
  !($0 in seen) { seen[$0] = 1; count++; if ($2 <= last[$1]) { print "out of order: " $0 " after " last[$1]; bad = 1 } last[$1] = $2 + 0 }
  END { if (count != lines) { print count " of " lines " lines came back"; bad = 1 } exit bad }' "$work/read"
say "$lines acknowledged lines came back in order"

down=$SECONDS
"${compose[@]}" stop >>"$work/compose.log" 2>&1
for id in $("${compose[@]}" ps -q); do
  [ "$(docker inspect -f '{{.State.ExitCode}}' "$id")" = 0 ] || { echo "a node did not end in order"; exit 1; }
done
say "stopped in order within $((SECONDS - down)) s"
