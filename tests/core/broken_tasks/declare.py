"""Declare which check catches a broken task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from ssl_zoo import Task
from ssl_zoo.testing.catalogue import CHECKS

BROKEN: list[Any] = []
"""Parameters of a test: the class, the check that catches it, its message, other failing checks."""
EVERYTHING = frozenset(CHECKS)
TRAINING = (
    "resumed_training_is_the_same",
    "labels_are_never_touched",
    "indices_are_right",
    "progress_is_told",
)
"""Checks that train with the recipe."""
BF16_TOO = ("loss_is_finite_in_bf16",)
"""Fails with every fault that shows in float32."""


def broken(check: str, message: str, *, also: Iterable[str] = ()) -> Callable[[type[Task]], type[Task]]:
    """Declare that a task fails a check.

    Args:
        check: the only one of the quick checks to fail.
        message: a pattern of its message.
        also: further checks that may fail because of the same fault.
    """

    def declare(cls: type[Task]) -> type[Task]:
        BROKEN.append(pytest.param(cls, check, message, set(also), id=cls.__name__))
        return cls

    return declare
