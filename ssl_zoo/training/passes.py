"""How much of an encoder's work a step takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ssl_zoo.task import Encoder, Task


class Passes:
    """A count of the images that encoders have seen."""

    images = 0

    def note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Count the images of a call."""
        self.images += len(inputs[0]) if inputs else 0


@contextmanager
def counting(task: Task) -> Iterator[Passes]:
    """Within, count the images that go through the task's encoders, teachers' among them.

    An encoder can be called in several ways, but all of them begin with its first layer.
    """
    passes = Passes()
    encoders = [module for module in task.modules() if isinstance(module, Encoder)]
    handles = [_first_layer(encoder).register_forward_pre_hook(passes.note) for encoder in encoders]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _first_layer(encoder: Encoder) -> nn.Module:
    leaves = (module for module in encoder.modules() if not list(module.children()))
    return next((leaf for leaf in leaves if list(leaf.parameters())), encoder)
