"""A task under test: how it is built, fed and stepped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_zoo.config.schema import BackboneConfig, DataConfig, RunConfig, TaskConfig, TrainConfig
from ssl_zoo.data import DataSet
from ssl_zoo.data.splits import ArraySplit
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses, Task
from ssl_zoo.testing.setting import TINY, Setting, Source, image_settings
from ssl_zoo.training import Trainer
from ssl_zoo.training.optimizer import parameter_groups
from ssl_zoo.views import Rng

Snapshot = dict[str, Tensor]


class CheckFailed(AssertionError):
    """A task does not keep a promise; the message says which, in one line."""


class CheckSkipped(Exception):
    """A promise cannot be checked here; the message says why."""


def require(condition: bool, message: str) -> None:
    """Make sure that a promise is kept.

    Raises:
        CheckFailed: it is not.
    """
    if not condition:
        raise CheckFailed(message)


@dataclass(frozen=True)
class Case:
    """A task with its options, and what it is checked on.

    Attributes:
        cls: the task.
        options: its options, where they are not the defaults.
        settings: what it is checked on; the first one where one is enough.
    """

    cls: type[Task]
    options: Mapping[str, Any]
    settings: Sequence[Setting]

    @classmethod
    def of(
        cls,
        task: type[Task],
        options: Mapping[str, Any] | None = None,
        backbone: Mapping[str, Any] | BackboneConfig | None = None,
        settings: Sequence[Setting] | None = None,
    ) -> Case:
        """The case of a task.

        Args:
            task: the class.
            options: its options, where they are not the defaults.
            backbone: the ``backbone`` section of a configuration; None for that of the task's recipe,
                or else a tiny ResNet.
            settings: what it is checked on; None for images of several kinds, or for the source
                that the recipe of a task of another modality names.
        """
        if backbone is None:
            given = _recipe_backbone(task)
        elif isinstance(backbone, BackboneConfig):
            given = backbone
        else:
            given = BackboneConfig.model_validate(backbone)
        if settings is None and task.modality != "image":
            settings = [Source(DataConfig.model_validate(task.recipe.get("data", {})), given)]
        if settings is None:
            settings = image_settings(given, 2 if task.needs_labels else None)
        return cls(task, dict(options or {}), settings)

    @property
    def setting(self) -> Setting:
        """What it is checked on where one is enough."""
        return self.settings[0]

    def build(self, setting: Setting | None = None, seed: int = 0) -> Task:
        """The task in training mode, with weights that follow from the seed."""
        setting = setting or self.setting
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.cls(setting.encoder(), self.cls.Options(**self.options), setting.spec).train()

    def views(
        self, task: Task, n: int = 8, seed: int = 0, setting: Setting | None = None
    ) -> tuple[Tensor, ...]:
        """What the task's loss is given of n samples."""
        batch = (setting or self.setting).batch(n)
        return tuple(task.views(batch, Rng(seed))) + self.labels(n)

    def labels(self, n: int) -> tuple[Tensor, ...]:
        """The labels [n] that a task is given which needs them; nothing for any other."""
        return (torch.arange(n) % 2,) if self.cls.needs_labels else ()

    def trainer(self, seed: int = 0, labels: Any = None, batch_size: int = 8) -> Trainer:
        """The zoo's own trainer for the task, with its recipe, on 32 samples."""
        samples = self.setting.batch(4 * batch_size)
        split = ArraySplit(samples, labels)
        data = DataSet("conformance", self.setting.spec, split, None, split)
        train = {"log_every": 1, **self.cls.recipe.get("train", {})}
        given = {"epochs": 8, "images": None, "minutes": None, "batch_size": batch_size, "seed": seed}
        config = RunConfig(
            task=TaskConfig(name=self.cls.name),
            train=TrainConfig.model_validate({**train, **given, "device": "cpu", "precision": "fp32"}),
        )
        return Trainer(config, data, Device.choose(config.train), self.build(seed=seed))


def _recipe_backbone(task: type[Task]) -> BackboneConfig:
    """The backbone that a task's recipe names; a tiny ResNet if there is none, or it is wrong."""
    try:
        return BackboneConfig.model_validate(task.recipe["backbone"])
    except (KeyError, TypeError, ValidationError):  # of which checks of their own tell
        return TINY


def adam(task: Task, lr: float = 3e-3) -> Optimizer:
    """A plain optimiser that heeds the task's factors on the rate."""
    groups = parameter_groups(task, TrainConfig(weight_decay=0))
    return torch.optim.Adam([{**group, "lr": lr * group["lr_scale"]} for group in groups])


def compute(task: Task, views: tuple[Tensor, ...]) -> Losses:
    """The losses of views; dropout, if there is any, is always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        losses: Losses = task(views)
    return losses


def backward(task: Task, views: tuple[Tensor, ...]) -> Losses:
    """The same, and the gradients."""
    losses = compute(task, views)
    losses.total.backward()
    return losses


def step(task: Task, optimizer: Optimizer, views: tuple[Tensor, ...], progress: float) -> float:
    """One optimiser step and what follows it; the loss."""
    loss = backward(task, views).total.item()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    task.after_step(progress)
    return loss


def snapshot(module: nn.Module) -> Snapshot:
    """A copy of all parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """The names of what is not the same to the bit, or not there before or after."""
    both = before.keys() & after.keys()
    return [n for n in {**before, **after} if n not in both or not same(before[n], after[n])]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the bit, in shape and type too."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
