#!/usr/bin/env bash
# Builds the image `adjutant:VERSION`, and with --debug also `adjutant:VERSION-debug`, which has a shell. Needs Rust, a
# Docker Engine, and what Debian calls ca-certificates and (for --debug) busybox-static; no base image and no network.
#
#   --binary FILE      package this static executable instead of building one
#   --ca-bundle FILE   trust these roots instead of the system's; `none` for an image that trusts only what is mounted
#   --name NAME        name of the image, `adjutant` by default
#   --debug            build the variant with a shell too
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
binary="" ca_bundle=/etc/ssl/certs/ca-certificates.crt name=adjutant debug=no
die() { echo "packaging/docker/build.sh: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
  case $1 in
    --debug) debug=yes; shift; continue ;;
    --binary | --ca-bundle | --name) [ $# -ge 2 ] || die "$1 needs a value" ;;
    *) die "unknown argument $1; see the top of this file" ;;
  esac
  case $1 in
    --binary) binary=$2 ;;
    --ca-bundle) ca_bundle=$2 ;;
    --name) name=$2 ;;
  esac
  shift 2
done

command -v docker >/dev/null || die "no docker; install docker.io"
[ "$ca_bundle" = none ] || [ -s "$ca_bundle" ] ||
  die "no trusted roots at $ca_bundle; install ca-certificates, or give --ca-bundle FILE or none"
[ -n "$binary" ] || binary=$("$root/packaging/static.sh")
[ -x "$binary" ] || die "$binary is not an executable"
readelf -lW "$binary" | grep -q INTERP &&
  die "$binary needs a dynamic loader, which the image has not; packaging/static.sh builds one that does not"
version=$("$binary" --version | cut -d' ' -f2)
[ -n "$version" ] || die "$binary does not say its version"
revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || true)
# The time of the sources, so that one source makes one image.
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
put() { install -D -m "$1" "$2" "$context/$3"; }
text() { install -D -m 0644 /dev/stdin "$context/$1"; }

put 0755 "$binary" rootfs/usr/bin/adjutant
put 0644 "$root/LICENSE" rootfs/usr/share/doc/adjutant/LICENSE
[ "$ca_bundle" = none ] || put 0644 "$ca_bundle" rootfs/etc/ssl/certs/ca-certificates.crt
printf 'root:x:0:0:root:/:\nadjutant:x:65532:65532:adjutant:/var/lib/adjutant:\n' | text rootfs/etc/passwd
printf 'root:x:0:\nadjutant:x:65532:\n' | text rootfs/etc/group
# For agents that somebody adds; the supervisor looks there by itself.
printf 'hosts: files dns\n' | text rootfs/etc/nsswitch.conf
install -d -m 0755 "$context/rootfs/etc/adjutant" "$context/rootfs/host"
install -d -m 1777 "$context/rootfs/tmp"
install -d -m 0700 "$context/state/adjutant"

if [ "$debug" = yes ]; then
  busybox=$(command -v busybox) || die "no busybox; install busybox-static"
  readelf -lW "$busybox" | grep -q INTERP && die "$busybox is not static; install busybox-static"
  put 0755 "$busybox" debug/bin/busybox
  for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$context/debug/bin/$applet"
  done
else
  mkdir "$context/debug"
fi
find "$context" -exec touch --no-dereference --date="@$epoch" {} +

build() {
  local said
  # Kept for a failure: the engine calls its old builder deprecated, which nobody here can help.
  said=$(DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0} docker build --quiet --network none --target "$1" --tag "$2" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    --build-arg CREATED="$(date -u --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)" \
    --file "$here/Dockerfile" "$context" 2>&1) || die "docker cannot build $2: $said"
  echo "$2"
}
build adjutant "$name:$version"
[ "$debug" = no ] || build debug "$name:$version-debug"
