#!/usr/bin/env bash
# Makes the small Debian that the systemd tests boot: ${ADJUTANT_PEERS_DIR:-tests/peers/.cache}/debian, from the mirror
# that apt uses here. The tests mount it read-only below their own changes; what is there is left alone. Run it as root.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${ADJUTANT_PEERS_DIR:-$here/.cache}
suite=bookworm
packages=systemd,systemd-sysv,dbus,adduser
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

die() { echo "tests/peers/debian.sh: $*" >&2; exit 1; }

# The first mirror of Debian's own that apt knows; distributions beside it have mirrors too.
mirror() {
  local found
  found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1)
  echo "${found:-http://deb.debian.org/debian}"
}

main() {
  local started=$SECONDS key="$suite $packages" from
  mkdir -p "$cache" || die "cannot make the cache directory $cache"
  cache=$(cd "$cache" && pwd)
  # Two test runs on one machine build once. The tests hold the same lock while they run one.
  exec 9>"$cache/debian.lock"
  flock 9
  if [ -x "$cache/debian/lib/systemd/systemd" ] && [ "$(cat "$cache/debian.key" 2>/dev/null)" = "$key" ]; then
    echo "peers: debian is up to date"
    return
  fi
  [ "$(id -u)" -eq 0 ] || die "not root; debootstrap makes device nodes and changes its root"
  command -v debootstrap >/dev/null || die "no debootstrap; install the package debootstrap"
  rm -rf "$cache/debian" "$cache/debian.key" "$cache/debian.new"
  from=$(mirror)
  echo "peers: fetching debian $suite from $from; about a minute"
  debootstrap --variant=minbase --include="$packages" "$suite" "$cache/debian.new" "$from" \
    >"$cache/debian.log" 2>&1 || { tail -n 20 "$cache/debian.log" >&2; die "debootstrap did not succeed (see above)"; }
  rm -rf "$cache/debian.new"/var/cache/apt/archives/*.deb "$cache/debian.new"/var/lib/apt/lists/*
  mv "$cache/debian.new" "$cache/debian"
  echo "$key" >"$cache/debian.key"
  echo "peers: debian ready after $((SECONDS - started)) s, $(du -sm "$cache/debian" | cut -f1) MiB"
}

main
exit
