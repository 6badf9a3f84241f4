"""Gradient caching: the network processes a large batch in parts, the loss the whole batch.

Gradient caching (Gao et al. 2021, arXiv:2101.06983) computes embeddings without storing activations,
then the gradient of the loss with respect to the embeddings. It then computes each part again and
backpropagates that gradient through it. Here the encoder does this itself with torch's activation
checkpoints, so it works with every task and loss, and heads see the whole batch.

Value and gradient are those of the plain batch, for an encoder that treats samples independently. Batch
normalisation does not: its statistics are those of a part, as with several devices that share a batch.
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
    """Make an encoder process batches in parts while it is in training mode; return it.

    Copies of it, such as teachers, do so too. Names and values of its parameters stay as they are.

    Args:
        encoder: any encoder; it is changed in place.
        part_size: the maximum number of samples in a part; parts are as even as possible.
    """
    cls = type(encoder)
    encoder.__class__ = type(f"Cached{cls.__name__}", (_Cached, cls), {"part_size": part_size})
    return encoder


class _Cached(Encoder):
    """The mix-in placed before an encoder's class."""

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
        """Return the outputs of a method for each part of a batch."""
        number = math.ceil(len(batch[0]) / self.part_size) if self.training else 1
        parts = list(zip(*(x.tensor_split(max(1, number)) for x in batch), strict=True))
        if len(parts) == 1 or not torch.is_grad_enabled():
            return [method(*part) for part in parts]

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _still(self)

        return [checkpoint(method, *p, use_reentrant=False, context_fn=contexts) for p in parts]


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Temporarily freeze the running statistics of batch norms, which are already updated."""
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
