"""Counting of the samples that encoders process in a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ssl_zoo.task import Encoder, Task


class Passes:
    """A count of the samples that encoders have processed."""

    samples = 0

    def add(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Add the samples of a call."""
        self.samples += len(inputs[0]) if inputs else 0


@contextmanager
def count_passes(task: Task) -> Iterator[Passes]:
    """Count the samples that pass through the task's encoders, including teachers.

    An encoder can be called in several ways, but all of them begin with its first layer.
    """
    passes = Passes()
    encoders = [module for module in task.modules() if isinstance(module, Encoder)]
    handles = [_first_layer(encoder).register_forward_pre_hook(passes.add) for encoder in encoders]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _first_layer(encoder: Encoder) -> nn.Module:
    leaves = (module for module in encoder.modules() if not list(module.children()))
    return next((leaf for leaf in leaves if list(leaf.parameters())), encoder)
