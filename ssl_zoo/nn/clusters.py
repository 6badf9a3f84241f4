"""K-means, by distance or on the sphere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import ssl_zoo.nn
from ssl_zoo.nn.parts import full_precision, unit


@torch.no_grad()
def kmeans(
    x: Tensor,
    number: int,
    rounds: int = 10,
    seed: int = 0,
    *,
    spherical: bool = True,
    relocate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cluster rows by Lloyd's algorithm, which starts from random rows.

    Each round assigns every row to a_i, its nearest centroid, and moves each centroid to the mean of its
    rows. On the sphere (spherical k-means) rows and centroids have length 1: a_i = argmax_k u(x_i)·c_k,
    then c_k = u(Σ_{i: a_i = k} u(x_i)). Otherwise a_i = argmin_k ‖x_i - c_k‖. The same rows and seed
    give the same clusters in every process. Source: on the sphere DeepCluster v2, arXiv:2006.09882,
    appendix C, and the authors' code.

        centroids, assignments = kmeans(bank.features, 3000, seed=epoch)

    Args:
        x: rows [N, D], the same in every process; on the sphere of any length.
        number: K, the number of clusters.
        rounds: the number of rounds, at least 0.
        seed: the seed of the rows to start from.
        spherical: whether to cluster on the sphere; if not, by distance.
        relocate: whether an empty cluster takes over the row farthest from its centroid, as in
            scikit-learn, a further one the next; if not, it keeps its centroid.

    Returns:
        Centroids [K, D], and the nearest centroid of each row, int64 [N].

    Raises:
        ValueError: there are fewer rows than clusters.
    """
    if len(x) < number:
        raise ValueError(f"{len(x)} rows cannot form {number} clusters")
    with torch.autocast(x.device.type, enabled=False):
        x, shift = (unit(x), 0) if spherical else _centred(full_precision(x))
        start = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:number]
        centroids = x[start.to(x.device)]
        for _ in range(rounds):
            score, assigned = _nearest(x, centroids, spherical)
            sums = torch.zeros_like(centroids)
            for rows, numbers in zip(_parts(x, number), _parts(assigned, number), strict=True):
                # A product of matrices: on a GPU index_add_ sums in any order.
                sums += F.one_hot(numbers, number).to(x.dtype).T @ rows
            size = sums.norm(dim=1) if spherical else assigned.bincount(minlength=number).to(x.dtype)
            stand_in = centroids
            if relocate:
                stand_in = x[(x.square().sum(1) - 2 * score).topk(number).indices]
            centroids = torch.where(size[:, None] > 0, sums / size[:, None].clamp(min=1e-12), stand_in)
        return centroids + shift, _nearest(x, centroids, spherical)[1]


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows less their mean, and this: far from 0 distances are differences of large numbers."""
    mean = x.mean(0)
    return x - mean, mean


def _nearest(x: Tensor, centroids: Tensor, spherical: bool) -> tuple[Tensor, Tensor]:
    """Return max_k x_i·c_k - ‖c_k‖²/2 for each row [N], and k, int64 [N]; on the sphere max_k x_i·c_k.

    ‖x_i‖² less twice this is the squared distance to c_k; on the sphere, that less 1.
    """
    half = 0 if spherical else centroids.square().sum(1) / 2
    best = [(rows @ centroids.T - half).max(1) for rows in _parts(x, len(centroids))]
    return torch.cat([part.values for part in best]), torch.cat([part.indices for part in best])


def _parts(x: Tensor, columns: int) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = x.split(max(1, ssl_zoo.nn.MAX_SCORES // columns))
    return parts
