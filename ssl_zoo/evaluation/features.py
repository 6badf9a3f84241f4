"""Extracting frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_zoo import distributed, tree
from ssl_zoo.data import Split
from ssl_zoo.errors import SslZooError
from ssl_zoo.evaluation import shares
from ssl_zoo.runtime.eval_batch import EvalBatch
from ssl_zoo.tree import Tree


@dataclass(frozen=True)
class Features:
    """Features and labels of the bank, which a classifier learns from, and of the test split.

    They are of all N and M samples, or of one process's shares of them.

    Attributes:
        bank: [N, D] float32.
        bank_labels: [N] int64.
        test: [M, D] float32.
        test_labels: [M] int64.
        classes: the number of classes.
    """

    bank: Tensor
    bank_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


def extract(
    function: Callable[[Tree], Tensor],
    split: Split,
    device: torch.device,
    numbers: Tensor | None = None,
    batch_size: int | EvalBatch | None = None,
) -> Tensor:
    """Apply a function of raw batches to a split.

    Args:
        function: maps a raw batch [B, ...] on the device to features [B, D].
        split: the samples.
        device: the device of `function`.
        numbers: the indices [N] of the samples; None for all.
        batch_size: the number of samples per batch, such as `Device.eval_batch`; None for its default.
            Where memory runs out, fewer pass through the function at a time.

    Returns:
        [N, D] float32, on the device.

    Raises:
        SslZooError: a feature is not a finite number, or one sample does not fit into memory.
    """
    batches = batch_size if isinstance(batch_size, EvalBatch) else EvalBatch(batch_size)
    numbers = torch.arange(len(split)) if numbers is None else numbers
    return _extract(function, split, device, numbers, batches, _size(batches, split))


def extract_share(
    function: Callable[[Tree], Tensor],
    split: Split,
    device: torch.device,
    numbers: Tensor,
    batches: EvalBatch,
) -> Tensor:
    """Apply a function of raw batches to this process's share of samples, as `extract` does to all.

    All processes must call it. The network must not communicate, as shares differ in size.

    Returns:
        [n, D] float32, on the device; the shares of the processes follow each other.

    Raises:
        SslZooError: as `extract`, and in all processes if in one.
    """
    with distributed.failing_together():
        size = _size(batches, split)
    size = min(distributed.exchange(size))  # memory may have run out in one process alone
    own = numbers[shares.rows(len(numbers), size)]
    features = None
    with distributed.failing_together():
        if len(own) or distributed.world_size() == 1:
            with distributed.alone():
                features = _extract(function, split, device, own, batches, size)
    shapes = distributed.exchange(None if features is None else features.shape[1:])
    if features is None:
        features = torch.empty(0, *next((s for s in shapes if s is not None), ()), device=device)
    return features


def _size(batches: EvalBatch, split: Split) -> int:
    return batches.size(split.nbytes / max(1, len(split)))


@torch.no_grad()
def _extract(
    function: Callable[[Tree], Tensor],
    split: Split,
    device: torch.device,
    numbers: Tensor,
    batches: EvalBatch,
    size: int,
) -> Tensor:
    """Return the features of samples that are read `size` at a time."""

    def compute(batch: Tree) -> Tensor:
        return function(tree.move(batch, device)).float()

    raw = split.stream(numbers, size)
    features = torch.cat([batches.apply(compute, batch) for batch in raw])
    finite = features.isfinite().flatten(1).all(1)
    if not finite.all():
        raise SslZooError(
            f"the features of {int((~finite).sum())} of {len(finite)} samples are not finite; "
            "the network has diverged: train it with a lower --lr, or evaluate with --precision fp32"
        )
    return features
