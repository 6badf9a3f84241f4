"""`Task.before_training`: one pass over the data before the first step, for tasks that ask for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ssl_zoo.errors import Interrupted
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run
from ssl_zoo.task import Losses
from ssl_zoo_vision.predictive.rotation import Rotation
from tests.conftest import small_config, train

QUICK: dict[str, Any] = {"protocol": (), "with_baselines": False}


class Prepared(Rotation):
    """Rotation that notes which images it saw before training, and how often."""

    name = "prepared"
    needs = ("index",)
    stop_after: ClassVar[int | None] = None
    passes_begun: ClassVar[int] = 0
    seen: Tensor

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("seen", torch.zeros(self.spec.samples, dtype=torch.long))

    def before_training(self, batches: Iterator[tuple[Tensor, ...]]) -> None:
        type(self).passes_begun += 1
        for i, (*views, index) in enumerate(batches):
            assert not self.encoder(views[0]).requires_grad
            self.seen[index] += 1
            if i == self.stop_after:
                signal.raise_signal(signal.SIGTERM)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        *views, _ = views
        assert self.passes_begun or not self.training  # the rehearsal is in evaluation mode
        return super().loss(tuple(views))


@pytest.fixture(autouse=True)
def prepared(isolated_registry: None, monkeypatch: pytest.MonkeyPatch) -> type[Prepared]:
    """Register the task for one test."""
    monkeypatch.setattr(Prepared, "passes_begun", 0)
    monkeypatch.setattr(Prepared, "stop_after", None)
    registry.register_task(Prepared)
    return Prepared


def begin(path: Path) -> Run:
    """Train for an epoch of five steps."""
    config = small_config("prepared", train__batch_size=256, train__tune=False)
    return train(config, out=path, **QUICK)


def tensors(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = Run(path).checkpoints.load()["task"]
    return found


def test_a_task_sees_each_sample_of_the_first_epoch_once_before_the_first_step(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    seen = tensors(tmp_path / "run")["seen"]
    assert seen.max() == 1
    assert seen.sum() == len(seen) // 256 * 256


def test_a_pass_that_a_signal_stops_is_begun_again_and_changes_nothing(
    tmp_path: Path, prepared: type[Prepared]
) -> None:
    begin(tmp_path / "whole")
    prepared.stop_after = 1
    with pytest.raises(Interrupted):
        begin(tmp_path / "stopped")
    prepared.stop_after = None
    train(resume=tmp_path / "stopped", **QUICK)
    whole, stopped = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert all(value.equal(stopped[name]) for name, value in whole.items())


def test_a_resumed_run_does_not_repeat_it(tmp_path: Path, prepared: type[Prepared]) -> None:
    begin(tmp_path / "run")
    train(resume=tmp_path / "run", settings={"train.epochs": 2}, **QUICK)
    assert prepared.passes_begun == 1
