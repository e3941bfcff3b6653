#!/usr/bin/env bash
# Measures the client crate beside opamp-go's client: the same messages, the same server, the same run; prints one table
# and writes it into docs/opamp-client.md with `--write`. Needs what tests/setup.sh makes.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
peers=${ADJUTANT_PEERS_DIR:-$PWD/tests/peers/.cache}
for peer in opampserver opampclient; do
  [ -x "$peers/$peer" ] || { echo "benches/client.sh: no $peers/$peer; run tests/peers/build.sh" >&2; exit 1; }
done
ours=$(cargo bench --locked -p opamp-client --features polling --bench client --no-run --message-format=json |
  python3 -c 'import json, sys
for line in sys.stdin:
    made = json.loads(line)
    if made.get("executable") and made["target"]["name"] == "client":
        print(made["executable"])')
exec python3 benches/client.py --ours "$ours" --theirs "$peers/opampclient" --server "$peers/opampserver" "$@"
