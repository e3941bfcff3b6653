#!/usr/bin/env bash
# Builds the smallest supervisor, and the executable as it is packaged, and measures them against the budgets; prints
# one table.
# Fails when an executable is larger than its budget, or when anything else takes more than twice its budget three times
# in a row: machines are noisy, sizes are not. A start and an apply are granted besides what this disk needs for their
# syncs alone.
# `benches/budgets.sh --only NAME` measures only rows with NAME in them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

out=$target/budgets
mkdir -p "$out"
started=$SECONDS
# Linking takes one processor, so the two are built side by side: in directories of their own, or cargo lets one wait.
packaging/static.sh >"$out/static" &
static=$!
trap 'kill "$static" 2>/dev/null || true' EXIT
CARGO_INCREMENTAL=0 cargo build --locked --quiet --release --bin adjutant --no-default-features \
  --target-dir "$out/build"
cp "$out/build/release/adjutant" "$out/supervisor"
wait "$static"
trap - EXIT
cp "$(cat "$out/static")" "$out/full"
echo "built both in $((SECONDS - started)) s"
rustc --edition 2024 -O -o "$out/stamp" benches/stamp/stamp.rs
exec python3 benches/budgets.py --supervisor "$out/supervisor" --full "$out/full" --stamp "$out/stamp" "$@"
