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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ssl_zoo.task import Encoder
from ssl_zoo.tree import Tree, join, rows, size


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

    def forward(self, x: Tree) -> Tensor:
        return self._in_parts(super().forward, x)  # type: ignore[safe-super, no-any-return]

    def feature_map(self, x: Tree, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        method = super().feature_map  # type: ignore[safe-super]
        return self._in_parts(method, x, {"hidden": hidden}, {"token": token})  # type: ignore[no-any-return]

    def pooled_and_map(
        self, x: Tree, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        method = super().pooled_and_map
        return self._in_parts(method, x, {"hidden": hidden}, {"token": token})  # type: ignore[no-any-return]

    def stages(
        self, x: Tree, indices: Sequence[int], hidden: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        stages = super().stages

        def flat(x: Tree, **options: Any) -> tuple[Tensor, ...]:
            pooled, maps = stages(x, indices, **options)
            return pooled, *maps

        pooled, *maps = self._in_parts(flat, x, {"hidden": hidden})
        return pooled, maps

    def tokens(
        self,
        x: Tree,
        visible: Tensor | None = None,
        attend: Tensor | None = None,
        prefix: bool = False,
    ) -> Tensor:
        split: dict[str, Tensor | None] = {"visible": visible}
        whole: dict[str, Any] = {"prefix": prefix or None}
        (whole if attend is not None and len(attend) == 1 else split)["attend"] = attend
        return self._in_parts(super().tokens, x, split, whole)  # type: ignore[no-any-return]

    def _in_parts(
        self,
        method: Callable[..., Any],
        x: Tree,
        split: Mapping[str, Tensor | None] | None = None,
        whole: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the joined outputs of a method for each part of a batch.

        Args:
            method: a method of the encoder, whose outputs are trees.
            x: the batch, B samples.
            split: further arguments [B, ...] by name; those that are None are left out.
            whole: arguments that are the same for each part; those that are None are left out.
        """
        batch = size(x)
        number = max(1, math.ceil(batch / self.part_size)) if self.training else 1
        same = {name: value for name, value in (whole or {}).items() if value is not None}
        given = {name: value for name, value in (split or {}).items() if value is not None}

        if number == 1:
            return method(x, **given, **same)
        small, larger = divmod(batch, number)
        ends = [i * small + min(i, larger) for i in range(number + 1)]
        calls = [
            (rows(x, part), {name: value[part] for name, value in given.items()} | same)
            for part in (slice(*ends[i : i + 2]) for i in range(number))
        ]
        if not torch.is_grad_enabled():
            return join([method(part, **options) for part, options in calls])

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), frozen_statistics(self)

        # The batch is an argument of its own, so that torch finds the device whose dropout it repeats.
        return join(
            [
                checkpoint(method, part, use_reentrant=False, context_fn=contexts, **options)
                for part, options in calls
            ]
        )


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Temporarily freeze the running statistics of batch norms, as while activations are recomputed.

    The first computation has updated them.
    """
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
