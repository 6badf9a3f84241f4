"""Pipes that close and signals that come while a command starts, in processes as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_zoo.runs.run import Run
from tests import processes
from tests.conftest import KNN, command, flags
from tests.processes import Child

COMPLAINT = "error: interrupted; nothing was written\n"


# ---- standard output and standard error


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line in bash, with ``ssl-zoo`` as the command; the exit codes of a pipe count."""
    program = f'set -o pipefail; ssl-zoo() {{ "{sys.executable}" -m ssl_zoo "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", program], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "line",
    [
        *("ssl-zoo tasks | head -1", "ssl-zoo tasks | true", "ssl-zoo tasks --json | true"),
        *("ssl-zoo --help | head -1", "ssl-zoo train -h | true", "ssl-zoo plugins | true"),
        *("ssl-zoo config default | head -1", "PYTHONUNBUFFERED=1 ssl-zoo tasks | true"),
        *("ssl-zoo tasks >&-", "ssl-zoo tasks >&- 2>&-", "ssl-zoo tasks <&- >&- 2>&-"),
    ],
)
def test_output_that_nobody_reads_is_no_error(tmp_path: Path, line: str) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["ssl-zoo tasks zz 2>&-", "ssl-zoo tasks zz 2>&1 | true"])
def test_a_mistake_that_nobody_reads_has_its_exit_code(tmp_path: Path, line: str) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = shell("ssl-zoo tasks > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


def broken_pipes() -> None:
    """Let both streams of this process write to a pipe that nobody reads, as ``2>&1 | true`` does."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)


def closed_streams() -> None:
    """Close both streams of this process, as ``>&- 2>&-`` does."""
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    os.close(1)
    os.close(2)


def test_a_run_whose_output_nobody_reads_is_trained_to_its_end(tmp_path: Path) -> None:
    weights = []
    for name, prepare in (("read", None), ("broken", broken_pipes), ("closed", closed_streams)):
        main = ["-m", "ssl_zoo", "train", *KNN, *flags("rotation", train__epochs=0.2), "--out", name]
        done = processes.run(main, cwd=tmp_path, env=dict(os.environ), prepare=prepare)
        assert done.returncode == 0, done.stderr
        run = Run(tmp_path / name)
        assert list(run.results()["scores"]) == ["rotation", "pixels", "random-init"]
        assert len(run.metrics()) == run.results()["steps"]
        weights.append(load_file(run.backbone_file))
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in weights[0])


# ---- signals


def interrupted(
    process: subprocess.Popen[str] | Child, cwd: Path, number: signal.Signals
) -> subprocess.CompletedProcess[str]:
    """Send a signal to an ssl-zoo once it has made the file ``reached``, and wait for its end."""
    deadline = time.monotonic() + 100
    while not (cwd / "reached").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


REACHED = "import time\nopen('reached', 'w').close()\n"
SWALLOWING = f"{REACHED}try:\n    time.sleep(60)\nexcept BaseException:\n    pass\nraise SystemExit(7)\n"
"""A module that is slow to import and handles every exception, as some libraries do."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["email", "logging", "typer", "torch"])  # by when they are imported
def test_stopped_while_importing(tmp_path: Path, module: str, number: signal.Signals) -> None:
    (tmp_path / f"{module}.py").write_text(SWALLOWING)
    process = subprocess.Popen(
        command("train", "--task", "simclr"), cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    done = interrupted(process, tmp_path, number)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", COMPLAINT)
    assert not (tmp_path / "runs").exists()


SLOW_SOURCE = """
import time
from pathlib import Path
from ssl_zoo import hookimpl

def slow(config, device):
    Path("reached").touch()
    time.sleep(60)

@hookimpl
def ssl_zoo_register_sources():
    return {"slow": slow}
"""


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("train --task simclr", signal.SIGINT),
        ("compare --tasks simclr --seeds 1", signal.SIGTERM),
    ],
)
def test_stopped_while_loading_data(tmp_path: Path, line: str, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(SLOW_SOURCE)
    main = ["-m", "ssl_zoo", "--plugin", "slow.py", *line.split(), "--data", "slow"]
    done = interrupted(Child(main, cwd=tmp_path), tmp_path, number)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", COMPLAINT)
    assert not (tmp_path / "runs").exists()
