"""A task knows the progress and the index of samples; the encoder that it exports is what is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_zoo.evaluation import Subject, score
from ssl_zoo.nn import ema_update, frozen_copy
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.build import build_data, restore_task
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses, Task
from ssl_zoo.training import Trainer, train
from ssl_zoo.training.batch import Batch
from ssl_zoo.views import Rng
from tests.conftest import small_config

CPU = torch.device("cpu")


class Colour(Task):
    """A task that predicts the mean intensity."""

    name = "colour"

    def __init__(self, encoder: Any, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, 1)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        (x,) = views
        predicted = self.head(self.encoder(x)).float().squeeze(1)
        return Losses((predicted - x.mean((1, 2, 3))).pow(2).mean())


class Distilled(Colour):
    """A teacher is the exported encoder, and the loss notes the progress that it reads."""

    name = "distilled"

    def __init__(self, encoder: Any, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.teacher = frozen_copy(nn.Sequential(encoder, self.head))
        self.read: list[tuple[str, float]] = []

    @property
    def exported_encoder(self) -> Any:
        return self.teacher[0]

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        self.read.append(("views", self.progress))
        return super().views(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        self.read.append(("loss", self.progress))
        return super().loss(views)

    def after_step(self, progress: float) -> None:
        ema_update(self.teacher, nn.Sequential(self.encoder, self.head), 0.5)


class Indexed(Colour):
    """A task that asks for the index of its samples and for their labels."""

    name = "indexed"
    needs = ("index", "labels")

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return super().loss(views[:1])


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with registry.isolated():
        for task in (Distilled, Indexed):
            registry.register_task(task)
        yield


def trainer(task: str, **settings: Any) -> Trainer:
    config = small_config(task, **settings)
    return Trainer(config, build_data(config, CPU), Device.choose(config.train))


HALVES = {
    "train__images": 256,
    "train__epochs": None,
    "train__batch_size": 64,
    "train__accumulate": 2,
}
"""A run of two steps of two batches."""


def test_views_and_loss_read_the_progress_and_so_they_do_in_a_resumed_run() -> None:
    t = trainer("distilled", **HALVES)
    batch = Batch(t.data.train.batch(torch.arange(64)), torch.arange(64))
    for _ in range(2):
        t.train_step([batch, batch])
    first, second = ([(hook, p) for _ in range(2) for hook in ("views", "loss")] for p in (0.0, 0.5))
    assert t.task.read == first + second
    half = trainer("distilled", **HALVES)
    half.load_state_dict({**t.state_dict(), "step": 1})
    half.train_step([batch, batch])
    assert half.task.read == second


@pytest.mark.parametrize("ema", [None, 0.5])
def test_an_exported_teacher_is_what_is_averaged_evaluated_and_saved(
    tmp_path: Path, ema: float | None
) -> None:
    config = small_config("distilled", train__epochs=0.5, train__ema=ema)
    run = train(config, out=tmp_path / "r", protocol=["knn"])
    state, weights = run.checkpoints.load(), load_file(run.backbone_file)
    teacher = {k.removeprefix("teacher.0."): v for k, v in state["task"].items()}
    expected = teacher if ema is None else state["ema"]
    assert all(v.equal(expected[f"model.{k}"]) for k, v in weights.items())
    assert any(not v.equal(state["task"][f"encoder.model.{k}"]) for k, v in weights.items())
    data = build_data(config, CPU)
    task = restore_task(run, data.spec)
    subject = Subject.of_task(task, data, Device.choose(config.train))
    assert subject.encoder is task.exported_encoder
    assert score(subject, ["knn"]) == pytest.approx(
        {k: v for k, v in run.results()["scores"]["distilled"].items() if k.startswith("knn")}
    )


def test_the_weights_are_those_in_training_again_after_an_evaluation_of_the_average() -> None:
    t = trainer("distilled", train__ema=0.9, train__lr=0.05, train__warmup=0.0)
    t.train_step([Batch(t.data.train.batch(torch.arange(64)), torch.arange(64))])
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (t.task, t.ema.module)]
    with t.evaluated_task() as task:
        inside = task.exported_encoder.state_dict()
        assert all(v.equal(before[1][k]) for k, v in inside.items())
        assert not inside["model.conv1.0.weight"].equal(before[0]["teacher.0.model.conv1.0.weight"])
    for module, values in zip((t.task, t.ema.module), before, strict=True):
        assert all(v.equal(values[k]) for k, v in module.state_dict().items())


def test_a_task_gets_the_index_and_the_labels_of_its_samples_in_the_order_that_it_says() -> None:
    t = trainer("indexed", train__batch_size=100)
    assert t.task.spec.samples == len(t.data.train)
    seen = []
    for step in t.epoch_batches():
        for raw, _, (index, labels) in step:
            assert raw.equal(t.data.train.batch(index))
            assert labels.equal(t.data.train.labels[index])
            seen += index.tolist()
        t.train_step(step)
    assert len({*seen}) == len(seen) == 1400
    assert max(seen) < t.task.spec.samples
