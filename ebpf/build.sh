#!/usr/bin/env bash
# Compiles the kernel programs. The objects are committed, because who builds Adjutant needs no BPF compiler; with the
# pinned compiler and headers the result is the same byte for byte wherever the sources lie.
#   ebpf/build.sh          writes ebpf/*.bpf.o
#   ebpf/build.sh --check  builds elsewhere and fails if a committed object differs
# Needs Debian 12's clang-14, llvm-14 and libbpf-dev (tests/setup.sh installs them).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
die() { echo "ebpf/build.sh: $*" >&2; exit 1; }

clang_version=14.0.6
libbpf_version=1.1
clang=clang-14 strip=llvm-strip-14
headers=/usr/include/bpf

command -v "$clang" >/dev/null || die "no $clang; run as root: apt-get install clang-14"
command -v "$strip" >/dev/null || die "no $strip; run as root: apt-get install llvm-14"
[ -e "$headers/bpf_helpers.h" ] || die "no $headers/bpf_helpers.h; run as root: apt-get install libbpf-dev"
"$clang" --version | grep -q "clang version $clang_version" ||
  die "$clang is not $clang_version; another compiler makes other objects"
grep -qx "#define LIBBPF_MAJOR_VERSION ${libbpf_version%.*}" "$headers/libbpf_version.h" &&
  grep -qx "#define LIBBPF_MINOR_VERSION ${libbpf_version#*.}" "$headers/libbpf_version.h" ||
  die "the headers of libbpf are not $libbpf_version"

out=$PWD
if [ "${1:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi

differ=0
for source in *.bpf.c; do
  object=${source%.c}.o
  "$clang" -target bpf -mcpu=v2 -O2 -g -std=gnu11 -Wall -Wextra -Werror \
    -Wno-unused-parameter -Wno-missing-field-initializers -Wno-compare-distinct-pointer-types \
    -nostdinc -idirafter "$("$clang" -print-resource-dir)/include" -isystem "${headers%/bpf}" \
    -ffile-prefix-map="$PWD=ebpf" -fdebug-compilation-dir=ebpf -c "$source" -o "$out/$object"
  "$strip" -g "$out/$object"
  if [ "$out" != "$PWD" ] && ! cmp "$object" "$out/$object"; then
    differ=1
  fi
done
[ "$differ" -eq 0 ] || die "a committed object is not what its source compiles to; run ebpf/build.sh and commit"
