"""Measure how long the conformance suite takes: seconds per check and per task.

A run checks each task as `ssl-zoo check NAME` does. A task should take under 8 seconds on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ssl_zoo.plugins.registry import registry
from ssl_zoo.testing import checks_of, run_checks


def measure(name: str) -> dict[str, float]:
    """Return the seconds that each check of a task takes."""
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    for result in run_checks(checks_of(name)):
        end = time.perf_counter()
        seconds[result.check.name] = end - start
        start = end
        if result.bad:
            print(f"{name} fails {result.check.name}: {result.note}")
    return seconds


def table(seconds: dict[str, dict[str, float]]) -> str:
    """Return a table with a row for each check and a column for each task."""
    names = list(seconds)
    checks = list(next(iter(seconds.values())))
    width = max(map(len, checks))
    rows = [" " * width + "".join(f"{name:>{len(name) + 2}}" for name in names)]
    for check in checks:
        cells = (f"{seconds[name][check]:>{len(name) + 2}.2f}" for name in names)
        rows.append(f"{check:{width}}" + "".join(cells))
    totals = (f"{sum(seconds[name].values()):>{len(name) + 2}.2f}" for name in names)
    return "\n".join([*rows, f"{'total':{width}}" + "".join(totals)])


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", help="names of tasks; all installed ones if left out")
    parser.add_argument("--json", type=Path, help="write the seconds to this file")
    arguments = parser.parse_args()
    seconds = {name: measure(name) for name in arguments.tasks or registry.tasks()}
    print(table(seconds))
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=2) + "\n")


if __name__ == "__main__":
    main()
