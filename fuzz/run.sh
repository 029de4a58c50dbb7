#!/usr/bin/env bash
# Runs each fuzz target for so many seconds (60 by default). Usage: run.sh [SECONDS [TARGET...]]
# Needs `cargo install cargo-fuzz` and a C++ compiler. libFuzzer's flags are unstable ones of rustc, which the stable one takes too
# where RUSTC_BOOTSTRAP says so. What was found is kept in corpus/, what failed in artifacts/.
set -euo pipefail
cd "$(dirname "$0")"
export RUSTC_BOOTSTRAP=1
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
for target in "${targets[@]}"; do
  echo "== $target"
  # What a length that is believed would ask for is far more than this (T47).
  cargo fuzz run "$target" -- -max_total_time="$seconds" -malloc_limit_mb=256 -rss_limit_mb=2048 -print_final_stats=1 2>&1 | tail -n 12
done
