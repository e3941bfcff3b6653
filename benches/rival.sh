#!/usr/bin/env bash
# Measures Adjutant, as it is packaged (the static executable of packaging/static.sh), beside a real opampsupervisor, on
# the same Collector and the same kind of server (tests/peers), in one run; prints one table. Takes a quarter of an
# hour, for both wait a good while at the default times; `--rounds 1 --rest 10` takes three minutes.
# `--write` puts the table into README.md. Everything listens on loopback and is ended.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
peers=${ADJUTANT_PEERS_DIR:-$PWD/tests/peers/.cache}
for name in otelcol opampserver opampsupervisor; do
  [ -x "$peers/$name" ] || { echo "benches/rival.sh: no $peers/$name; run tests/peers/build.sh" >&2; exit 1; }
done
adjutant=$(packaging/static.sh)
exec python3 benches/rival.py --adjutant "$adjutant" --peers "$peers" "$@"
