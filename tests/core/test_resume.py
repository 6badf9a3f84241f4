"""A run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ssl_zoo.errors import UserError
from ssl_zoo.run import Run
from ssl_zoo.training import train
from tests.conftest import command, flags, small_config, ssl_zoo


def losses(run: Path) -> list[dict[str, float]]:
    """What was logged but for the time it took."""
    return [
        {k: v for k, v in line.items() if k != "seconds"}
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    ]


def start_and_signal(arguments: list[str], run: Path, number: int, after: int) -> int:
    """Start a run, send a signal once so many steps are logged, and return the exit code."""
    process = subprocess.Popen(
        command(*arguments, "--out", run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < after:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("moco", {"train__checkpoint_seconds": 0}),
        # A checkpoint some steps old, after which lines were logged; and evaluation on the way.
        ("byol", {"train__checkpoint_seconds": 0.3, "train__knn_every": 1}),
    ],
    ids=["moco", "byol"],
)
def test_killed_and_resumed_gives_the_same_losses_to_the_bit(
    tmp_path: Path, task: str, settings: dict[str, float]
) -> None:
    # Both keep state beside the weights: a queue and key encoder, a target network.
    arguments = flags(task, train__epochs=4, **settings)
    whole = ssl_zoo("train", *arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr

    code = start_and_signal(["train", *arguments], tmp_path / "killed", signal.SIGKILL, after=14)
    assert code == -signal.SIGKILL
    resumed = ssl_zoo("train", "--resume", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr

    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert sum("loss" in line for line in losses(tmp_path / "whole")) == 4 * (1437 // 128)
    ours, theirs = (load_file(tmp_path / d / "backbone.safetensors") for d in ("killed", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    code = start_and_signal(["train", *flags("simclr", train__epochs=200)], run, number, after=3)
    assert code == 128 + number
    saved = Run.open(run).checkpoints.load()
    assert saved["step"] >= 3
    # What was logged and what was saved agree, so nothing is lost or repeated.
    assert len(losses(run)) == saved["step"]


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run = train(small_config("simclr"), out=tmp_path / "run")
    before = losses(run.path), run.results()["scores"]
    train(resume=run.path)
    assert (losses(run.path), run.results()["scores"]) == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    whole = train(small_config("simclr"), out=tmp_path / "whole")
    early = Run.create(tmp_path / "early", small_config("simclr"))
    early.metrics_file.write_text('{"step": 1, "loss": 0.5}\n')
    train(resume=early.path)
    assert losses(early.path) == losses(whole.path)


def test_scores_of_weights_that_move_on_do_not_stay(tmp_path: Path) -> None:
    early = Run.create(tmp_path / "early", small_config("simclr"))
    early.add_scores({"simclr": {"linear": 1.0}})  # as `eval` does for a run that has not ended
    assert "linear" not in train(resume=early.path).results()["scores"]["simclr"]


def test_a_second_process_on_one_run_is_refused(tmp_path: Path) -> None:
    run = train(small_config("simclr"), out=tmp_path / "run")
    with run.lock(), pytest.raises(UserError, match="another process"):
        train(resume=run.path)


def test_the_written_configuration_gives_the_same_run_again(tmp_path: Path) -> None:
    first = train(small_config("simclr"), out=tmp_path / "first")
    second = ssl_zoo("train", "--config", first.config_file, "--out", tmp_path / "second")
    assert second.returncode == 0, second.stderr
    assert losses(tmp_path / "second") == losses(first.path)


@pytest.mark.slow
def test_accumulating_a_budget_in_images_and_an_average_resume_too(tmp_path: Path) -> None:
    settings = {"train__epochs": None, "train__images": 3000, "train__accumulate": 2}
    settings |= {"train__batch_size": 64, "train__ema": 0.9, "train__checkpoint_seconds": 0}
    arguments = [a for a in flags("simclr", **settings) if a != "train.epochs=None"]
    arguments = [a for i, a in enumerate(arguments) if arguments[i : i + 2] != ["--set", "--set"]]
    whole = ssl_zoo("train", *arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    code = start_and_signal(["train", *arguments], tmp_path / "killed", signal.SIGKILL, after=12)
    assert code == -signal.SIGKILL
    assert ssl_zoo("train", "--resume", tmp_path / "killed").returncode == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1]["images"] == 24 * 128
