"""Snapshots of the backbone during training, the best of them, and stopping for lack of gain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ssl_zoo.comparison.load import load_comparison
from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import evaluate
from ssl_zoo.notices import collect_notices
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.backbone import load_backbone
from ssl_zoo.runs.build import build_data
from ssl_zoo.runs.run import Run
from ssl_zoo.tools.embed import embed
from ssl_zoo.training.best import BestEvaluation
from tests.conftest import Call, flags, small_config, ssl_zoo, train
from tests.core.test_resume import ELEVEN, QUICK, TINY, begin
from tests.robustness.killing import losses

STEPS_PROTOCOL = """
from ssl_zoo import hookimpl
from ssl_zoo.evaluation import Metric, Protocol

def measure(subject):
    norms = [m for m in subject.encoder.modules() if hasattr(m, "num_batches_tracked")]
    return {"batches": float(norms[0].num_batches_tracked)}

@hookimpl
def ssl_zoo_register_protocols():
    metric = Metric("batches", "batches seen", "lower")
    return {"batches": Protocol(measure, {"batches": metric}, labels=False)}
"""
"""A protocol whose figure only gets worse: its best evaluation is the first."""

KEPT: dict[str, Any] = {"train__knn_points": 5, "train__keep_best": "batches", "train__patience": 2}


@pytest.fixture(name="worsening")
def worsening_figure(tmp_path: Path, isolated_registry: None) -> None:
    (tmp_path / "batches.py").write_text(STEPS_PROTOCOL)
    registry.load_file(tmp_path / "batches.py")


def content(file: Path) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Return the header and the weights in a file, whose order in the file is any."""
    with safe_open(file, "pt") as opened:
        header: dict[str, str] = opened.metadata()
    return header, {name: tensor.tolist() for name, tensor in load_file(file).items()}


# ---- the figure


def test_a_run_stops_after_as_many_evaluations_without_gain_as_its_patience() -> None:
    best = BestEvaluation("knn", "knn", 1, patience=2)
    gains, stops = [], []
    for step, value in enumerate([50.0, 60.0, 60.0, 61.0, 59.0, 61.0]):
        gains.append(best.add(value, step))
        stops.append(best.exhausted)
    assert gains == [True, True, False, True, False, False]
    assert stops == [False] * 5 + [True]
    assert (best.value, best.step) == (61.0, 3)


def test_a_figure_of_which_less_is_better_gains_when_it_falls() -> None:
    best = BestEvaluation("bits", "bits", -1, patience=1)
    assert [best.add(value, 0) for value in (3.0, 2.0, 2.5)] == [True, True, False]


def test_the_state_goes_on_where_it_was_but_not_with_another_figure() -> None:
    before, after = (BestEvaluation("knn", "knn", 1, patience=2) for _ in range(2))
    before.add(50.0, 3)
    before.add(40.0, 6)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert vars(after) == vars(before)
    other = BestEvaluation("rankme", "health", 1, patience=2)
    other.load_state_dict(before.state_dict())
    assert other.value is None


def test_without_labels_the_figure_is_rankme_and_one_that_needs_labels_is_refused() -> None:
    config = small_config("simclr")
    data = build_data(config, torch.device("cpu"))
    bare = data.without_labels("left out")
    auto = TrainConfig(keep_best="auto", knn_points=2)
    assert BestEvaluation.of(auto, data).figure == "knn"
    assert BestEvaluation.of(auto, bare).figure == "rankme"
    assert BestEvaluation.of(TrainConfig(), data).figure is None
    with pytest.raises(
        UserError, match=r"^train.keep_best: knn cannot be measured, as digits has no la"
    ):
        BestEvaluation.of(TrainConfig(keep_best="knn", knn_points=2), bare)
    with pytest.raises(UserError, match=r"^train.keep_best: 'knnn' is no figure .* mean 'knn'"):
        BestEvaluation.of(TrainConfig(keep_best="knnn", knn_points=2), data)
    with pytest.raises(UserError, match=r"^train.keep_best: 'uniformity' has no better and worse"):
        BestEvaluation.of(TrainConfig(keep_best="uniformity", knn_points=2), data)


def test_a_patience_without_evaluations_or_in_a_comparison_is_refused() -> None:
    with pytest.raises(UserError, match="patience needs evaluations during training; set knn_every"):
        small_config("simclr", train__patience=2)
    values = {"tasks": ["simclr"], "train": {"patience": 2, "knn_points": 4, "epochs": 1}}
    with pytest.raises(UserError, match=r"^train\.patience: the runs of a comparison have one budget"):
        load_comparison(None, values)


# ---- runs


def test_a_killed_run_stops_early_where_an_undisturbed_one_does_with_the_same_snapshots(
    worsening: None, tmp_path: Path
) -> None:
    settings = {**KEPT, "train__keep_every": 4 / 179}
    with collect_notices() as notices:
        whole = begin(tmp_path / "whole", **settings)
    assert [line["step"] for line in whole.metrics() if "batches" in line] == [3, 5, 7]
    results = whole.results()
    assert results["best"] == {"figure": "batches", "value": 3, "step": 3, "epoch": round(3 / 179, 4)}
    assert (results["stopped_early"], results["steps"]) == (True, 7)
    (text,) = (n["text"] for n in notices if n["notice"] == "stopped-early")
    assert text.startswith(
        "stopped early at epoch 0.03911, after 2 evaluations without gain: batches was"
    )
    names = ["best.safetensors", "epoch-00000-step-00000004.safetensors"]
    assert sorted(file.name for file in whole.snapshots.iterdir()) == names
    assert content(whole.snapshots / names[0])[0]["step"] == "3"

    resumed = begin(tmp_path / "resumed", stop=6, **settings)
    train(resume=resumed.path, **QUICK)
    assert losses(resumed.path) == losses(whole.path)
    assert resumed.results()["best"] == results["best"]
    assert resumed.results()["stopped_early"]
    for name in names:
        assert content(resumed.snapshots / name) == content(whole.snapshots / name)

    train(resume=whole.path, settings={"train.epochs": 2 * ELEVEN}, **QUICK)
    assert whole.results()["steps"] > 7  # a longer budget brings new patience


def test_two_processes_keep_and_stop_by_the_figure_of_the_first(tmp_path: Path) -> None:
    """Their figures contradict each other, so that each would stop, and keep, at other steps."""
    (tmp_path / "batches.py").write_text(
        STEPS_PROTOCOL.replace(
            "return {",
            "import os\n    sign = 1 - 2 * int(os.environ['RANK'])\n    return {",
        ).replace("float(", "sign * float(")
    )
    settings = {**TINY, **KEPT, "train__keep_every": 4 / 179}
    given = (*flags("rotation", **settings), "--protocol", "knn", "--plugin", tmp_path / "batches.py")
    done = ssl_zoo("train", *given, "--devices=2", "--out", tmp_path / "two", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "two")
    assert [line["step"] for line in run.metrics() if "batches" in line] == [3, 5, 7]
    results = run.results()
    assert results["best"] == {"figure": "batches", "value": 3, "step": 3, "epoch": round(3 / 179, 4)}
    assert (results["stopped_early"], results["steps"]) == (True, 7)
    names = ["best.safetensors", "epoch-00000-step-00000004.safetensors"]
    assert sorted(file.name for file in run.snapshots.iterdir()) == names
    assert [content(run.snapshots / name)[0]["step"] for name in names] == ["3", "4"]


def test_a_run_killed_between_its_checkpoint_and_the_best_snapshot_writes_it_when_resumed(
    worsening: None, tmp_path: Path
) -> None:
    run = begin(tmp_path / "run", stop=3, **KEPT)
    file = run.snapshots / "best.safetensors"
    before = content(file)
    file.unlink()
    train(resume=run.path, **QUICK)
    assert content(file) == before


@pytest.fixture(name="kept", scope="module")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a task whose features are not the encoder's pooled ones, with a snapshot of step 5."""
    path = tmp_path_factory.mktemp("kept") / "run"
    return begin(
        path, task__stage=-2, train__keep_every=5 / 179, train__knn_points=2, train__keep_best="knn"
    )


def test_a_snapshot_is_evaluated_embedded_and_loaded_as_its_run_was_then(
    kept: Run, tmp_path: Path
) -> None:
    file = kept.snapshots / "best.safetensors"
    best = kept.results()["best"]
    before = kept.results_file.read_bytes()
    rows = evaluate(file, ["knn"], with_baselines=False)
    # The evaluations during training use all the digits too.
    assert rows == {"rotation (best)": {"knn": pytest.approx(best["value"])}}
    assert not rows.kept
    assert kept.results_file.read_bytes() == before

    early = kept.snapshots / "epoch-00000-step-00000005.safetensors"
    weights = load_file(early)
    loaded = load_backbone(early).state_dict()
    assert all(loaded[name].equal(value) for name, value in weights.items())
    of_snapshot = embed(early, None, tmp_path / "early.npz")
    of_run = embed(kept.path, None, tmp_path / "last.npz")
    assert of_snapshot.width == of_run.width  # those of the task's stage
    first, last = (np.load(tmp_path / name)["features"] for name in ("early.npz", "last.npz"))
    assert first.shape == last.shape
    assert not np.allclose(first, last)


def test_the_command_line_says_where_the_best_is(call: Call, kept: Run) -> None:
    file = kept.snapshots / "best.safetensors"
    code, out, err = call("train", "--resume", kept.path, "--protocol", "knn")
    assert code == 0, err
    best = kept.results()["best"]
    assert f"  best knn: {best['value']:.4g} at epoch {best['epoch']:.4g}: {file}" in out
