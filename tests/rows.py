#!/usr/bin/env python3
"""Prints the acceptance rows as a table of this run: row, test, the modes it was played in, result (see tests/run.sh).

    tests/rows.py LOG [--partly]

LOG is what the test programs printed. The rows are those of docs/conformance.md that begin with E, and those of
docs/conformance/e2e.md that have no number. Fails when a test that a row names failed, or did not run; with `--partly`
a test may not have run, because somebody asked for some tests only.
"""

import os
import re
import sys

DOCUMENTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs")
LINE = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (\S+)")


def rows():
    """Each row with what it is about, the tests that it names, and its last cell."""
    with open(os.path.join(DOCUMENTS, "conformance.md")) as file:
        numbered = [line for line in file if re.match(r"\| E\d\d ", line)]
    with open(os.path.join(DOCUMENTS, "conformance/e2e.md")) as file:
        others = [line for line in file if line.startswith("| ") and "::" in line and not re.match(r"\| E\d\d ", line)]
    for line in numbered + others:
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        tests = [word for word in re.findall(r"`([^`]+)`", cells[-1]) if "::" in word]
        yield cells[0].split(" ")[0] if line in numbered else "", cells[-2] if len(cells) > 2 else cells[0], tests, cells[-1]


def results(log):
    with open(log, errors="replace") as file:
        return dict(match.groups() for match in map(LINE.match, file) if match)


def runs_of(test, found):
    """Mode → result; a test that is played in one way only has the mode `once`."""
    runs = {}
    for name, result in found.items():
        place = f"::{name}::".find(f"::{test}::")
        if place >= 0:
            runs[name[place + len(test):].strip(":") or "once"] = result
    return runs


def main():
    log, partly = sys.argv[1], "--partly" in sys.argv[2:]
    found = results(log)
    bad = 0
    print("acceptance rows:")
    for number, about, tests, shown in rows():
        head = f"  {number:<4}{about}"
        if not tests:
            print(f"{head}: {shown}")
            continue
        print(head)
        for test in tests:
            runs = runs_of(test, found)
            failed = sorted(mode for mode, result in runs.items() if result != "ok")
            result = "FAIL" if failed else "PASS" if runs else "not run"
            if failed or not runs and not partly:
                bad += 1
            modes = ", ".join(f"{mode} ({runs[mode]})" if mode in failed else mode for mode in sorted(runs))
            print(f"      {result:<8}{test}: {modes}")
    if bad:
        print(f"{bad} tests that a row names failed or did not run")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
