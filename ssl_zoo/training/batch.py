"""The samples of one forward pass, and the input of a task's loss that they become."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.data import Split
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Task
from ssl_zoo.tree import Tree
from ssl_zoo.views import Rng


class Batch(NamedTuple):
    """The samples that one forward pass trains on.

    Attributes:
        raw: the samples [B, ...].
        numbers: their indices in the train split, int64 [B].
        needed: what the task's `needs` ask for beside them, each [B].
    """

    raw: Tree
    numbers: Tensor
    needed: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, raw: Tree, numbers: Tensor, task: Task, split: Split) -> Batch:
        """Return samples of a split with what the task's `needs` ask for of them, in their order."""
        known = {"index": numbers}
        if split.labels is not None and "labels" in task.needs:
            known["labels"] = split.labels[numbers]
        return cls(raw, numbers, tuple(known[name] for name in task.needs))

    def views(self, task: Task, rng: Rng, device: Device) -> tuple[Tensor, ...]:
        """Return the input of the task's `loss`, on the device."""
        raw = tree.move(self.raw, device.device, non_blocking=True)
        views = tuple(device.to_format(v) for v in task.views(raw, rng))
        return views + tuple(tree.move(self.needed, device.device, non_blocking=True))
