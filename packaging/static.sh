#!/usr/bin/env bash
# Builds the executable as it is packaged, with all features of a release and without a dynamic loader, and prints its
# path. The C library is inside, so it runs on any Linux of this processor, whatever that has installed, and in an
# empty image.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
triple=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-$PWD/target}
crates=${CARGO_HOME:-${HOME:-/root}/.cargo}

# Without --target these flags would reach build scripts and macros too, which cannot be static. Words are separated
# by the unit separator, because the path may hold spaces.
CARGO_ENCODED_RUSTFLAGS=$(printf -- '-Ctarget-feature=+crt-static\x1f--remap-path-prefix=%s=/cargo' "$crates")
export CARGO_ENCODED_RUSTFLAGS CARGO_INCREMENTAL=0
# Whoever is run by cargo, as a test is, has variables that name its package. The build script of ring looks at them,
# and with other values it, and whatever stands on it, would be built once more.
unset "${!CARGO_PKG_@}" "${!CARGO_MANIFEST_@}"
# The profile is for the smallest build. What is packaged carries the data plane and has room: it is built for speed
# too.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=s
cargo build --locked --quiet --release --bin adjutant --target "$triple" --target-dir "$target" >&2

echo "$target/$triple/release/adjutant"
