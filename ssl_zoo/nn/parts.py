"""Losses in float32, unit vectors and their products, and sums in parts where scores would be many."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import ssl_zoo.nn


def full_precision(x: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, for computing a loss; any other as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: Tensor) -> Tensor:
    """Return vectors [..., D] of unit length, in float32 for half precision; 0 stays 0."""
    return F.normalize(full_precision(x), dim=-1)


def layer_normalised(x: Tensor) -> Tensor:
    """Return rows [..., d], each less its mean and divided by its deviation, in float32.

    It is a layer norm without scale and shift, as data2vec and I-JEPA apply to their targets.
    """
    return F.layer_norm(full_precision(x), x.shape[-1:])


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product of [..., n, D] and [..., D, m] in float32, also under autocast.

    Scores are divided by temperatures as low as 0.05, which would multiply the error of half precision.
    """
    with torch.autocast(a.device.type, enabled=False):
        return full_precision(a) @ full_precision(b)


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """Return the deviation of unit rows relative to random directions, a scalar without gradient.

    √D times the mean over columns of their deviation (Chen & He 2020, arXiv:2011.10566, section 4.1):
    1 for evenly spread directions, 0 for collapsed embeddings.

    Args:
        z: embeddings [B, D] of any length.
    """
    return unit(z).std(0).mean().mul(z.shape[1] ** 0.5)


def sum_over_rows(loss: Callable[..., Tensor], *rows: Tensor, columns: int) -> Tensor:
    """Sum a loss over the rows of a score matrix, holding only a part of the matrix in memory.

    Each part is recomputed for the gradient, which is exact. A matrix of up to `MAX_SCORES` scores
    is a single part, and is computed once.

        def cross_entropy(z: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(z @ candidates.T, targets, reduction="sum")

        loss = sum_over_rows(cross_entropy, z, targets, columns=len(candidates)) / len(z)

    Args:
        loss: maps the same rows of each tensor in `rows` to the sum of their losses, differentiably; a
            scalar, or several sums in a tensor.
        rows: tensors [B, ...].
        columns: the number of scores that `loss` computes per row.

    Returns:
        The sum, of the shape that `loss` returns.
    """
    # Looked up in the package, where a user may set another limit.
    limit = max(1, ssl_zoo.nn.MAX_SCORES // columns)
    parts = list(zip(*(x.split(limit) for x in rows), strict=True))
    if len(parts) == 1:
        return loss(*rows)
    return torch.stack([checkpoint(loss, *part, use_reentrant=False) for part in parts]).sum(0)


def byol_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of unit vectors, 2 - 2·cos (Grill et al. 2020, equation 2).

    Args:
        prediction: [B, D].
        target: [B, D], without gradient.

    Returns:
        The mean over B, in [0, 4].
    """
    prediction, target = full_precision(prediction), full_precision(target)
    return 2 - 2 * F.cosine_similarity(prediction, target, dim=1).mean()
