"""From samples to frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_zoo.data import Split
from ssl_zoo.errors import SslZooError


@dataclass(frozen=True)
class Features:
    """Features and labels of the part that is learnt from and of the part that is tested.

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


@torch.no_grad()
def extract(
    function: Callable[[Tensor], Tensor],
    split: Split,
    device: torch.device,
    numbers: Tensor | None = None,
    batch_size: int = 512,
) -> Tensor:
    """Apply a function of raw batches to a split.

    Args:
        function: a raw batch [B, ...] on the device to features [B, D].
        split: the samples.
        device: where `function` computes.
        numbers: which samples [N]; None for all.
        batch_size: the number of samples at a time.

    Returns:
        [N, D] float32, on the device.

    Raises:
        SslZooError: a feature is not a finite number.
    """
    numbers = torch.arange(len(split)) if numbers is None else numbers
    parts = split.stream(numbers, batch_size)
    features = torch.cat([function(batch.to(device)).float() for batch in parts])
    sound = features.isfinite().flatten(1).all(1)
    if not sound.all():
        raise SslZooError(
            f"the features of {int((~sound).sum())} of {len(sound)} samples are not finite; "
            "the network has diverged: train it with a lower --lr, or evaluate with --precision fp32"
        )
    return features


def sample_indices(total: int, most: int) -> Tensor:
    """The numbers [N] of at most so many samples, always the same ones, in order."""
    if total <= most:
        return torch.arange(total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return order[:most].sort().values
