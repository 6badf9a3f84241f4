"""Building blocks that many methods share: projection heads, frozen copies, feature queues."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_zoo.spec import Spec
from ssl_zoo.tree import Tree

M = TypeVar("M", bound=nn.Module)


def full_precision(x: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, for computing a loss; any other as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


MAX_SCORES = 2**24
"""A loss over a larger matrix of scores (64 MiB in float32) is computed in parts."""


def sum_over_rows(loss: Callable[..., Tensor], *rows: Tensor, columns: int) -> Tensor:
    """Sum a loss over the rows of a score matrix, holding only a part of the matrix in memory.

    Each part is recomputed for the gradient, which is exact. A matrix of up to `MAX_SCORES` scores
    is a single part, and is computed once.

    Args:
        loss: maps the same rows of each tensor in `rows` to the sum of their losses, differentiably.
        rows: tensors [B, ...].
        columns: the number of scores that `loss` computes per row.

    Returns:
        A scalar.
    """
    parts = list(zip(*(x.split(max(1, MAX_SCORES // columns)) for x in rows), strict=True))
    if len(parts) == 1:
        return loss(*rows)
    return torch.stack([checkpoint(loss, *part, use_reentrant=False) for part in parts]).sum()


def mlp(widths: Iterable[int], norm: bool = True, last_norm: bool = False) -> nn.Sequential:
    """Build linear layers with batch normalisation and ReLU between them.

    Args:
        widths: the widths of the input, of each hidden layer and of the output.
        norm: whether to normalise hidden layers.
        last_norm: whether to normalise the output too (without a learnt scale and shift).
    """
    widths = list(widths)
    layers: list[nn.Module] = []
    for i, (width, following) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        normed = last_norm if last else norm
        # A normalisation after a linear layer cancels its bias.
        layers.append(nn.Linear(width, following, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(following, affine=not last))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


@torch.no_grad()
def output_shape(encoder: nn.Module, method: Callable[[Tree], Tensor], spec: Spec) -> tuple[int, ...]:
    """Return the shape [1, ...] of a method's output for one sample; `encoder` is left unchanged.

    Use it to build a head that fits, and to fail in `__init__` rather than after training.

    Args:
        encoder: the encoder.
        method: a method of it.
        spec: the description of the samples.

    Raises:
        UserError: raised by the method, e.g. because there is no such stage.
    """
    training = encoder.training
    encoder.eval()
    try:
        return tuple(method(spec.example(1)).shape)
    finally:
        encoder.train(training)


def undecayed_names(module: nn.Module) -> set[str]:
    """Return the names of parameters that a network inside excludes from weight decay, as timm's do.

    These are a transformer's position embedding and class token, beside vectors and scalars.
    """
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if hasattr(part, "no_weight_decay")
        for name in part.no_weight_decay()
    }


def frozen_copy(module: M) -> M:
    """Return a copy without gradients, for a teacher or momentum encoder: saved but not trained."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Update the parameters: average ← momentum · average + (1 - momentum) · module.

    Buffers are left alone: a teacher's BatchNorm statistics follow from its own batches.
    """
    torch._foreach_lerp_(
        list(average.parameters()), [p.detach() for p in module.parameters()], 1 - momentum
    )


class FeatureQueue(nn.Module):
    """A queue of the latest `size` feature vectors, normalised; it starts with random ones.

    Attributes:
        features: [size, width], unit rows.
        place: the row of the oldest vector, which is overwritten next.
    """

    features: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Replace the oldest rows by `features` [B, width]; of more than `size`, keep the last."""
        size = len(self.features)
        self.place += max(0, len(features) - size)
        features = features[-size:]
        rows = (self.place + torch.arange(len(features), device=features.device)) % size
        self.features[rows] = features.to(self.features.dtype)
        self.place.add_(len(features)).remainder_(size)
