"""Starting commands, and killing them at random moments."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.runs.checkpoints import read_checkpoint
from ssl_zoo.runs.run import Run
from tests import processes
from tests.processes import Child

LONGEST = 300.0
"""Seconds after which a command is taken to hang."""


def start(arguments: list[str]) -> Child:
    """Start a command of ssl-zoo as a child process."""
    return Child(["-m", "ssl_zoo", *arguments])


def until(process: Child, happened: Callable[[], bool]) -> bool:
    """Wait for a condition; return False if the process ended before."""
    deadline = time.monotonic() + LONGEST
    while not happened():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return True


def start_and_signal(arguments: list[str], run: Path, number: int, after: int) -> int:
    """Start a run, send a signal after a number of logged lines, and return the exit code."""
    process = start([*arguments, "--out", str(run)])
    metrics = run / "metrics.jsonl"
    logged = until(process, lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= after)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert logged, output
    return process.returncode


@dataclass(frozen=True)
class Times:
    """The seconds from the start of a process to its first file, and to its end."""

    begun: float
    ended: float


def undisturbed(arguments: list[str], folder: Path) -> Times:
    """Run a command to its end, and return when it began to write and when it ended."""
    processes.run(["-c", ""])  # starts the server of children, whose imports are not the command's
    started = time.monotonic()
    process = start(arguments)
    until(process, lambda: any(folder.rglob("config.yaml")))
    begun = time.monotonic() - started
    _, output = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, output
    return Times(begun, time.monotonic() - started)


def kill(
    arguments: list[str], folder: Path, rng: random.Random, times: Times, writing: bool
) -> tuple[int, str]:
    """Start a command and kill it at a random moment, unless it ends before.

    Args:
        arguments: the command.
        folder: what it writes into.
        rng: chooses the moment.
        times: of the command when it is not disturbed.
        writing: whether to wait from then on until a file is being written.

    Returns:
        The exit code and the standard error.
    """
    moment = time.monotonic() + rng.uniform(0.8 * times.begun, times.ended)
    begun = time.time()
    process = start(arguments)
    if until(process, lambda: time.monotonic() > moment) and writing:
        until(process, lambda: _stopped_amid_a_write(process, folder, begun, rng.uniform(0, 0.002)))
    process.send_signal(signal.SIGKILL)
    _, output = process.communicate(timeout=LONGEST)
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode, output


def being_written(folder: Path, since: float) -> bool:
    """Return whether a file below a folder is there in part, written to after a time of the clock."""
    for part in folder.rglob(".*.part"):
        with contextlib.suppress(FileNotFoundError):  # it has become whole
            if part.stat().st_mtime > since:
                return True
    return False


def _stopped_amid_a_write(process: Child, folder: Path, begun: float, delay: float) -> bool:
    """Stop a process some seconds after it has begun to write; if it was done by then, let it go on."""
    if not being_written(folder, begun):
        return False
    time.sleep(delay)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.002)  # in which its threads come to a stand
    if being_written(folder, begun):
        return True
    process.send_signal(signal.SIGCONT)
    return False


def losses(run: Path) -> list[dict[str, float]]:
    """Return the logged values without the times."""
    return [
        {k: v for k, v in line.items() if k != "seconds"}
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    ]


def saved_step(run: Path) -> int:
    """Return the step of the last checkpoint of a run, 0 without one."""
    checkpoints = Run(run).checkpoints
    return int(checkpoints.load()["step"]) if checkpoints else 0


def resumed_step(output: str) -> int | None:
    """Return the step from which a run reports to resume, None if it reports nothing."""
    match = re.search(r"resuming from step ([\d,]+)", output)
    if match is not None:
        return int(match[1].replace(",", ""))
    return 0 if "run: " in output else None


def check_whole(folder: Path) -> None:
    """Check that each file below a folder that has its final name can be read to its end."""
    for file in folder.rglob("*"):
        if file.name == "config.yaml":
            assert set(read_yaml(file)) == {"task", "data", "backbone", "train", "provenance"}
        elif file.suffix == ".pt":
            assert read_checkpoint(file)["step"] > 0
        elif file.suffix == ".safetensors":
            assert load_file(file)
        elif file.suffix == ".json":
            assert json.loads(file.read_text())
        elif file.suffix == ".jsonl":
            *lines, _ = file.read_text().split("\n")
            assert all(json.loads(line) for line in lines)
