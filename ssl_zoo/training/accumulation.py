"""The losses of the batches of one optimiser step, and how much each batch counts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.task import Losses


class Accumulation:
    """The losses of a step's batches, on all processes, of which each counts by its weight.

    The gradient is that of the joint batch, Σ w ∇L / Σ w. As Σ w is known only at the end, each loss is
    multiplied by its weight relative to the first batch's, a number near 1 (which keeps fp16 in range),
    and the gradient is divided by their sum.

    Args:
        number: the number of batches that this process accumulates.

    Attributes:
        each: the losses so far, without their graphs.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.each: list[Losses] = []
        self._alone = number == 1 and distributed.world_size() == 1
        self._unit = torch.ones(())

    def add(self, losses: Losses) -> Tensor:
        """Add the losses of the next batch, and return the scalar to differentiate."""
        losses = _without_targets(losses)
        total = losses.total / self.number
        logs = {name: value.detach() for name, value in losses.logs.items()}
        added = Losses(losses.total.detach().reshape(()), logs)
        if losses.weight is not None and not self._alone:
            added.weight = losses.weight.detach().to(added.total.dtype)
            if not self.each:
                self._unit = distributed.nonzero(distributed.mean(added.weight))
            total = total * (added.weight / self._unit)
        self.each.append(added)
        return total

    def normalise(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the sum of the weights."""
        weight = self.mean().weight
        if weight is None:
            return
        divisor = distributed.nonzero(distributed.mean(weight / self._unit))
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= divisor

    @property
    def totals(self) -> list[Tensor]:
        """The loss of each batch."""
        return [losses.total for losses in self.each]

    def mean(self) -> Losses:
        """Return the weighted mean of the losses and logs, and the mean weight, of this process."""
        first, *others = self.each
        if not others:
            return first
        weights = [losses.weight for losses in self.each if losses.weight is not None]
        weight = torch.stack(weights) if weights else torch.ones_like(torch.stack(self.totals))
        share = weight / distributed.nonzero(weight.sum())

        def joint(values: list[Tensor]) -> Tensor:
            return (torch.stack([value.to(share.dtype) for value in values]) * share).sum()

        logs = {name: joint([losses.logs[name] for losses in self.each]) for name in first.logs}
        return Losses(joint(self.totals), logs, weight.mean() if weights else None)


def _without_targets(losses: Losses) -> Losses:
    """Return losses that are 0 where there is no target, as a mean over none is not a number."""
    weight = losses.weight
    if weight is None:
        return losses
    any_target = weight > 0
    logs = {name: value.where(any_target, 0.0) for name, value in losses.logs.items()}
    return Losses(losses.total.where(any_target, 0.0), logs, weight)
