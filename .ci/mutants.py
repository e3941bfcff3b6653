"""Adds up what `cargo mutants` found: prints the share of mutants that a test noticed, part by part, and those that
none did.

Fails below the share that the project asks for. Survivors with a reason stand in `.ci/mutants.txt`, one a line: the
mutant's name as cargo-mutants prints it, without line and column, then ` # ` and the reason."""

import json
import pathlib
import re
import sys

WANTED = 0.95
PARTS = {"src/engine/": "engine", "src/port/store/": "store", "src/opamp-client/": "session"}


def nameless(name: str) -> str:
    return re.sub(r":\d+:\d+:", ":", name)


def part_of(name: str) -> str:
    return next(part for start, part in PARTS.items() if name.startswith(start))


def main() -> int:
    excused = set()
    for line in pathlib.Path(".ci/mutants.txt").read_text().splitlines():
        name, mark, reason = line.partition(" # ")
        if not line.strip():
            continue
        if not mark or not reason.strip():
            print(f".ci/mutants.txt: no reason given: {line}")
            return 1
        excused.add(name.strip())
    tried = {part: [0, 0, 0] for part in PARTS.values()}  # noticed, survived for a reason, survived
    missed = []
    for out in map(pathlib.Path, sys.argv[1:]):
        report = out / "outcomes.json"
        if not report.exists():
            print(f"{out}: nothing was tried")
            return 1
        for outcome in json.loads(report.read_text())["outcomes"]:
            if outcome["scenario"] == "Baseline":
                if outcome["summary"] != "Success":
                    print(f"{out}: the tests fail without any mutant")
                    return 1
                continue
            name = outcome["scenario"]["Mutant"]["name"]
            if outcome["summary"] in ("CaughtMutant", "Timeout"):
                tried[part_of(name)][0] += 1
            elif outcome["summary"] == "MissedMutant":
                known = nameless(name) in excused
                tried[part_of(name)][1 if known else 2] += 1
                if not known:
                    missed.append(name)
    for name in missed:
        print(f"survived: {name}")
    total = [sum(column) for column in zip(*tried.values())]
    if sum(total) == 0:
        print("no mutant was tried")
        return 1
    for part, (noticed, known, survived) in [*tried.items(), ("all", total)]:
        count = noticed + known + survived
        share = f"{(noticed + known) / count:.1%}" if count else "nothing tried"
        told = f"{noticed} noticed, {known} survived for a reason, {survived} survived: {share}"
        print(f"{part:8} {count:5} tried, {told}")
    return 0 if (total[0] + total[1]) / sum(total) >= WANTED else 1


sys.exit(main())
