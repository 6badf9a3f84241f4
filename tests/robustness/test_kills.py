"""A run killed at any moment resumes with the same figures; one that is stopped saves first."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from ssl_zoo.comparison import COMPARE_FILE
from ssl_zoo.errors import UserError
from ssl_zoo.runs.run import Run
from tests.conftest import KNN, SMALL, TASKS, figures, flags, small_config, ssl_zoo
from tests.processes import Child
from tests.robustness.killing import (
    being_written,
    check_whole,
    kill,
    losses,
    resumed_step,
    saved_step,
    start,
    undisturbed,
    until,
)

SETTINGS = {
    "train.epochs": "null",
    "train.samples": 66 * 32,
    "train.batch_size": 32,
    "train.knn_every": 0.5,
    "train.checkpoint_seconds": 0.1,
}
"""Settings of 66 small steps, with checkpoints some steps old, and evaluations on the way."""

OTHERS = {"train.batch_size": 16, "train.accumulate": 2, "train.ema": 0.9, "train.checkpoint_seconds": 0}
"""Settings of twice as many batches, averaged weights, and a checkpoint after each step."""


def scores(run: Path) -> dict[str, Any]:
    return {name: json.loads((run / "results.json").read_text())[name] for name in ("scores", "steps")}


@pytest.mark.parametrize(
    ("task", "settings", "kills"),
    [
        ("moco", SETTINGS, 5),  # it keeps a queue and a second encoder beside the weights
        *(pytest.param(task, SETTINGS, 15, marks=pytest.mark.slow) for task in TASKS),
        pytest.param("simclr", {**SETTINGS, **OTHERS}, 15, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments_a_run_ends_as_if_it_had_never_been(
    tmp_path: Path, task: str, settings: dict[str, Any], kills: int, tried: Counter[str]
) -> None:
    rng, arguments = random.Random(task), ["train", *KNN, *flags(task, **settings)]
    whole = tmp_path / "whole"
    times = undisturbed([*arguments, "--out", str(whole)], whole)

    survived = amid_a_write = 0
    for victim in (tmp_path / f"victim-{i}" for i in range(kills)):
        code = -1
        while code:
            saved = saved_step(victim)
            resumes = (victim / "config.yaml").is_file()
            again = ["train", *KNN, "--resume", str(victim)]
            now = again if resumes else [*arguments, "--out", str(victim)]
            if survived < kills:
                begun = time.time()
                code, output = kill(now, victim, rng, times, writing=survived % 2 == 1)
                survived += code != 0
                amid_a_write += being_written(victim, begun)
            else:
                process = start(now)
                output = process.communicate()[1]
                code = process.returncode
                assert code == 0, output
            check_whole(victim)
            # No step before the last checkpoint is repeated.
            assert resumed_step(output) in (saved, None)
        assert losses(victim) == losses(whole)
        assert scores(victim) == scores(whole)
        ours, theirs = (load_file(run / "backbone.safetensors") for run in (victim, whole))
        assert all(ours[name].equal(theirs[name]) for name in theirs)
        assert not list(victim.glob(".*.part"))
        if survived == kills:
            break
    assert survived == kills
    assert amid_a_write > 0
    assert len([line for line in losses(whole) if "loss" in line]) == 66
    tried["kills"] += survived
    tried["kills amid a write"] += amid_a_write


COMPARISON: dict[str, Any] = {
    "tasks": ["simclr", "rotation"],
    "seeds": 2,
    "baselines": ["raw", "random-init"],
    "protocols": ["knn", "health"],
    "set": {**SMALL, "train.epochs": 0.5},
}


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_comparison_ends_as_if_it_had_never_been(
    tmp_path: Path, kills: int, tried: Counter[str]
) -> None:
    rng, file = random.Random(kills), tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(COMPARISON))
    arguments = ["compare", "--config", str(file), "--out"]
    times = undisturbed([*arguments, str(tmp_path / "whole")], tmp_path / "whole")

    survived = 0
    for out in (tmp_path / f"victim-{i}" for i in range(kills)):
        code = -1
        while survived < kills and code:
            code, _ = kill([*arguments, str(out)], out, rng, times, writing=survived % 2 == 1)
            survived += code != 0
            check_whole(out)
        if code:
            undisturbed([*arguments, str(out)], out)
        assert figures(out) == figures(tmp_path / "whole")
        if survived == kills:
            break
    tried["kills"] += survived


# ---- asked to stop

SLOW_EVALUATION = """
import time

import ssl_zoo
from ssl_zoo.training import api


def late(*arguments):
    time.sleep(30)


@ssl_zoo.hookimpl
def ssl_zoo_run_started(run):
    api.score = late
"""
"""A plugin whose slow evaluation leaves time to send a signal."""

NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


def stopped(process: Child, number: int) -> str:
    """Stop a process and return the command in its last line that resumes the work."""
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    start_of_line, _, again = output.splitlines()[-1].partition("; resume with: ")
    assert start_of_line == "error: stopped and saved"
    return again


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, tried: Counter[str]
) -> None:
    run = tmp_path / "a run"
    process = start(["train", *KNN, *flags("simclr", train__epochs=200), "--out", str(run)])
    assert until(process, lambda: len(Run(run).metrics()) > 3)
    assert stopped(process, number) == f"ssl-zoo train --resume '{run}'"
    # What was logged and what was saved agree, so nothing is lost or repeated.
    assert len(losses(run)) == saved_step(run)
    tried["signals"] += 1


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_while_what_was_learnt_is_evaluated_says_so_too(
    tmp_path: Path, number: signal.Signals, tried: Counter[str]
) -> None:
    run, slow = tmp_path / "run", tmp_path / "slow.py"
    slow.write_text(SLOW_EVALUATION)
    process = start(["--plugin", str(slow), "train", *KNN, *flags("simclr"), "--out", str(run)])
    assert until(process, (run / "backbone.safetensors").is_file)
    assert stopped(process, number) == f"ssl-zoo --plugin {slow} train --resume {run}"
    assert not Run(run).results().get("scores")
    resumed = ssl_zoo("train", *KNN, "--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert scores(run)["steps"] == 1437 // 128
    tried["signals"] += 1


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_stops_a_comparison_with_what_to_do_next(
    tmp_path: Path, number: signal.Signals, tried: Counter[str]
) -> None:
    out, file = tmp_path / "c", tmp_path / "c.yaml"
    settings = {**SMALL, "train.epochs": 200}
    file.write_text(yaml.safe_dump({**COMPARISON, "baselines": [], "set": settings}))
    process = start(["compare", "--config", str(file), "--out", str(out)])
    assert until(process, lambda: len(Run(out / "simclr-0").metrics()) > 3)
    assert stopped(process, number) == f"ssl-zoo compare --config {out / COMPARE_FILE} --out {out}"
    assert len(losses(out / "simclr-0")) == saved_step(out / "simclr-0")
    tried["signals"] += 1


# ---- two at once


def test_of_two_processes_on_one_run_the_second_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(["train", *KNN, *flags("simclr", train__epochs=200), "--out", str(run)])
    assert until(process, lambda: len(Run(run).metrics()) > 3)
    second = ssl_zoo("--quiet", "train", *KNN, "--resume", run)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == f"error: {run}: another process is training this run\n"
    # The first goes on as before.
    before = len(Run(run).metrics())
    assert until(process, lambda: len(Run(run).metrics()) > before + 3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(losses(run)) == saved_step(run)


def test_who_comes_second_to_a_place_changes_nothing_there(tmp_path: Path) -> None:
    # Both have seen that the place is free; the first has it now, and has written nothing yet.
    first, second = (Run.make(tmp_path / "run", small_config("simclr")) for _ in range(2))
    with first.lock():
        with pytest.raises(UserError, match="another process is training this run"), second.lock():
            pass
        first.begin(small_config("simclr"))
    with second.lock(), pytest.raises(UserError, match="exists and is not empty"):
        second.begin(small_config("moco"))
    assert first.config().task.name == "simclr"


def test_results_that_two_processes_add_at_once_are_all_there(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", small_config("simclr"))
    program = (
        "import sys; from ssl_zoo.runs.run import Run\n"
        "for i in range(40): Run(sys.argv[1]).add_scores({sys.argv[2]: {f'score {i}': float(i)}})"
    )
    both = [Child(["-c", program, str(run.path), name]) for name in ("a", "b")]
    while any(process.poll() is None for process in both):
        run.results()  # never half of it
    assert [process.returncode for process in both] == [0, 0]
    assert {name: len(row) for name, row in run.results()["scores"].items()} == {"a": 40, "b": 40}


def test_of_two_processes_that_begin_in_one_place_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", *KNN, "--out", str(out)]
    both = [start([*arguments, *flags("simclr", train__seed=seed)]) for seed in (0, 1)]
    output = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], output
    (winner,) = (seed for seed, process in enumerate(both) if process.returncode == 0)
    assert Run(out).config().train.seed == winner
    assert Run(out).results()["steps"] == 1437 // 128
    assert "exists and is not empty" in output[1 - winner] or "another process" in output[1 - winner]
