"""Adds up what `cargo mutants` found: prints the share of mutants that a test noticed and those that none did.

Fails below the share that the project asks for. Survivors with a reason stand in `.ci/mutants.txt`, one a line: the
mutant's name as cargo-mutants prints it, without line and column, then ` # ` and the reason."""

import json
import pathlib
import re
import sys

WANTED = 0.95


def main() -> int:
    excused = set()
    for line in pathlib.Path(".ci/mutants.txt").read_text().splitlines():
        if line.strip():
            excused.add(line.split(" # ")[0].strip())
    caught, missed, known = 0, [], 0
    for out in map(pathlib.Path, sys.argv[1:]):
        report = out / "outcomes.json"
        if not report.exists():
            print(f"{out}: nothing was tried")
            continue
        for outcome in json.loads(report.read_text())["outcomes"]:
            if outcome["scenario"] == "Baseline":
                if outcome["summary"] != "Success":
                    print(f"{out}: the tests fail without any mutant")
                    return 1
                continue
            mutant = outcome["scenario"]["Mutant"]
            name = re.sub(r":\d+:\d+:", ":", mutant["name"])
            if outcome["summary"] in ("CaughtMutant", "Timeout"):
                caught += 1
            elif outcome["summary"] == "MissedMutant":
                if name in excused:
                    known += 1
                else:
                    missed.append(mutant["name"])
    tried = caught + len(missed) + known
    if tried == 0:
        print("no mutant was tried")
        return 1
    for name in missed:
        print(f"survived: {name}")
    share = (caught + known) / tried
    print(f"mutants: {tried} tried, {caught} noticed, {known} survived for a reason, {len(missed)} survived: {share:.1%}")
    return 0 if share >= WANTED else 1


sys.exit(main())
