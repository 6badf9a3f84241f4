"""Counting of the samples that encoders process in a step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ssl_zoo import tree
from ssl_zoo.task import Encoder, Task

METHODS = ("forward", "feature_map", "pooled_and_map", "stages", "tokens")
"""The methods that pass a batch through any encoder; `Encoder.passing_methods` are further ones."""


class Passes:
    """A count of the samples that encoders have processed.

    Attributes:
        samples: the count; of a call inside of another, as of `forward` in `stages`, only the outer.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._inside = False

    def counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of an encoder that also counts the samples of its first argument."""

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return method(*args, **kwargs)
            self.samples += tree.size(args[0] if args else kwargs["x"])
            self._inside = True
            try:
                return method(*args, **kwargs)
            finally:
                self._inside = False

        return call


@contextmanager
def count_passes(task: Task) -> Iterator[Passes]:
    """Count the samples that pass through the task's encoders meanwhile, including teachers."""
    passes = Passes()
    encoders = [module for module in task.modules() if isinstance(module, Encoder)]
    wrapped = [(encoder, name) for encoder in encoders for name in (*METHODS, *encoder.passing_methods)]
    for encoder, name in wrapped:
        vars(encoder)[name] = passes.counted(getattr(encoder, name))
    try:
        yield passes
    finally:
        for encoder, name in wrapped:
            del vars(encoder)[name]
