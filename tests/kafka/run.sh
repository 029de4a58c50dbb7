#!/usr/bin/env bash
# Kafka's own clients against a real cluster. Usage: run.sh path/to/highwater [pytest's arguments]
# Needs kcat, and Python with venv; the Python clients come by pip into a temporary folder, or that of HIGHWATER_KAFKA_VENV.
set -euo pipefail
binary=$(realpath "$1"); shift
cd "$(dirname "$0")"
command -v kcat >/dev/null || { echo "kcat is not installed"; exit 1; }
venv=${HIGHWATER_KAFKA_VENV:-}
if [ -z "$venv" ]; then
  venv=$(mktemp -d)
  trap 'rm -rf "$venv"' EXIT
fi
if [ ! -x "$venv/bin/pytest" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement requirements.txt
fi
if [ ! -d "$venv/older" ]; then
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$venv/older" --requirement requirements-older.txt
fi
"$venv/bin/pytest" -p no:cacheprovider --quiet --tb=short --durations=5 --rootdir . -c pytest.ini "--binary=$binary" "${@:-.}"
