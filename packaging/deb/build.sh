#!/usr/bin/env bash
# Builds the Debian package and prints its path: the executable of packaging/static.sh, settings, unit, documents.
# The same sources give the same bytes. No root and nothing but Debian's essential programs is needed beside Rust.
#
#   packaging/deb/build.sh [--output DIR] [--version VERSION] [--executable FILE]
#
# VERSION is the package's, "<that of Cargo.toml>-1" by default; FILE is an executable that is built already.
# MAINTAINER names who answers for the package.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
die() { echo "packaging/deb/build.sh: $*" >&2; exit 1; }

output=${CARGO_TARGET_DIR:-$PWD/target}/packages
upstream=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
version=$upstream-1 executable=""
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "$1 needs a value"
  case $1 in
    --output) output=$2 ;;
    --version) version=$2 ;;
    --executable) executable=$2 ;;
    *) die "unknown argument $1" ;;
  esac
  shift 2
done
[[ $version =~ ^[0-9][A-Za-z0-9.+~-]*$ ]] || die "$version is not a version of a Debian package"
command -v dpkg-deb >/dev/null || die "no dpkg-deb; install the package dpkg"
[ -n "$executable" ] || executable=$(packaging/static.sh)
[ -x "$executable" ] || die "$executable is not an executable"

architecture=$(dpkg --print-architecture)
maintainer=${MAINTAINER:-Adjutant packagers <packages@adjutant.invalid>}
# Every time in the package is that of the last change of the sources.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
# More threads compress to other bytes.
export DPKG_DEB_THREADS_MAX=1

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 0755 "$root"

put() { install -D -m "$1" "$2" "$root$3"; }
put 0755 "$executable" /usr/bin/adjutant
put 0644 packaging/systemd/adjutant.service /lib/systemd/system/adjutant.service
for dropin in control-groups kernel-events low-ports; do
  put 0644 "packaging/systemd/$dropin.conf" "/usr/share/adjutant/systemd/$dropin.conf"
done
put 0644 packaging/deb/lintian-overrides /usr/share/lintian/overrides/adjutant

# The settings are the documented defaults, but for the state: a service has no home.
put 0640 supervisor.yaml /etc/adjutant/supervisor.yaml
settings=$root/etc/adjutant/supervisor.yaml
sed -i -e 's|^#storage:$|storage:|' -e 's|^  #directory: /var/lib/adjutant$|  directory: /var/lib/adjutant|' "$settings"
[ "$(diff supervisor.yaml "$settings" | grep -c '^>')" = 2 ] ||
  die "supervisor.yaml does not have the two lines of the state directory in the expected form"
chmod 0750 "$root/etc/adjutant"

documents=/usr/share/doc/adjutant
# What the house is built of and how it is proven is for those who have the sources.
for document in README.md docs/*.md; do
  case $document in docs/architecture.md | docs/conformance.md) continue ;; esac
  put 0644 "$document" "$documents/${document##*/}"
done
put 0644 packaging/deb/copyright "$documents/copyright"
cargo tree --locked --offline --edges normal --prefix none --format '{p}: {l}' |
  sed -n 's/^\([^ ]*\) v\([^ :]*\): /\1 \2: /p' | LC_ALL=C sort -u >"$root$documents/crates.txt"
[ -s "$root$documents/crates.txt" ] || die "cannot list the crates and their licences"
gzip -9n <CHANGELOG.md >"$root$documents/changelog.gz"
gzip -9n >"$root$documents/changelog.Debian.gz" <<END
adjutant ($version) stable; urgency=medium

  * Adjutant $upstream; /usr/share/doc/adjutant/changelog.gz says what changed.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do
  install -m 0755 "packaging/deb/$script" "$root/DEBIAN/$script"
done
echo /etc/adjutant/supervisor.yaml >"$root/DEBIAN/conffiles"
(cd "$root" && find etc lib usr -type f | LC_ALL=C sort | xargs md5sum) >"$root/DEBIAN/md5sums"
cat >"$root/DEBIAN/control" <<END
Package: adjutant
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f1)
Depends: adduser, init-system-helpers (>= 1.54~)
Recommends: ca-certificates, systemd
Section: admin
Priority: optional
Description: supervisor for telemetry agents that speaks OpAMP
 Adjutant takes the configs of one host's telemetry agents from a fleet server
 over OpAMP, applies each as a transaction that survives a crash at any step,
 proves that the agent runs it, goes back by itself when it does not hold, and
 reports what really runs. Its agents are its own data plane, OpenTelemetry
 Collectors, or any program that a profile describes.
END
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$output"
package=$output/adjutant_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null || die "dpkg-deb refused it (see above)"
echo "packaging: $package, $(stat -c %s "$package") bytes" >&2
echo "$package"
