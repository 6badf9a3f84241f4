"""Checkpoints of sharded tasks: moved between numbers of processes, intact, and exact."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ssl_zoo.errors import UserError
from ssl_zoo.runs.checkpoints import Checkpoints, read_checkpoint
from ssl_zoo.runs.run import Run
from ssl_zoo.testing.rank_server import server
from ssl_zoo.training import Trainer
from tests.conftest import KNN, command, flags, ssl_zoo
from tests.core.test_sharded_tasks import VIT, joined, stepped, trainer
from tests.robustness.killing import losses

CASE, STEPS = "contrastive", {"train__samples": 8 * 64, "train__optimizer": "momentum"}
"""A run of eight steps, with momentum and an average of the weights."""


def resumed(folder: Path) -> Trainer:
    """Return the trainer of a run that goes on from the last checkpoint in a folder."""
    checkpoints, trained = Checkpoints(folder), trainer(CASE, **STEPS)
    like = trained.parallel.like(trained.optimizer)
    trained.load_state_dict(checkpoints.complete(checkpoints.load(whole=False), like))
    return trained


def go_on(folder: Path, steps: int) -> list[float]:
    """Resume a run, make some steps, save, and return their losses and norms."""
    trained = resumed(folder)
    lines = stepped(trained, steps)
    Checkpoints(folder).save(trained.state_dict())
    return lines


def work_of_two(folder: Path, rank: int) -> None:
    """Make eight steps at once, and in three parts of which two are resumed."""
    with joined(folder, rank):
        undisturbed = stepped(trainer(CASE, **STEPS), 8)
        run = folder / "run"
        if rank == 0:
            run.mkdir()
        trained = trainer(CASE, **STEPS)
        lines = stepped(trained, 2)
        Checkpoints(run).save(trained.state_dict())
        lines += go_on(run, 1)
        if rank == 0:
            (folder / "lines.json").write_text(json.dumps([undisturbed, lines]))
        again = stepped(resumed(run), 5)  # to the end, in as many processes
        assert lines + again == undisturbed, (lines + again, undisturbed)  # to the bit


def work_of_four(folder: Path, rank: int) -> None:
    """Go on in four processes."""
    with joined(folder, rank, 4):
        lines = go_on(folder / "run", 2)
        if rank == 0:
            (folder / "lines-4.json").write_text(json.dumps(lines))


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the lines of two processes, and the checkpoints of steps 2 and 3."""
    folder = tmp_path_factory.mktemp("two")
    failed = server.run(work_of_two, folder)
    assert failed is None, (folder / f"output-{failed}").read_text()
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    """Return a copy of a folder."""
    return Path(shutil.copytree(folder, to))


def test_a_run_moves_from_two_processes_to_one_and_to_four(run_of_two: Path, tmp_path: Path) -> None:
    folder = copy_of(run_of_two, tmp_path / "moved")
    undisturbed, lines = json.loads((folder / "lines.json").read_text())
    lines += go_on(folder / "run", 1)
    assert "shards" not in read_checkpoint(folder / "run" / "checkpoint.pt")  # of one process
    failed = server.run(work_of_four, folder, ranks=4)
    assert failed is None, (folder / f"output-{failed}").read_text()
    state = read_checkpoint(folder / "run" / "checkpoint.pt")
    assert len(state["shards"]["files"]) == 4
    lines += json.loads((folder / "lines-4.json").read_text())
    lines += go_on(folder / "run", 2)
    assert lines == pytest.approx(undisturbed, rel=1e-4)


def test_one_process_reads_what_two_have_written(run_of_two: Path) -> None:
    state = Checkpoints(run_of_two / "run").load()
    alone = trainer(CASE, **STEPS)
    stepped(alone, 3)
    own = alone.state_dict()
    assert state["step"] == own["step"] == 3
    for part in ("task", "ema"):
        assert state[part].keys() == own[part].keys()
        for name, value in own[part].items():
            torch.testing.assert_close(state[part][name], value, rtol=1e-4, atol=1e-5, msg=name)
    momentum = own["optimizer"]["state"]
    assert state["optimizer"]["state"].keys() == momentum.keys()
    for i, values in momentum.items():
        found = state["optimizer"]["state"][i]["momentum_buffer"]
        torch.testing.assert_close(found, values["momentum_buffer"], rtol=1e-3, atol=1e-4)


def test_a_damaged_shard_is_noticed_and_the_checkpoint_before_is_used(
    run_of_two: Path, tmp_path: Path
) -> None:
    run = copy_of(run_of_two / "run", tmp_path / "run")
    checkpoints = Checkpoints(run)
    state = read_checkpoint(checkpoints.file)
    shard = run / state["shards"]["folder"] / next(iter(state["shards"]["files"]))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=f"^{shard} cannot be read: it has a wrong checksum$"):
        read_checkpoint(checkpoints.file)
    assert checkpoints.load()["step"] == 2
    shard.unlink()
    assert checkpoints.load()["step"] == 2


@pytest.mark.parametrize(
    "shards", [{}, [], {"folder": "../run", "files": {}}, {"folder": 1, "files": 2}]
)
def test_a_checkpoint_that_names_no_folder_beside_it_is_refused(tmp_path: Path, shards: Any) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"task": {}, "shards": shards})
    with pytest.raises(UserError, match=f"^{checkpoints.file} cannot be read: "):
        checkpoints.load()


def test_only_folders_that_a_checkpoint_names_are_left(run_of_two: Path) -> None:
    run = run_of_two / "run"
    states = [read_checkpoint(run / name) for name in ("checkpoint.pt", "checkpoint.before.pt")]
    named = {state["shards"]["folder"] for state in states}
    assert len(named) == 2
    assert {path.name for path in run.iterdir() if path.is_dir()} == named
    assert [state["step"] for state in states] == [3, 2]


def test_shards_of_a_checkpoint_that_cannot_be_read_now_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    folders = [tmp_path / f"checkpoint.shards.{i}" for i in range(3)]
    for folder in folders:
        folder.mkdir()
        checkpoints.save({"task": {}, "shards": {"folder": folder.name, "files": {}}})
    assert [folder.exists() for folder in folders] == [False, True, True]
    opened = Path.open

    def stale(path: Path, *given: Any) -> Any:
        if path == checkpoints.before:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return opened(path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", stale)
        checkpoints.save({"task": {}})
        assert [folder.exists() for folder in folders] == [False, True, True]
    checkpoints.before.write_bytes(b"damaged")
    checkpoints.save({"task": {}})
    assert not any(folder.exists() for folder in folders)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit_and_ends_in_one_process(tmp_path: Path) -> None:
    settings = {**VIT, **STEPS, "train__parallel": "fsdp", "train__checkpoint_seconds": 0}
    settings |= {
        "train__epochs": "null",
        "train__ema": 0.5,
        "train__knn_points": 2,
        "train__keep_best": "knn",
    }
    words = [*KNN, *flags("simclr", **settings), "--devices", "2"]
    whole = ssl_zoo("train", *words, "--out", tmp_path / "whole", OMP_NUM_THREADS="1")
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command("train", *words, "--out", killed),
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not (killed / "checkpoint.before.pt").exists():
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < Run(killed).checkpoints.load()["step"] < 8
    resumed = ssl_zoo("train", *KNN, "--resume", killed, "--devices", "2", OMP_NUM_THREADS="1")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(killed) == losses(tmp_path / "whole")
    names = ("backbone.safetensors", "snapshots/best.safetensors")
    for name in names:
        expected = load_file(tmp_path / "whole" / name)
        found = load_file(killed / name)
        assert found.keys() == expected.keys()
        assert all(found[n].equal(tensor) for n, tensor in expected.items())
    scores = Run(killed).results()["scores"]["simclr"]
    evaluated = ssl_zoo("eval", *KNN, killed)  # from the shards, in one process
    assert evaluated.returncode == 0, evaluated.stderr
    assert Run(killed).results()["scores"]["simclr"] == pytest.approx(scores, rel=1e-6)
    longer = ("--set", "train.samples=640", "--set", "train.parallel=ddp")
    longer_run = ssl_zoo("train", *KNN, "--resume", killed, *longer)
    assert longer_run.returncode == 0, longer_run.stderr
    assert Run(killed).config().train.parallel == "ddp"
    assert losses(killed)[-1]["step"] == 10
    assert not list(killed.glob("checkpoint.shards.*")) or "shards" in read_checkpoint(
        killed / "checkpoint.before.pt"
    )
