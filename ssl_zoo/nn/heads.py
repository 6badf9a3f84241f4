"""Heads: small networks on top of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from torch import nn


def mlp(
    widths: Iterable[int],
    norm: bool = True,
    last_norm: bool = False,
    act: Callable[[], nn.Module] = nn.ReLU,
    bias: bool | None = None,
    std: float | None = None,
) -> nn.Sequential:
    """Build linear layers with batch normalisation and an activation between them.

    The projector of SimSiam, and the head of DINO before its prototypes:

        mlp([2048, 2048, 2048, 2048], last_norm=True)
        mlp([384, 2048, 2048, 256], norm=False, act=nn.GELU, std=0.02)

    Args:
        widths: the widths of the input, of each hidden layer and of the output.
        norm: whether to normalise hidden layers.
        last_norm: whether to normalise the output too (without a learnt scale and shift).
        act: the activation, such as `nn.GELU`.
        bias: whether layers have a bias; None for those that no normalisation follows, which would
            cancel it. VICReg's and Barlow Twins' heads have none, SwAV's has them everywhere.
        std: the standard deviation of weights, truncated at 2, with biases of 0, as in transformers;
            None for PyTorch's default.
    """
    widths = list(widths)
    layers: list[nn.Module] = []
    for i, (width, following) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        normed = last_norm if last else norm
        layer = nn.Linear(width, following, bias=not normed if bias is None else bias)
        if std is not None:
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        layers.append(layer)
        if normed:
            layers.append(nn.BatchNorm1d(following, affine=not last))
        if not last:
            layers.append(act())
    return nn.Sequential(*layers)
