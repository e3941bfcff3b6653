#!/usr/bin/env bash
# Builds the executables as `cargo build --release` does and measures them against the budgets; prints one table.
# Fails when an executable is larger than its budget, or when anything else takes more than twice its budget three times
# in a row: machines are noisy, sizes are not. A start and an apply are granted besides what this disk needs for their
# syncs alone.
# `benches/budgets.sh --only NAME` measures only rows with NAME in them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

# As `cargo build --release` makes them for anybody; the two share what they both need.
build() {
  CARGO_INCREMENTAL=0 cargo build --locked --quiet --release --bin adjutant --target-dir "$target" "$@"
  cp "$target/release/adjutant" "$out/$name"
}

out=$target/budgets
mkdir -p "$out"
for name in supervisor full; do
  started=$SECONDS
  case $name in
    supervisor) build --no-default-features ;;
    full) build --all-features ;;
  esac
  echo "built $name in $((SECONDS - started)) s"
done
rustc --edition 2024 -O -o "$out/stamp" benches/stamp/stamp.rs
exec python3 benches/budgets.py --supervisor "$out/supervisor" --full "$out/full" --stamp "$out/stamp" "$@"
