"""Strided convolutions of maps that are smaller than their stride."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def pad_small_maps(model: nn.Module) -> None:
    """Let a model's strided convolutions enlarge maps that are smaller than the stride, in training.

    Zeros are added on the right and below, where the convolution takes the map for zero anyway, so the
    output is the same. Without them torch's gradient of the weights that meet no pixel is what happens
    to be in memory, in bfloat16 on CPUs with AMX: at times infinite, at times merely wrong. Such maps
    come from patches of few pixels, and in the last stage of a network for larger images.

    Args:
        model: a network, changed in place.
    """
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and max(part.stride) > 1 and _keeps_size(part):
            part.register_forward_pre_hook(_padded)


def _keeps_size(convolution: nn.Conv2d) -> bool:
    """Return whether the output would be as large as the input, but for the stride."""
    if isinstance(convolution.padding, str):
        return False
    sizes = zip(convolution.kernel_size, convolution.dilation, convolution.padding, strict=True)
    return all(d * (k - 1) == 2 * p for k, d, p in sizes)


def _padded(convolution: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    (x,) = inputs
    missing = [max(s - side, 0) for s, side in zip(convolution.stride, x.shape[2:], strict=True)]
    if not convolution.training or not any(missing):
        return None
    return (F.pad(x, (0, missing[1], 0, missing[0])),)
