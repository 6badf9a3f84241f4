"""Measure how much of its speed training keeps while other processes use the processors.

In turn, undisturbed and beside busy processes, `ssl-zoo bench` measures the images per second of full
training in a process of its own, with the threads that its trial chooses, as a run of some seconds does.

python benchmarks/busy.py --task simclr
python benchmarks/busy.py --task moco --neighbours 1 --json busy.json -- --precision fp32
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENOUGH = 0.55
"""The share of the undisturbed speed that a run should keep beside one busy process on two cores."""


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """Keep processors busy with this number of processes."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(task: str, seconds: float, rest: list[str]) -> dict[str, Any]:
    """Return what `ssl-zoo bench` measures of a task."""
    command = [sys.executable, "-m", "ssl_zoo", "bench", "--task", task, "--seconds", str(seconds)]
    printed = subprocess.run(
        [*command, "--json", "--quiet", *rest], check=True, stdout=subprocess.PIPE
    ).stdout
    measured: dict[str, Any] = json.loads(printed)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="simclr")
    parser.add_argument("--neighbours", type=int, default=1, help="number of busy processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("rest", nargs="*", help="further options of `ssl-zoo bench`, after --")
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        alone = measure(arguments.task, arguments.seconds, arguments.rest)
        with neighbours(arguments.neighbours):
            beside = measure(arguments.task, arguments.seconds, arguments.rest)
        speeds = [measured["samples_per_s"] for measured in (alone, beside)]
        rounds.append({"alone": alone, "beside": beside, "kept": speeds[1] / speeds[0]})
        print(
            f"{number + 1}: {speeds[0]:,.0f} images/s alone ({alone['device']}), "
            f"{speeds[1]:,.0f} beside {arguments.neighbours} busy ({beside['device']}): "
            f"keeps {rounds[-1]['kept']:.2f}",
            flush=True,
        )
    kept = statistics.median(round_["kept"] for round_ in rounds)
    print(f"keeps {kept:.2f} of its speed (median; aim: {ENOUGH})")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"kept": kept, "rounds": rounds}, indent=2))


if __name__ == "__main__":
    main()
