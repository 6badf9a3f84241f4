"""A task under test: how it is built, fed and stepped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_zoo.config.schema import BackboneConfig, DataConfig, RunConfig, TaskConfig, TrainConfig
from ssl_zoo.data import DataSet
from ssl_zoo.data.splits import ArraySplit
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runtime.defaults import seeded
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses, Task
from ssl_zoo.testing.check import CheckSkipped, same
from ssl_zoo.testing.check_data import TINY, CheckData, SourceData, image_data
from ssl_zoo.training import Trainer
from ssl_zoo.training.optimizer import parameter_groups
from ssl_zoo.tree import Tree
from ssl_zoo.views import Rng

Snapshot = dict[str, Tensor]

SAMPLES = 256
"""The number of samples of the train split that a task under test is told."""


@dataclass(frozen=True)
class Case:
    """A test case: a task with its options, and the data that it is checked on.

    Attributes:
        cls: the task.
        options: its options that differ from the defaults.
        all_data: the data of each kind; most checks use the first only.
    """

    cls: type[Task]
    options: Mapping[str, Any]
    all_data: Sequence[CheckData]

    @classmethod
    def of(
        cls,
        task: type[Task],
        options: Mapping[str, Any] | None = None,
        backbone: Mapping[str, Any] | BackboneConfig | None = None,
        data: Sequence[CheckData] | None = None,
    ) -> Case:
        """Return the case of a task.

        Args:
            task: the class.
            options: its options that differ from the defaults.
            backbone: the ``backbone`` section of a configuration; None for that of the task's recipe,
                or a tiny ResNet if it has none.
            data: the data to check on; None for images of several kinds, or for the source in
                the recipe of a task of another modality.
        """
        if backbone is None:
            config = _recipe_backbone(task)
        elif isinstance(backbone, BackboneConfig):
            config = backbone
        else:
            config = BackboneConfig.model_validate(backbone)
        if data is None and task.modality != "image":
            source = DataConfig.model_validate(task.recipe.get("data", {}))
            data = [SourceData(source, config, task.modality, task.any_size)]
        if data is None:
            data = image_data(config, 2 if "labels" in task.needs else None, task.any_size)
        return cls(task, dict(options or {}), data)

    @property
    def recipe(self) -> Mapping[str, Mapping[str, Any]]:
        """The task's recipe with these options."""
        return self.cls.recipe_for(self.cls.Options(**self.options))

    @property
    def data(self) -> CheckData:
        """The data for checks that need only one kind."""
        return self.all_data[0]

    def build(self, data: CheckData | None = None, seed: int = 0, samples: int = SAMPLES) -> Task:
        """Return the task in training mode, with weights drawn from the seed.

        Raises:
            CheckSkipped: it cannot be built at all, which `check_can_be_built` reports.
            Exception: it cannot be built with these data, this seed or this number of samples.
        """
        try:
            return self.construct(data or self.data, seed, samples)
        except PLUGIN_ERRORS as error:
            try:
                self.construct(self.data)
            except PLUGIN_ERRORS:
                raise CheckSkipped("not run: the task cannot be built") from error
            raise

    def construct(self, data: CheckData, seed: int = 0, samples: int = SAMPLES) -> Task:
        """Return the task as `build` does, and raise what it raises."""
        spec = replace(data.spec, samples=samples)
        with seeded(seed):
            return self.cls(data.encoder(), self.cls.Options(**self.options), spec).train()

    def views(
        self, task: Task, n: int = 8, seed: int = 0, data: CheckData | None = None, progress: float = 0.0
    ) -> tuple[Tree, ...]:
        """Begin a step at this progress, and return views of n samples for the task's loss.

        After them comes what the task needs beside samples.
        """
        task.before_step(progress)
        batch = (data or self.data).batch(n)
        return tuple(task.views(batch, Rng(seed))) + self.needed(n)

    def needed(self, n: int) -> tuple[Tensor, ...]:
        """Return what the task's `needs` ask for of the first n samples, each int64 [n]."""
        known = {"labels": _classes(n), "index": torch.arange(n) % SAMPLES}
        return tuple(known[name] for name in self.cls.needs)

    def labels(self, n: int) -> Tensor | None:
        """Return the labels [n] of the train split for a task that needs them; else None."""
        return _classes(n) if "labels" in self.cls.needs else None

    def trainer(self, seed: int = 0, labels: Any = None, batch_size: int = 8) -> Trainer:
        """Return a trainer of the task, with its recipe, on four batches of samples.

        Args:
            seed: the seed of the weights and of training.
            labels: the labels of the samples; None for those that the task needs, if it does.
            batch_size: the samples in a batch.
        """
        number = 4 * batch_size
        task = self.build(seed=seed, samples=number)
        split = ArraySplit(self.data.batch(number), self.labels(number) if labels is None else labels)
        spec = replace(self.data.spec, samples=number)
        dataset = DataSet("conformance", spec, split, None, split)
        train = {"log_every": 1, **self.recipe.get("train", {})}
        short = {"epochs": 8, "samples": None, "minutes": None, "batch_size": batch_size, "seed": seed}
        config = RunConfig(
            task=TaskConfig(name=self.cls.name),
            train=TrainConfig.model_validate({**train, **short, "device": "cpu", "precision": "fp32"}),
        )
        return Trainer(config, dataset, Device.choose(config.train), task)


def _classes(n: int) -> Tensor:
    """Return the classes of the first n samples, int64 [n]."""
    return torch.arange(n) % 2


def _recipe_backbone(task: type[Task]) -> BackboneConfig:
    """Return the backbone of a task's recipe, or a tiny ResNet if it has none or it is invalid."""
    try:
        return BackboneConfig.model_validate(task.recipe["backbone"])
    except (KeyError, TypeError, ValidationError):  # other checks report it
        return TINY


def adam(task: Task, lr: float = 3e-3) -> Optimizer:
    """Return a plain optimiser that applies the task's factors on the learning rate."""
    groups = parameter_groups(task, TrainConfig(weight_decay=0))
    return torch.optim.Adam([{**group, "lr": lr * group["lr_scale"]} for group in groups])


def compute(task: Task, views: tuple[Tensor, ...]) -> Losses:
    """Return the losses of views, with the same dropout each time."""
    with seeded(0):
        losses: Losses = task(views)
    return losses


def backward(task: Task, views: tuple[Tensor, ...]) -> Losses:
    """Compute the losses of views and their gradients, and return the losses."""
    losses = compute(task, views)
    losses.total.backward()
    return losses


def step(task: Task, optimizer: Optimizer, views: tuple[Tensor, ...], progress: float) -> float:
    """Make the optimiser step that `Case.views` has begun, to this progress, and return the loss."""
    loss = backward(task, views).total.item()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    task.after_step(progress)
    return loss


def snapshot(module: nn.Module) -> Snapshot:
    """Return a copy of all parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the names of tensors that differ by a bit, or exist only before or only after."""
    both = before.keys() & after.keys()
    return [n for n in {**before, **after} if n not in both or not same(before[n], after[n])]
