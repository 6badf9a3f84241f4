"""Spherical k-means."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import ssl_zoo.nn
from ssl_zoo.nn.parts import unit


@torch.no_grad()
def kmeans(x: Tensor, number: int, rounds: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cluster unit vectors by their cosine with unit centroids (spherical k-means).

    Each round assigns every row to the nearest centroid a_i = argmax_k u(x_i)·c_k, then sets
    c_k = u(Σ_{i: a_i = k} u(x_i)). It starts from random rows; an empty cluster keeps its centroid.
    The same rows and seed give the same clusters in every process. Source: DeepCluster v2,
    arXiv:2006.09882, appendix C, and the authors' code.

        centroids, assignments = kmeans(bank.features, 3000, seed=epoch)

    Args:
        x: rows [N, D] of any length, the same in every process.
        number: K, the number of clusters.
        rounds: the number of rounds, at least 0.
        seed: the seed of the rows to start from.

    Returns:
        Centroids [K, D], unit rows, and the nearest centroid of each row, int64 [N].

    Raises:
        ValueError: there are fewer rows than clusters.
    """
    if len(x) < number:
        raise ValueError(f"{len(x)} rows cannot form {number} clusters")
    with torch.autocast(x.device.type, enabled=False):
        x = unit(x)
        start = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:number]
        centroids = x[start.to(x.device)]
        for _ in range(rounds):
            sums = torch.zeros_like(centroids)
            for rows, assigned in zip(
                _parts(x, number), _parts(_nearest(x, centroids), number), strict=True
            ):
                # A product of matrices: on a GPU index_add_ sums in any order.
                sums += F.one_hot(assigned, number).to(x.dtype).T @ rows
            empty = sums.norm(dim=1, keepdim=True) == 0
            centroids = torch.where(empty, centroids, F.normalize(sums, dim=1))
        return centroids, _nearest(x, centroids)


def _nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """Return the number of the nearest centroid of each row, int64 [N]."""
    return torch.cat([(rows @ centroids.T).argmax(1) for rows in _parts(x, len(centroids))])


def _parts(x: Tensor, columns: int) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = x.split(max(1, ssl_zoo.nn.MAX_SCORES // columns))
    return parts
