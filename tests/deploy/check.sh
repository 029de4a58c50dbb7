#!/usr/bin/env bash
# What deploys Highwater, checked without running it: Compose file, Kubernetes manifests, systemd unit, Prometheus and Grafana.
# Each by a linter, and by rules of our own (manifests.py). Needs Python with venv and, where a tool is missing, apt-get.
#   tests/deploy/check.sh target/release/highwater
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "WRONG: $*"; exit 1; }
# The lists of packages may be old, or not there.
from_apt() { apt-get -qq "$@" || { apt-get -qq update && apt-get -qq "$@"; }; }

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/deploy/requirements.txt
HIGHWATER="$binary" "$work/venv/bin/python" tests/deploy/manifests.py

if command -v kubectl >/dev/null; then
  kubectl kustomize deploy/kubernetes >"$work/kustomized" || fail "deploy/kubernetes can't be built"
  echo "kustomize: $(grep -c '^kind:' "$work/kustomized") objects"
else
  echo "kustomize: no kubectl here; manifests.py has read the files as they are"
fi

found=0
for compose in "docker compose" docker-compose; do
  $compose version >/dev/null 2>&1 || continue
  $compose config -q || fail "$compose does not take docker-compose.yml"
  $compose --profile observability --profile cli config -q || fail "$compose does not take its profiles"
  echo "$compose: takes docker-compose.yml"
  found=1
done
[ $found = 1 ] || echo "Compose: not here; manifests.py has read docker-compose.yml"

# promtool: out of its package, which is not installed, as it would start a server.
promtool=$(command -v promtool || true)
if [ -z "$promtool" ]; then
  # As whoever fetches packages, who may not write to a folder of ours.
  (cd "$work" && from_apt -o APT::Sandbox::User=root download prometheus)
  dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/promtool
  promtool=$work/usr/bin/promtool
fi
"$promtool" check config deploy/prometheus/prometheus.yml
"$promtool" check rules deploy/prometheus/alerts.yml >/dev/null

command -v systemd-analyze >/dev/null && command -v systemd-sysusers >/dev/null || from_apt install -y --no-install-recommends systemd >/dev/null
# The unit in a tree of its own, among those of the system that it names.
root=$work/root
mkdir -p "$root/usr/bin" "$root/etc/highwater" "$root/usr/lib/systemd" "$root/etc/systemd/system"
cp -r /lib/systemd/system "$root/usr/lib/systemd/"
ln -s usr/lib "$root/lib"
install -m 755 "$binary" "$root/usr/bin/highwater"
cp deploy/systemd/highwater.service "$root/etc/systemd/system/"
# It says what it does not know, and passes.
systemd-analyze verify --man=no --recursive-errors=no --root="$root" highwater.service 2>&1 | tee "$work/verified"
[ ! -s "$work/verified" ] || fail "systemd-analyze verify has something to say of highwater.service"
# In tenths of an "exposure" from 0 to 10.
systemd-analyze security --offline=true --threshold=20 --no-pager --root="$root" highwater.service >"$work/security" || {
  grep -v '^✓' "$work/security" || true
  fail "highwater.service is less contained than it was"
}
tail -n 1 "$work/security"
# A user, in a tree without any.
systemd-sysusers --root="$root" "$PWD/deploy/systemd/highwater.sysusers"
grep -q '^highwater:' "$root/etc/passwd" || fail "highwater.sysusers makes no user highwater"
"$root/usr/bin/highwater" config check --config deploy/systemd/highwater.toml
