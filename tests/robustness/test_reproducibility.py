"""Equal settings give bit-identical runs, whatever else the process and its threads do."""

from __future__ import annotations

import os
import random
import subprocess
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_zoo import compare, evaluate, train
from ssl_zoo.comparison.config import Comparison
from ssl_zoo.comparison.render import FORMATS
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.runs.run import Run
from tests.conftest import TASKS, Call, command, small_config
from tests.core.pictures import photo, write

SETTINGS: dict[str, Any] = {
    "data__image_size": 8,
    "data__resident": "never",
    "backbone__name": "resnet18",
    "backbone__options": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1], "drop_path_rate": 0.2},
    "train__batch_size": 32,
    "train__epochs": 1,
    "train__knn_points": 2,
}
"""A network with random layers, on images that threads decode."""

Outcome = tuple[list[dict[str, Any]], dict[str, int], dict[str, Any]]
"""A run without its times: the logged lines, the checksums of the weights, and the scores."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images of two classes and of different sizes, so that decoding times differ."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(160):
        write(folder / f"class-{i % 2}" / f"{i}.png", photo((10 + i % 7 * 6,) * 2, seed=i))
    return folder


def settings(task: str, photos: Path, **more: Any) -> RunConfig:
    return small_config(task, **{**SETTINGS, "data__source": str(photos), **more})


def outcome(path: Path) -> Outcome:
    run = Run.open(path)
    logged = [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]
    weights = run.checkpoints.load()["task"]
    checksums = {name: zlib.crc32(tensor.numpy().tobytes()) for name, tensor in weights.items()}
    return logged, checksums, run.results()["scores"]


@dataclass(frozen=True)
class First:
    """A run that other runs are compared with."""

    task: str
    path: Path
    outcome: Outcome


@pytest.fixture(scope="module", params=(*TASKS, "supervised"))
def first(
    request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> First:
    """Return a run of each task."""
    run = train(settings(request.param, photos), out=tmp_path_factory.mktemp("first") / "run")
    return First(request.param, run.path, outcome(run.path))


def disturb(seed: int) -> list[Any]:
    """Seed every global generator of the process, and return their states."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return random_states()


def random_states() -> list[Any]:
    kind, keys, *rest = np.random.get_state()
    return [random.getstate(), (kind, keys.tolist(), *rest), torch.get_rng_state().tolist()]


def test_the_seed_decides_everything_and_nothing_else_does(
    first: First, photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    other_task = "byol" if first.task == "moco" else "moco"  # in the same process
    train(settings(other_task, photos, train__samples=64, train__epochs=None), out=tmp_path / "before")
    states = disturb(1)
    again = train(settings(first.task, photos), out=tmp_path / "again")
    assert random_states() == states  # runs leave the global generators unchanged
    assert outcome(again.path) == first.outcome

    other = outcome(train(settings(first.task, photos, train__seed=1), out=tmp_path / "other").path)
    for ours, theirs in zip(first.outcome[0], other[0], strict=True):
        assert "loss" not in ours or ours["loss"] != theirs["loss"]
    assert first.outcome[1] != other[1]
    tried["equal runs"] += 2


def test_the_written_configuration_gives_the_same_run_again(
    first: First, call: Call, tried: Counter[str]
) -> None:
    code, _, err = call("train", "--config", first.path / "config.yaml", "--out", "again")
    assert code == 0, err
    assert outcome(Path("again")) == first.outcome
    tried["equal runs"] += 1


def test_a_run_evaluated_again_has_the_same_scores(
    first: First, call: Call, tried: Counter[str]
) -> None:
    states = disturb(2)
    assert evaluate(first.path) == first.outcome[2]
    assert random_states() == states
    code, _, err = call("eval", first.path, "--protocol", "health,knn")
    assert code == 0, err
    assert Run.open(first.path).results()["scores"] == first.outcome[2]
    tried["evaluations"] += 2


@pytest.mark.slow
def test_every_protocol_gives_the_same_scores_again(
    photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    config = settings("simclr", photos, data__resident="always")
    run = train(config, out=tmp_path / "run", protocol=())
    names = ["knn", "linear", "lowshot", "finetune", "health"]
    states = disturb(3)
    scores = evaluate(run.path, names, with_baselines=False)
    assert random_states() == states
    disturb(4)
    assert evaluate(run.path, names[::-1], with_baselines=False) == scores
    tried["evaluations"] += 2


@pytest.mark.parametrize(
    "task",
    ["byol", *(pytest.param(t, marks=pytest.mark.slow) for t in (*TASKS, "supervised") if t != "byol")],
)
def test_where_images_are_decoded_and_by_how_many_threads_changes_nothing(
    task: str, photos: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    def run(name: str, **loading: Any) -> Outcome:
        # The default canvas is smaller for images that are decoded at each use.
        config = settings(task, photos, data__canvas=20, **loading)
        return outcome(train(config, out=tmp_path / name).path)

    resident = run("resident", data__resident="always")
    for workers in (1, 2, 5):
        assert run(f"by-{workers}", data__workers=workers) == resident
    for name in ("cache-made", "cache-read"):
        assert run(name, data__cache=str(tmp_path / "cache")) == resident
    tried["equal runs"] += 6


def test_how_many_threads_the_process_has_by_itself_changes_nothing(
    tmp_path: Path, tried: Counter[str]
) -> None:
    # Larger images, as torch does not split small tensors over threads.
    config = small_config("simclr", train__epochs=None, train__samples=256, train__threads=2)
    before, outcomes = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            run = train(config, out=tmp_path / str(number), protocol=["health"], with_baselines=False)
            outcomes.append(outcome(run.path))
            torch.set_num_threads(3 - number)
            assert evaluate(run.path, ["health"], with_baselines=False) == outcomes[-1][2]
    finally:
        torch.set_num_threads(before)
    assert outcomes[0] == outcomes[1]
    tried["equal runs"] += 2
    tried["evaluations"] += 2


def test_a_comparison_gives_the_same_table_in_every_process(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    sections: dict[str, dict[str, Any]] = {}
    brief = {"train__device": "cpu", "train__precision": "fp32", "train__epochs": 0.3}
    flat = {**SETTINGS, "data__source": str(photos), **brief}
    for name, value in flat.items():
        section, _, field = name.partition("__")
        sections.setdefault(section, {})[field] = value
    columns = ["knn", "rankme", "spread", "alignment", "uniformity"]  # columns without times
    request = {"seeds": 1, "protocols": ["knn", "health"], "columns": columns, **sections}
    file = tmp_path / "comparison.yaml"
    file.write_text(Comparison.model_validate(request).to_yaml())
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    # A new interpreter, as a process's hash seed is set when it starts.
    process = subprocess.Popen(
        command("compare", "--config", file, "--out", "compared"), cwd=elsewhere, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": "1"},
    )  # fmt: skip
    monkeypatch.chdir(here)
    compare(file, out="compared")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    for ending in FORMATS:
        tables = [(folder / "compared" / f"table.{ending}").read_text() for folder in (here, elsewhere)]
        assert all(name in tables[0] for name in (*TASKS, "supervised"))
        assert tables[0] == tables[1]
    tried["equal runs"] += 2 * (len(TASKS) + 1)
