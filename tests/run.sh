#!/usr/bin/env bash
# Installs what the tests need (tests/setup.sh) and runs all of them, also those that need root or a foreign program.
# Run it as root on Debian 12 or newer with Rust and a C compiler. Nothing is skipped: a test that misses something
# fails and says what. Prints how long each phase took, what became of each acceptance row, and in the end how many
# tests passed and failed.
#
# Further arguments go to the test programs: `tests/run.sh proof` runs the tests with "proof" in their names.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
die() { echo "tests/run.sh: $*" >&2; exit 1; }

command -v cargo >/dev/null || die "no cargo; install Rust 1.95 or newer from https://rustup.rs"
[ "$(id -u)" -eq 0 ] || die "not root; some tests make users, mounts and process namespaces of their own"

export ADJUTANT_PEERS_DIR=${ADJUTANT_PEERS_DIR:-$PWD/tests/peers/.cache}
export CARGO_TERM_COLOR=never

phases=()
phase() {
  local name=$1 started=$SECONDS
  shift
  echo "== $name"
  "$@" || die "$name failed (see above)"
  phases+=("$(printf '%6d s  %s' $((SECONDS - started)) "$name")")
}

# The test programs of all crates but two: the simulation computes, so it is built as its long series are (profile
# `histories`), and the black box mostly waits, so that more of its tests run at a time than there are processors.
programs=(--lib --bins)
for file in tests/*.rs src/opamp-client/tests/*.rs tests/*/main.rs src/opamp-client/tests/*/main.rs; do
  [ -e "$file" ] || continue
  name=${file%/main.rs}
  name=$(basename "${name%.rs}")
  case $name in sim | it) ;; *) programs+=(--test "$name") ;; esac
done
at_a_time=${ADJUTANT_TESTS_AT_A_TIME:-$(($(nproc) + 1))}
suite() { cargo test --locked --workspace --all-features --no-fail-fast "$@"; }

# Everything is built before anything runs, so that no test shares the processors with a compiler.
build_tests() {
  suite "${programs[@]}" --test it --no-run && suite --profile histories --test sim --no-run
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
run_tests() {
  local status=0
  suite "${programs[@]}" -- --include-ignored "$@" || status=$?
  suite --profile histories --test sim -- --include-ignored "$@" || status=$?
  suite --test it -- --include-ignored --test-threads "$at_a_time" "$@" || status=$?
  suite --doc -- --include-ignored "$@" || status=$?
  return "$status"
}

phase "packages and peers" tests/setup.sh
phase "build the tests" build_tests
phase "build the static executable" packaging/static.sh

started=$SECONDS
echo "== tests"
status=0
run_tests "$@" 2>&1 | tee "$log" || status=$?
phases+=("$(printf '%6d s  %s' $((SECONDS - started)) tests)")

# One line for all test programs; each has said its own above.
count() { awk -v word="$1" '/^test result: / { for (i = 2; i <= NF; i++) if ($i ~ "^" word) sum += $(i - 1) }
  END { print sum + 0 }' "$log"; }
passed=$(count passed) failed=$(count failed) ignored=$(count ignored)

echo
echo "phases:"
printf '%s\n' "${phases[@]}"
if [ "$status" -ne 0 ]; then
  echo "failed tests:"
  grep -E '^test .* \.\.\. FAILED' "$log" ||
    echo "  none by name: a test program did not finish (exit $status, see above)"
  [ "$failed" -gt 0 ] || failed=1
fi
[ "$ignored" -eq 0 ] || { echo "$ignored tests did not run, and nothing may be skipped"; status=1; }
[ "$passed" -gt 0 ] || { echo "no test ran"; status=1; }
echo
if [ $# -eq 0 ]; then tests/rows.py "$log" || { [ "$failed" -gt 0 ] || failed=1; status=1; }
else tests/rows.py "$log" --partly || true; fi
echo
echo "$passed passed, $failed failed"
exit "$status"
