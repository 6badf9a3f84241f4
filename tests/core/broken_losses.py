"""Losses that are not ours, of which each fails one check of the suite."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.nn import Centre, full_precision, nt_xent


def sound(a: Tensor, b: Tensor, temperature: float = 0.5) -> Tensor:
    return nt_xent(F.normalize(a, dim=1), F.normalize(b, dim=1), temperature)


class OfAList(nn.Module):
    """A module with a parameter that takes a list of embeddings."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, z: list[Tensor]) -> Tensor:
        assert isinstance(z, list)
        return self.scale * full_precision(z[0] - z[1]).pow(2).mean()


def to_prototypes(a: Tensor, prototypes: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        a, prototypes = full_precision(a), full_precision(prototypes)
        return -(F.normalize(a, dim=1) @ prototypes.T).logsumexp(1).mean()


def of_named_views(*, local: Tensor, large: Tensor) -> Tensor:
    return (local - large.mean(0)).pow(2).mean()


class Needy:
    """A loss that cannot be built without its argument."""

    def __init__(self, width: int) -> None:
        self.width = width


def a_vector(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).pow(2).mean(1)


def partly_detached(a: Tensor, b: Tensor) -> Tensor:
    z = F.normalize(a, dim=1)
    return ((z @ (z.T @ z).detach()) * z).sum(1).mean() - (z * b).mean()


class Doubled(torch.autograd.Function):
    """The identity with twice the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


def doubled(a: Tensor, b: Tensor) -> Any:
    return Doubled.apply(sound(a, b))


def in_half(a: Tensor, b: Tensor) -> Tensor:
    """Subtract large numbers in the inputs' type."""
    return ((a + 64) - (b + 64)).pow(2).mean()


def spread(a: Tensor) -> Tensor:
    """Infinite where embeddings coincide."""
    return -(a - a.roll(1, 0)).norm(dim=1).log().mean()


def drawn(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) @ torch.randn(a.shape[1], 1, dtype=a.dtype)).pow(2).mean()


class Moving(nn.Module):
    """A loss whose centre moves in the call."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = Centre(8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        loss = (self.centre(a) - full_precision(b)).pow(2).mean()
        self.centre.note(a)
        self.centre.update()
        return loss


class Local(nn.Module):
    """A loss that couples samples, and gathers on demand."""

    def __init__(self, gather_distributed: bool = False) -> None:
        super().__init__()
        self.gather = gather_distributed

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if self.gather:
            return sound(a, b)
        with distributed.alone():
            return sound(a, b)


def reduced_without_gradient(a: Tensor, b: Tensor) -> Tensor:
    """Barlow Twins' way: the sum over processes is not seen by autograd."""
    c = a.T @ b / len(a)
    if distributed.world_size() > 1:
        dist.all_reduce(c.div_(distributed.world_size()))
    return c.pow(2).sum()
