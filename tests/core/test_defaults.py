"""The functions that callers use give the same results whatever torch's global modes are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssl_zoo
from ssl_zoo import testing
from ssl_zoo.plugins.registry import registry
from tests.conftest import figures, small_config


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")  # a tensor made on it by mistake has no values
    try:
        yield
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


MODES: dict[str, list[Callable[[], AbstractContextManager[Any]]]] = {
    "torch.no_grad": [torch.no_grad],
    "torch.inference_mode": [torch.inference_mode],
    "all modes": [
        torch.no_grad,
        default_dtype,
        default_device,
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
}


def train_and_use(folder: Path) -> dict[str, Any]:
    """Return the results of training a step, and of using the trained network."""
    config = small_config("rotation", train__epochs=None, train__samples=128)
    run = ssl_zoo.train(config, out=folder / "run", protocol=["knn"], with_baselines=False)
    ssl_zoo.embed(run.path, None, folder / "features.npz", device="cpu")
    with np.load(folder / "features.npz") as arrays:
        features = arrays["features"]
    weights = ssl_zoo.load_backbone(run.path).state_dict().values()
    return {
        "train": ([line["loss"] for line in run.metrics()], run.results()["scores"]),
        "embed": (features.dtype, features.tobytes()),
        "load_backbone": [(w.dtype, str(w.device), w.is_inference(), w.tolist()) for w in weights],
    }


def compare_and_check(folder: Path) -> dict[str, Any]:
    """Return the results of the other functions that compute."""
    config = small_config("rotation", train__batch_size=16, train__tune=False)
    sections = {"data": config.data.model_dump(), "backbone": config.backbone.model_dump()}
    budget = {"samples": 128, "batch_size": 128, "device": "cpu", "precision": "fp32", "knn_points": 0}
    ssl_zoo.compare(out=folder / "table", tasks=["rotation"], seeds=1, baselines=[],
                    protocols=["knn"], train=budget, **sections)  # fmt: skip
    (run,) = (path.parent for path in (folder / "table").rglob("backbone.safetensors"))
    evaluated = ssl_zoo.evaluate(run, ["knn"], with_baselines=False, settings={"train.device": "cpu"})
    checks = testing.task_checks(registry.load_task("rotation"))
    names = ("every_parameter_is_trained", "features_are_pure", "resumed_training_is_the_same")
    return {
        "compare": figures(folder / "table"),
        "evaluate": evaluated,
        "export": ssl_zoo.export(run, folder / "model.safetensors").replace(str(folder), ""),
        "bench": ssl_zoo.bench(config, seconds=0).views_per_sample,
        "check": [check.outcome().status for check in checks if check.name in names],
    }


@pytest.fixture(name="trained", scope="module")
def trained_and_used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train_and_use(tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("mode", MODES)
def test_training_embedding_and_loading_give_equal_results_under(
    tmp_path: Path, trained: dict[str, Any], mode: str
) -> None:
    with ExitStack() as modes:
        for enter in MODES[mode]:
            modes.enter_context(enter())
        results = train_and_use(tmp_path)
    for name, result in results.items():
        assert result == trained[name], name


def test_comparing_evaluating_measuring_and_checking_give_equal_results_under_all_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_zoo.tools.bench.BLOCK_SECONDS", 0)
    expected = compare_and_check(tmp_path / "expected")
    with ExitStack() as modes:
        for enter in MODES["all modes"]:
            modes.enter_context(enter())
        results = compare_and_check(tmp_path / "results")
    assert results["check"] == ["passed"] * 3
    for name, result in results.items():
        assert result == expected[name], name
