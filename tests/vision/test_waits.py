"""In a step no task waits for the device: no value is read, and no shape depends on values.

Operators of these kinds are refused here; on a GPU each of them would wait for all that was queued.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.vision.tiny_tasks import fixed_views, tiny
from tests.zoo import shipped

WAITING = {"msn"}
"""Tasks that wait: views of msn's are encoded by groups of images with as many visible patches."""

OTHERS = {"cpc"}
"""Tasks for which `tiny` has no network."""

READS = ("local_scalar_dense", "equal", "nonzero", "masked_select", "unique", "repeat_interleave")
"""How the names of operators begin, without underscores, whose result is a value, or has a size that
depends on values."""


class RefuseWaits(TorchDispatchMode):
    """A mode in which an operator raises for which a GPU would be waited for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::").lstrip("_")
        reads = name.startswith(READS)
        if name.startswith("index") and len(args) > 1 and isinstance(args[1], list):
            reads |= any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])
        if reads and func is not torch.ops.aten.repeat_interleave.self_int:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted({*shipped()} - WAITING - OTHERS))
def test_a_step_waits_for_nothing(name: str) -> None:
    task = tiny(name, dtype=torch.float32).train()
    for step in range(3):  # the first ones may count what is there
        task.before_step(step / 50)
        views = fixed_views(task, seed=step)
        if step < 2:
            task.loss(views).total.backward()
            task.after_step((step + 1) / 50)
    with RefuseWaits():
        task.loss(views).total.backward()
        task.after_step(3 / 50)
