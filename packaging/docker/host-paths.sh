#!/usr/bin/env bash
# Prints a compose file in which only some of the host's paths can be read inside, each below /host:
#
#   packaging/docker/host-paths.sh /proc,/sys,/etc >packaging/docker/compose.mine.yaml
#
# The paths are the first argument or MOUNT_HOST_PATHS, with commas between; the file to start from is the second
# argument, compose.yaml by default.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() { echo "packaging/docker/host-paths.sh: $*" >&2; exit 1; }

paths=${1:-${MOUNT_HOST_PATHS:-}}
file=${2:-$here/compose.yaml}
[ -n "$paths" ] || die "no paths; name them with commas between, such as /proc,/sys,/etc"
grep -qx ' *- /:/host:ro' "$file" || die "$file has no line '- /:/host:ro' to replace"

mounts=""
IFS=, read -ra list <<<"$paths"
for path in "${list[@]}"; do
  case $path in
    / | /*[!/]) ;;
    *) die "'$path' is not an absolute path without a slash at its end" ;;
  esac
  case $path in
    *[!A-Za-z0-9/._-]* | */../* | */.. | *//*) die "'$path' has something in it that a path here may not have" ;;
  esac
  target=/host${path%/}
  mounts+="      - $path:$target:ro"$'\n'
done

while IFS= read -r line; do
  if [[ $line =~ ^\ *-\ /:/host:ro$ ]]; then
    printf '%s' "$mounts"
  else
    printf '%s\n' "$line"
  fi
done <"$file"
