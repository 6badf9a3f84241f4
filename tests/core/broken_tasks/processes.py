"""Tasks whose processes do not agree."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Losses, distributed
from ssl_zoo.nn import full_precision
from tests.core.broken_tasks.declare import broken
from tests.core.sound_tasks import Queued, Sound


@broken(
    "two_processes_are_one",
    "the loss is .* in one process, .* in two: gather tensors that couple samples",
)
class NegativesNeverGathered(Sound):
    """Each process has only its own negatives."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        q, k = map(self.embed, views)
        return Losses(F.cross_entropy(self.logits(q, k), torch.arange(len(q))))


@broken(
    "two_processes_are_one", "the gradient of .* is not that of one process .*: gather with gradient"
)
class GatheredWithoutGradient(Sound):
    """The embeddings of other processes are gathered, but get no gradient."""

    def gathered(self, k: Tensor) -> Tensor:
        if distributed.world_size() == 1:
            return k
        parts = [torch.empty_like(k) for _ in range(distributed.world_size())]
        dist.all_gather(parts, k.detach())
        parts[distributed.rank()] = k
        return torch.cat(parts)


@broken("two_processes_are_one", "the gradient of .* is not that of one process .off by 50 %.")
class SummedWithoutItsGradient(Sound):
    """The loss of the joint batch has a gradient that is divided by the number of processes."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        losses = super().loss(views)
        return Losses(losses.total / distributed.world_size() + self.rest(losses.total))

    def rest(self, loss: Tensor) -> Tensor:
        """Return what is missing of the loss, without gradient."""
        return loss.detach() * (1 - 1 / distributed.world_size())


@broken("two_processes_are_one", "the loss is .* in one process, .* in two")
class TargetsOfTheFirstProcess(Sound):
    """Each process takes its samples for the first ones of the joint batch."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        q, k = map(self.embed, views)
        return Losses(F.cross_entropy(self.logits(q, self.gathered(k)), torch.arange(len(q))))


@broken("two_processes_are_one", "the loss is .* in one process, .* in two")
class LabelsShiftedByRank(Sound):
    """The second process learns other labels."""

    needs = ("labels",)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        x, _, labels = views
        shifted = (labels + distributed.rank()) % 2
        return Losses(F.cross_entropy(full_precision(self.head(self.encoder(x))), shifted))


@broken("two_processes_are_one", "queue.features differs between processes after a step: gather the")
class QueueOfEachProcess(Queued):
    """Each process queues only its own keys."""

    def push(self, keys: Tensor) -> None:
        self.queue.push(self.new)


@broken(
    "two_processes_are_one",
    "one of two processes failed: RuntimeError: the second process has no data",
)
class SecondProcessThatFails(Sound):
    """One process fails while the other waits for it."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        if distributed.rank() == 1:
            raise RuntimeError("the second process has no data")
        return super().loss(views)
