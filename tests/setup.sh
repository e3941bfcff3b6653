#!/usr/bin/env bash
# Installs what the tests need on Debian 12 or newer and builds the peers in tests/peers. Run it as root; run it again
# whenever you like: what is there is left alone, and the package lists are fetched only when something is missing.
# Rust is not installed here. No service is started.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# What must run, and the package that brings it.
needs=(
  cc:build-essential
  git:git
  curl:curl
  jq:jq
  chromium:chromium
  victoria-metrics:victoria-metrics
  strace:strace
  pebble:pebble
  openssl:openssl
  nginx:nginx-light
  rsyslogd:rsyslog
  logger:bsdutils
  ps:procps
  unshare:util-linux
  ip:iproute2
  mkfs.ext4:e2fsprogs
  python3:python3
  clang-14:clang-14
  llvm-strip-14:llvm-14
  bpftool:bpftool
  debootstrap:debootstrap
  systemd-nspawn:systemd-container
  lintian:lintian
  dockerd:docker.io
  docker-compose:docker-compose
  busybox:busybox-static
  readelf:binutils
  node:nodejs
  npm:npm
  tinyproxy:tinyproxy-bin
)

die() { echo "tests/setup.sh: $*" >&2; exit 1; }

# Prints the missing packages, one per line.
missing() {
  local need
  for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || echo "${need#*:}"
  done
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  [ -e /usr/include/bpf/bpf_helpers.h ] || echo libbpf-dev
}

# Debian starts a service as soon as its package is installed, unless this file says no.
policy=/usr/sbin/policy-rc.d
forbid_services() {
  [ ! -e "$policy" ] || return 0
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
  trap 'rm -f "$policy"' EXIT
}

started=$SECONDS
mapfile -t packages < <(missing)
if [ ${#packages[@]} -eq 0 ]; then
  echo "setup: every package is there"
else
  command -v apt-get >/dev/null || die "this is not Debian; install by hand: ${packages[*]}"
  [ "$(id -u)" -eq 0 ] || die "not root; run as root: apt-get install ${packages[*]}"
  echo "setup: installing ${packages[*]}"
  forbid_services
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q -o Acquire::Retries=3 update || die "cannot fetch the package lists (see above)"
  apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends "${packages[@]}" ||
    die "cannot install ${packages[*]} (see above)"
  mapfile -t packages < <(missing)
  [ ${#packages[@]} -eq 0 ] || die "still missing after the installation: ${packages[*]}"
  echo "setup: packages ready after $((SECONDS - started)) s"
fi

started=$SECONDS
"$here/peers/build.sh"
"$here/peers/debian.sh"
echo "setup: peers ready after $((SECONDS - started)) s"
