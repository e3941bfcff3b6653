#!/usr/bin/env bash
# Measures what kernel events cost in the kernel, by kind, and prints one table. Run it as root. Uses the executable
# that benches/budgets.sh built, or builds it. Fails when a program takes more than twice its budget.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
die() { echo "benches/kernel.sh: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || die "not root; kernel programs need privileges"
target=${CARGO_TARGET_DIR:-$PWD/target}

executable=$target/budgets/full
[ -x "$executable" ] || executable=$(packaging/static.sh)
exec python3 benches/kernel.py "$executable"
