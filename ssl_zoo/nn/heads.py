"""Heads: small networks on top of an encoder."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from torch import nn


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
