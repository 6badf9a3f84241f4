"""A large batch on a small device: the network sees it in parts, the loss sees it whole.

Gradient caching (Gao et al. 2021, arXiv:2101.06983) computes embeddings without keeping what the
backward pass needs, then the gradient of the loss with respect to them, and then each part again with
that gradient at its end. Here the encoder does so by itself, with torch's checkpoints: what a loss makes
of its features is none of its business, so it serves every task, and heads see the whole batch.

The value and the gradient are those of the plain batch, for an encoder that treats each sample by
itself. Batch normalisation does not: it takes its statistics of a part, as it does of a device's share
when several devices share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ssl_zoo.task import Encoder

T = TypeVar("T")


def cache_gradients(encoder: Encoder, part_size: int) -> Encoder:
    """The same encoder, which from now on takes a batch in parts while it is in training.

    Its copies, such as teachers, do so too. Names and values of its parameters stay as they are.

    Args:
        encoder: any encoder; it is changed in place.
        part_size: the most samples in a part; parts are as even as they can be.
    """
    cls = type(encoder)
    encoder.__class__ = type(f"Cached{cls.__name__}", (_Cached, cls), {"part_size": part_size})
    return encoder


class _Cached(Encoder):
    """What stands before an encoder's class."""

    part_size: int

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._parts(super().forward, x))  # type: ignore[safe-super]

    def feature_map(self, x: Tensor) -> Tensor:
        return torch.cat(self._parts(super().feature_map, x))  # type: ignore[safe-super]

    def tokens(self, x: Tensor, visible: Tensor) -> Tensor:
        return torch.cat(self._parts(super().tokens, x, visible))

    def stages(self, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        stages = super().stages

        def flat(part: Tensor) -> tuple[Tensor, ...]:
            pooled, maps = stages(part, indices)
            return pooled, *maps

        pooled, *maps = (torch.cat(parts) for parts in zip(*self._parts(flat, x), strict=True))
        return pooled, maps

    def _parts(self, method: Callable[..., T], *batch: Tensor) -> list[T]:
        """What a method makes of each part of a batch."""
        number = math.ceil(len(batch[0]) / self.part_size) if self.training else 1
        parts = list(zip(*(x.tensor_split(max(1, number)) for x in batch), strict=True))
        if len(parts) == 1 or not torch.is_grad_enabled():
            return [method(*part) for part in parts]

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _still(self)

        return [checkpoint(method, *p, use_reentrant=False, context_fn=contexts) for p in parts]


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Within, batch normalisations leave their running statistics alone, which have moved already."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None  # not counted
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
