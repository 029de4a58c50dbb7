#!/usr/bin/env bash
# The cluster of docker-compose.yml, in real containers, under faults. A producer writes and a consumer reads all the while;
# then every acknowledged record must be where the producer was told, once, in order, and what was read live must be what is
# there. Needs a Docker engine with Compose, and no registry. Where no engine runs, it says so and passes; everything else
# that is missing is a failure.
#   tests/containers/compose.sh target/release/highwater
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/../.."

if ! timeout 10 docker info >/dev/null 2>&1; then
  echo "SKIPPED: no Docker engine runs here"
  exit 0
fi
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
"${compose[@]}" version >/dev/null 2>&1 || { echo "FAILED: a Docker engine runs, but there is no Compose"; exit 1; }

# A port that is free, so that a cluster of somebody's own is not in the way.
export COMPOSE_PROJECT_NAME=highwater-test-$$ HIGHWATER_IMAGE=highwater-test:$$ HIGHWATER_PORT=0
work=$(mktemp -d)
writer='' reader=''
finish() {
  code=$?
  trap - EXIT
  touch "$work/enough"
  if [ $code -ne 0 ]; then
    echo "FAILED (exit $code); the end of what Compose and the command line said:"
    tail -n 20 "$work/said" || true
    echo "--- the ends of the nodes' logs:"
    "${compose[@]}" logs --no-color --tail=15 2>&1 | tail -n 100 || true
  fi
  # Whoever runs in the network keeps it from going away.
  ids=$(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
  [ -z "$ids" ] || docker rm -fv $ids >/dev/null 2>&1 || true
  "${compose[@]}" down -v --remove-orphans >/dev/null 2>&1 || true
  docker rmi -f "$HIGHWATER_IMAGE" >/dev/null 2>&1 || true
  [ -z "$writer" ] || wait "$writer" 2>/dev/null || true
  [ -z "$reader" ] || wait "$reader" 2>/dev/null || true
  rm -rf "$work"
  exit $code
}
trap finish EXIT

say() { echo "$(date +%T) $*"; }
fail() { echo "WRONG: $*"; exit 1; }
cli() { "${compose[@]}" run --rm -T cli "$@" 2>>"$work/said"; }
nodes='controller-1 controller-2 controller-3 broker-1 broker-2 broker-3'
# The container of a service, whether it runs or not.
node() {
  docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False
}
all_nodes() { for service in $nodes; do node "$service"; done; }
until_true() { # what, seconds, command...
  local what=$1 deadline=$((SECONDS + $2)); shift 2
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "not in time: $what"
    sleep 0.2
  done
}
healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' $(all_nodes) | grep -c '^healthy$')" = 6 ]; }
# Fields of a flat JSON text, one a line: name and number.
numbers() { awk -F: '/^ *"[a-z_]*": [0-9]+,?$/ { gsub(/[ ",]/, ""); print $1, $2 + 0 }'; }
# The leader of partition $1.
leader() {
  cli topic describe orders --output json | numbers \
    | awk -v n="$1" '$1 == "partition" { p = $2 } $1 == "leader" && p == n { found = $2 } END { print found }'
}
other_leads() { local now; now=$(leader 0) && [ -n "$now" ] && [ "$now" != "$1" ]; }
active() { cli cluster describe --output json | numbers | awk '$1 == "active_controller" { found = $2 } END { print found }'; }
other_is_active() { local now; now=$(active) && [ -n "$now" ] && [ "$now" != "$1" ]; }
# Its output is read to the end: who is left writing to a closed pipe fails.
all_in_sync() { [ "$(cli topic describe orders | awk '$1 == "under-replicated" { found = $2 } END { print found }')" = 0 ]; }
up() {
  local began=$SECONDS
  "${compose[@]}" up -d >>"$work/said" 2>&1
  until_true "all nodes healthy" 60 healthy
  say "$1: up and healthy after about $((SECONDS - began)) s"
}
read_all() { cli consume orders --until-end --format '%p %o %k:%v' | sort -n -k1,1 -k2,2; }

deploy/image-root.sh "$binary" "$work/image"
docker build -q -f deploy/Dockerfile -t "$HIGHWATER_IMAGE" --target prebuilt "$work/image" >>"$work/said" 2>&1
size=$(docker image inspect -f '{{.Size}}' "$HIGHWATER_IMAGE")
say "image: $((size / 1000000)) MB"
[ "$size" -lt 40000000 ] || fail "an image of $size bytes; it should have less than 40 MB"

up "first start"

# What the file asks for is what the engine does.
check_container() { # service, container
  local it
  it=$(docker inspect -f '{{.Config.User}} ro={{.HostConfig.ReadonlyRootfs}} drop={{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} priv={{.HostConfig.Privileged}}' "$2")
  [ "$it" = "65532:65532 ro=true drop=[ALL] [no-new-privileges:true] priv=false" ] || fail "$1 runs as: $it"
  it=$(docker inspect -f '{{if .HostConfig.Memory}}memory{{end}} {{if .HostConfig.NanoCpus}}cpus{{end}} {{if .HostConfig.PidsLimit}}pids{{end}} {{index .HostConfig.LogConfig.Config "max-size"}}' "$2")
  [ "$it" = "memory cpus pids 10m" ] || fail "$1 has these bounds only: $it"
}
for service in $nodes; do
  id=$(node "$service")
  check_container "$service" "$id"
  [ "$(docker inspect -f '{{.Config.StopTimeout}}' "$id")" = 75 ] || fail "$service gets another time to stop"
  users=$(docker top "$id" -eo uid,pid | awk 'NR > 1 { print $1 }' | sort -u)
  [ "$users" = 65532 ] || fail "$service has processes of user $users"
  if docker cp "$0" "$id:/written" >/dev/null 2>&1; then fail "$service has a root folder that can be written"; fi
done
say "no root, read-only, without capabilities, bounded"

# From this machine, as thin clients come.
port=$("${compose[@]}" port broker-1 9092 | sed 's/.*://')
[[ "$("${compose[@]}" port broker-1 9092)" == 127.0.0.1:* ]] || fail "broker-1's port is open to others than this machine"
"$binary" health "127.0.0.1:$port" || fail "broker-1 can't be reached at its published port"

# And as Kafka clients do: by the address that the broker's log tells.
at=$("${compose[@]}" port broker-1 19094)
printed() { "${compose[@]}" logs --no-color broker-1 | grep -cF "bootstrap.servers=$at" >/dev/null; }
until_true "broker-1 prints bootstrap.servers=$at" 10 printed

cli topic create orders --partitions 3 >/dev/null
# Keyed, so that order can be checked: key n % 10, value n. They go on until the file `enough` is there.
produce() {
  local n=0 i
  until [ -e "$work/enough" ]; do
    for i in {1..50}; do n=$((n + 1)); echo "k$((n % 10)):$n"; done
    sleep 0.02
  done | tee "$work/input" | cli produce orders --key-separator : --timeout 120 --report
}
produce >"$work/reported" &
writer=$!
# Reads until it is ended from outside, by the signal of Ctrl-C.
"${compose[@]}" run --rm -T --name "$COMPOSE_PROJECT_NAME-reader" cli consume orders --format '%p %o %k:%v' >"$work/live" 2>>"$work/said" &
reader=$!

victim=$(leader 0); id=$(node "broker-$victim")
docker kill -s KILL "$id" >/dev/null
began=$SECONDS
until_true "a new leader after kill -9" 30 other_leads "$victim"
say "kill -9 of broker-$victim: another leads after about $((SECONDS - began)) s"
docker start "$id" >/dev/null
until_true "all in sync again" 60 all_in_sync

victim=$(leader 0); id=$(node "broker-$victim")
docker pause "$id" >/dev/null
until_true "a new leader after the pause" 30 other_leads "$victim"
say "pause of broker-$victim: another leads"
docker unpause "$id" >/dev/null
until_true "all in sync again" 60 all_in_sync

victim=$(leader 0); id=$(node "broker-$victim")
docker network disconnect "${COMPOSE_PROJECT_NAME}_default" "$id"
until_true "a new leader after the cut" 30 other_leads "$victim"
say "broker-$victim off the network: another leads"
docker network connect --alias "broker-$victim" "${COMPOSE_PROJECT_NAME}_default" "$id"
until_true "all in sync again" 60 all_in_sync

victim=$(active); id=$(node "controller-$victim")
docker kill -s KILL "$id" >/dev/null
began=$SECONDS
until_true "another active controller" 30 other_is_active "$victim"
say "kill -9 of controller-$victim: another is active after about $((SECONDS - began)) s"
cli topic create while-one-is-away --partitions 1 >/dev/null || fail "no topic can be created while a controller is away"
docker start "$id" >/dev/null
until_true "all nodes healthy" 60 healthy
until_true "all in sync again" 60 all_in_sync

# All at once: what was acknowledged is on disks.
docker kill -s KILL $(all_nodes) >/dev/null
docker start $(all_nodes) >/dev/null
until_true "all nodes healthy after kill -9 of all" 60 healthy
until_true "all in sync again" 60 all_in_sync
say "kill -9 of all at once: all are back"

touch "$work/enough"
writer_ended() { ! kill -0 "$writer" 2>/dev/null; }
until_true "the writer ends" 150 writer_ended
wait $writer || { writer=''; tail -n 3 "$work/reported"; fail "the writer failed"; }
writer=''
lines=$(wc -l <"$work/input")
live_has_all() { [ "$(wc -l <"$work/live")" -ge "$lines" ]; }
until_true "the reader has read all" 60 live_has_all
docker kill -s INT "$COMPOSE_PROJECT_NAME-reader" >/dev/null
reader_ended() { ! kill -0 "$reader" 2>/dev/null; }
until_true "the reader ends by a signal" 20 reader_ended
reader=''

read_all >"$work/read"
# The report has partition and offset of each line, in the order of the input.
paste -d' ' <(awk '{ print $1, $2 }' "$work/reported") "$work/input" | sort -n -k1,1 -k2,2 >"$work/promised"
same() { # what, wanted, found
  cmp -s "$2" "$3" && return
  echo "$1: $(wc -l <"$2") records were to be there, $(wc -l <"$3") are; wanted < > found, partition, offset, record:"
  diff "$2" "$3" | head -n 20
  exit 1
}
same "the log is not what was acknowledged" "$work/promised" "$work/read"
awk '{ split($3, it, ":"); if (it[2] + 0 <= last[it[1]] + 0) { print "out of order: " $0 " after " last[it[1]]; bad = 1 } last[it[1]] = it[2] }
  END { exit bad }' "$work/read"
sort -n -k1,1 -k2,2 "$work/live" >"$work/live.sorted"
same "what was read live is not what is in the log" "$work/read" "$work/live.sorted"
say "$lines acknowledged records: each once, where it was said, in order; read live the same"

began=$SECONDS
"${compose[@]}" stop >>"$work/said" 2>&1
for service in $nodes; do
  [ "$(docker inspect -f '{{.State.ExitCode}}' "$(node "$service")")" = 0 ] || fail "$service did not end in order"
done
say "stopped in order within $((SECONDS - began)) s"

"${compose[@]}" down >>"$work/said" 2>&1
[ -z "$(all_nodes)" ] || fail "containers are left after down"
up "new containers on the old volumes"
read_all >"$work/again"
same "the log has changed by a restart" "$work/read" "$work/again"
echo 'after:1' | cli produce orders --key-separator : >/dev/null || fail "no writes after the restart"
say "all data is there after a restart with new containers, and writes go on"
