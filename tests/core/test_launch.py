"""Several processes end together, in one line, or start again and go on as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from ssl_zoo.runs.restarts import RUN_FOLDER
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.error_file import LAUNCHED, RENDEZVOUS, ErrorRecord, write_error
from ssl_zoo.runtime.launch import _Running, describe
from tests.conftest import KNN, flags, ssl_zoo
from tests.processes import Child

PLUGIN = '''
import os
from ssl_zoo_vision.predictive.rotation import Rotation


class Doomed(Rotation):
    """Rotation, in which a process has an accident after the first checkpoint: RANK:START:ACCIDENT."""

    name = "doomed"

    def loss(self, views):
        rank, start, accident = os.environ["DOOM"].split(":")
        here = (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"])
        if here == (rank, start) and os.path.exists(os.environ["CHECKPOINT"]):
            if accident == "error":
                raise RuntimeError("the device is gone")
            os.kill(os.getpid(), int(accident))
        return super().loss(views)
'''
KILLED = f"1:0:{signal.SIGKILL:d}"
"""Rank, restart and signal: the second of two processes is killed, but not after a restart."""
DEATH = "rank 1 was ended by SIGKILL, as happens where memory runs out"


@pytest.fixture(name="plugin", scope="module")
def plugin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plugin") / "doomed.py"
    file.write_text(PLUGIN)
    return file


def variables(out: Path, doom: str = "::") -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", "DOOM": doom, "CHECKPOINT": str(Run(out).checkpoints.file)}


def arguments(plugin: Path, out: Path) -> list[str]:
    settings = flags("doomed", train__checkpoint_seconds=0, train__samples=640, train__epochs="null")
    return ["--plugin", str(plugin), "train", *KNN, *settings, "--out", str(out)]


def outcome(folder: Path) -> tuple[list[tuple[int, float]], dict[str, torch.Tensor]]:
    """Return the losses by step, and the weights of the last checkpoint."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    return losses, Run(folder).checkpoints.load()["task"]


def assert_same(folder: Path, other: Path) -> None:
    """Assert that two runs are equal to the bit."""
    (losses, weights), (expected, tensors) = outcome(folder), outcome(other)
    assert losses == expected
    assert len(losses) == 5
    assert weights.keys() == tensors.keys()
    assert all(torch.equal(weights[name], tensors[name]) for name in weights)


@pytest.fixture(name="undisturbed", scope="module")
def undisturbed_run(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = ssl_zoo(*arguments(plugin, out), "--devices", "2", **variables(out))
    assert done.returncode == 0, done.stderr
    return out


def test_a_killed_rank_restarts_all_and_the_run_is_that_of_an_undisturbed_one(
    plugin: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, how = tmp_path / "run", ["--devices", "2", "--max-restarts", "1"]
    done = ssl_zoo(*arguments(plugin, out), *how, **variables(out, KILLED))
    assert done.returncode == 0, done.stderr
    assert f"warning: {DEATH}; restart 1 of 1" in done.stderr.splitlines()
    assert re.search("^resuming from step [1-4]$", done.stderr, re.MULTILINE)
    assert_same(out, undisturbed)


@pytest.mark.parametrize(
    ("accident", "code", "message"),
    [
        (f"{signal.SIGKILL:d}", 137, f"{DEATH}; resume with: ssl-zoo"),
        pytest.param("error", 1, "rank 1: ", marks=pytest.mark.slow),
    ],
    ids=["killed", "error"],
)
def test_the_end_of_a_rank_is_one_line(
    plugin: Path, tmp_path: Path, accident: str, code: int, message: str
) -> None:
    out = tmp_path / "run"
    given = ["--quiet", *arguments(plugin, out), "--devices", "2"]
    done = ssl_zoo(*given, **variables(out, f"1:0:{accident}"))
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"error: {message}")
    assert "Traceback" not in done.stderr
    if code == 137:
        hint = f"ssl-zoo --plugin {plugin} train --resume {out} --devices 2"
        assert lines[0].endswith(f"; resume with: {hint}")


def test_wrong_input_starts_nothing_again_and_leaves_nothing(tmp_path: Path) -> None:
    settings, how = flags("simclr", train__optimizer="sgdx"), ["--devices=2", "--max-restarts=3"]
    done = ssl_zoo("--quiet", "train", *settings, *how, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: train.optimizer: timm has no optimiser 'sgdx'")
    assert list(tmp_path.iterdir()) == []


# ---- torchrun, and several machines


def torchrun(*given: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *map(str, given)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.slow
def test_torchrun_restarts_a_run_too(plugin: Path, undisturbed: Path, tmp_path: Path) -> None:
    out, how = tmp_path / "run", ["--nproc-per-node=2", "--max-restarts=1", "-m", "ssl_zoo"]
    process = torchrun(*how, *arguments(plugin, out), **variables(out, KILLED))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert re.search("^resuming from step [1-4]$", output, re.MULTILINE)
    assert_same(out, undisturbed)


@pytest.mark.slow
def test_torchrun_restarts_only_a_run_that_processes_find_again(plugin: Path) -> None:
    given = arguments(plugin, Path("run"))[:-2]
    process = torchrun("--nproc-per-node=1", "--max-restarts=1", "-m", "ssl_zoo", *given)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "torchrun --max-restarts requires --out, where restarted processes find the run" in output


@pytest.mark.slow
def test_two_nodes_of_torchrun_are_two_processes(
    plugin: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, where = tmp_path / "run", f"--rdzv-endpoint=localhost:{free_port()}"
    how = ["--nnodes=2", "--rdzv-backend=c10d", where, "--local-addr=localhost", "-m", "ssl_zoo"]
    nodes = [torchrun(*how, *arguments(plugin, out), **variables(out)) for _ in range(2)]
    for node in nodes:
        output, _ = node.communicate(timeout=300)
        assert node.returncode == 0, output
    assert_same(out, undisturbed)


@pytest.mark.slow
def test_two_launchers_that_meet_restart_together(
    plugin: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    rendezvous = {RENDEZVOUS: f"2 localhost:{free_port()} job localhost", RUN_FOLDER: str(out)}
    main = ["-m", "ssl_zoo", *arguments(plugin, out), "--max-restarts", "2"]
    environment = {**os.environ, **variables(out, KILLED), **rendezvous}
    nodes = [Child(main, env=environment) for _ in range(2)]
    for node in nodes:
        _, err = node.communicate(timeout=300)
        assert node.returncode == 0, err
    assert_same(out, undisturbed)


@pytest.mark.parametrize(
    ("number", "connected"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)]
)
def test_a_signal_ends_the_wait_for_another_machine(
    tmp_path: Path, number: signal.Signals, connected: bool
) -> None:
    main = ["-m", "ssl_zoo", "--quiet", "train", *flags("simclr"), "--out", str(tmp_path / "run")]
    with contextlib.ExitStack() as stack:
        if connected:
            port = free_port()
        else:  # another machine, which does not answer yet
            mute = stack.enter_context(socket.create_server(("localhost", 0)))
            mute.settimeout(60)
            port = mute.getsockname()[1]
        node = Child(main, env={**os.environ, RENDEZVOUS: f"2 localhost:{port} job localhost"})
        stack.callback(node.kill)
        if connected:
            store = TCPStore("localhost", port, is_master=False, timeout=timedelta(seconds=60))
            store.wait(["torch.rendezvous.job"])  # it has joined
        else:
            stack.enter_context(mute.accept()[0])
        node.send_signal(number)
        _, err = node.communicate(timeout=20)
    assert (node.returncode, err) == (128 + number, "error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("system", "sent"), [("posix", [(7, signal.SIGINT)]), ("nt", [])])
def test_ctrl_c_is_passed_on_unless_the_console_of_windows_does(
    monkeypatch: pytest.MonkeyPatch, system: str, sent: list[tuple[int, int]]
) -> None:
    running, killed = _Running(), list[tuple[int, int]]()
    running.pids = [7]
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda *given: killed.append(given))
        patch.setattr(os, "name", system)
        assert running.send_signal(signal.SIGINT)
    assert killed == sent
    assert running.stopped_by == signal.SIGINT


# ---- which of several errors is the cause


def failure(
    folder: Path, rank: int, exitcode: int, record: ErrorRecord | None, later: int = 0
) -> ProcessFailure:
    """Return the failure of a process that has written an error, seen so many seconds later."""
    file = folder / f"error-{rank}-{exitcode}.json"
    if record is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
            assert not write_error(record)  # no launcher prints it
            patch.setenv(LAUNCHED, "1")
            assert write_error(record)
    failed = ProcessFailure(rank, 1, exitcode, str(file))
    failed.timestamp += later
    return failed


LOST = ErrorRecord("another process has ended", 1, consequence=True)
OWN = ErrorRecord("broken", 1)
SAVED = ErrorRecord("stopped and saved", 143)


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "message", "code"),
    [
        ((1, LOST, 0), (-9, None, 0), "rank 1 was ended by SIGKILL, as happens", 137),
        ((1, LOST, 0), (1, OWN, 0), "rank 1: broken", 1),
        ((1, OWN, 0), (1, OWN, 0), "broken", 1),
        ((1, OWN, 0), (-15, None, 0), "rank 0: broken", 1),
        ((143, SAVED, 0), (-11, None, 0), "rank 1 was ended by SIGSEGV", 139),
        ((143, SAVED, 0), (143, SAVED, 0), "stopped and saved", 143),
        ((143, SAVED, 0), (1, LOST, 0), "stopped and saved", 143),
        ((2, ErrorRecord("wrong", 2), 0), (143, SAVED, 0), "wrong", 2),
        ((7, None, 0), (1, LOST, 0), "rank 0 ended with code 7", 7),
    ],
)
def test_the_error_is_that_of_the_process_that_failed_by_itself(
    tmp_path: Path,
    first: tuple[int, ErrorRecord | None, int],
    second: tuple[int, ErrorRecord | None, int],
    message: str,
    code: int,
    forced: bool,
) -> None:
    failures = {rank: failure(tmp_path, rank, *given) for rank, given in enumerate((first, second))}
    record = describe(failures, forced=forced)
    assert record.message.startswith(message)
    assert record.code == code


@pytest.mark.parametrize(("forced", "message"), [(True, "rank 0: broken"), (False, "rank 1 was ended")])
def test_a_late_death_is_no_cause_if_torch_ended_some_by_force(
    tmp_path: Path, forced: bool, message: str
) -> None:
    """Without force, the clock of the day has jumped between the two."""
    failures = {0: failure(tmp_path, 0, 1, OWN), 1: failure(tmp_path, 1, -9, None, later=30)}
    assert describe(failures, forced=forced).message.startswith(message)
