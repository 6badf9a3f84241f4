"""Buffers that take in what a step has seen once that step is made."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class DeferredUpdate(nn.Module, ABC):
    """A buffer updated after each step by what `Task.loss` noted: the base of queues, banks and centres.

    Noting changes no buffer, so a loss computed twice is the same, and nothing is noted in evaluation
    mode. `Task.after_step` calls `update`. `Task.before_step` calls `clear`, which matters after a step
    whose gradient overflowed in fp16, as that has no `after_step`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[tuple[Tensor, ...]] = []

    def note(self, *tensors: Tensor) -> None:
        """Keep tensors of this process for the next `update`, without their gradient."""
        if self.training:
            self._notes.append(tuple(x.detach() for x in tensors))

    @property
    def noted(self) -> int:
        """The number of rows of this process that the next `update` takes in."""
        return sum(len(tensors[0]) for tensors in self._notes)

    def clear(self) -> None:
        """Forget what was noted."""
        self._notes.clear()

    @abstractmethod
    def update(self) -> None:
        """Take in what all processes noted, and forget it; every process must call it."""
