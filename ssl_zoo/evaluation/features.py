"""From images to frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_zoo.data import DataSet, Split, batches


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
    function: Callable[[Tensor], Tensor], split: Split, device: torch.device, batch_size: int = 512
) -> Tensor:
    """Apply a function of raw batches to a whole split.

    Args:
        function: a raw batch [B, ...] on the device to features [B, D].
        split: the samples.
        device: where `function` computes.
        batch_size: the number of samples at a time.

    Returns:
        [N, D] float32, on the device.
    """
    parts = batches(split, torch.arange(len(split)), batch_size, drop_last=False)
    return torch.cat([function(batch.to(device)).float() for batch in parts])


def extract_features(
    function: Callable[[Tensor], Tensor], data: DataSet, device: torch.device
) -> Features | None:
    """The features of a data set's bank and test split; None where it has no labels to go by."""
    if data.test is None or data.bank.labels is None or data.test.labels is None:
        return None
    bank, test = (extract(function, split, device) for split in (data.bank, data.test))
    return Features(
        bank=bank,
        bank_labels=data.bank.labels.to(device),
        test=test,
        test_labels=data.test.labels.to(device),
        classes=int(max(data.bank.labels.max(), data.test.labels.max())) + 1,
    )
