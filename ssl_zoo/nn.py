"""The parts that many methods share: projection heads, frozen copies, queues of features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_zoo.spec import ImageSpec

M = TypeVar("M", bound=nn.Module)


def full_precision(x: Tensor) -> Tensor:
    """Half-precision values as float32, in which losses are to be computed; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


MOST_SCORES = 2**24
"""Losses over larger matrices of scores than this (64 MiB in float32) are computed in parts."""


def sum_over_rows(loss: Callable[..., Tensor], *rows: Tensor, columns: int) -> Tensor:
    """The sum of a loss over the rows of a matrix of scores of which only a part is ever in memory.

    Each part is computed again for the gradient, which is exact. A matrix of up to `MOST_SCORES`
    scores is a single part, and computed once.

    Args:
        loss: from the same rows of each of `rows` to the sum of their losses, differentiable.
        rows: tensors [B, ...].
        columns: how many scores `loss` makes of a row.

    Returns:
        A scalar.
    """
    parts = list(zip(*(x.split(max(1, MOST_SCORES // columns)) for x in rows), strict=True))
    if len(parts) == 1:
        return loss(*rows)
    return torch.stack([checkpoint(loss, *part, use_reentrant=False) for part in parts]).sum()


def mlp(widths: Iterable[int], norm: bool = True, last_norm: bool = False) -> nn.Sequential:
    """Linear layers with batch normalisation and ReLU between them.

    Args:
        widths: the width of the input, of each hidden layer and of the output.
        norm: whether hidden layers are normalised.
        last_norm: whether the output is normalised too (without a learnt scale and shift).
    """
    widths = list(widths)
    layers: list[nn.Module] = []
    for i, (width, following) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        normed = last_norm if last else norm
        # A normalisation that follows makes the bias of a linear layer meaningless.
        layers.append(nn.Linear(width, following, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(following, affine=not last))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


@torch.no_grad()
def output_shape(
    encoder: nn.Module, method: Callable[[Tensor], Tensor], spec: ImageSpec
) -> tuple[int, ...]:
    """The shape [1, ...] of what a method of `encoder` makes of an image, without leaving a trace.

    For a head that must fit it, and to refuse at once what would fail only after training.

    Raises:
        UserError: the method does, e.g. because there is no such stage.
    """
    training = encoder.training
    encoder.eval()
    try:
        return tuple(method(torch.zeros(1, spec.channels, spec.size, spec.size)).shape)
    finally:
        encoder.train(training)


def frozen_copy(module: M) -> M:
    """A copy that no gradient reaches: a teacher or a momentum encoder. It is saved, but not trained."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Average ← momentum · average + (1 - momentum) · module, for the parameters, in one fused call.

    Buffers stay as they are: a teacher's BatchNorm statistics follow from its own batches.
    """
    torch._foreach_lerp_(
        list(average.parameters()), [p.detach() for p in module.parameters()], 1 - momentum
    )


class FeatureQueue(nn.Module):
    """The latest `size` feature vectors, normalised; it starts with random ones.

    Attributes:
        features: [size, width], unit rows.
        place: the row that is overwritten next, where the oldest vector is.
    """

    features: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Put the rows [B, width] in the place of the oldest. Of more than `size` rows the last stay."""
        size = len(self.features)
        self.place += max(0, len(features) - size)
        features = features[-size:]
        rows = (self.place + torch.arange(len(features), device=features.device)) % size
        self.features[rows] = features.to(self.features.dtype)
        self.place.add_(len(features)).remainder_(size)
