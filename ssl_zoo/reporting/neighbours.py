"""Nearest neighbours in the bank of a few samples of a split."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.data.order import sample_indices


def nearest(bank: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return the indices [Q, k] of the k nearest by cosine similarity, the nearest first.

    Args:
        bank: features [N, D].
        queries: features [Q, D].
        k: the number of neighbours; all N if the bank has fewer.
    """
    similarity = F.normalize(queries.double(), dim=1) @ F.normalize(bank.double(), dim=1).T
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :k]


def choose_queries(labels: Tensor | None, total: int, count: int) -> Tensor:
    """Return the indices of a few samples, always the same, from as many classes as possible.

    Args:
        labels: the classes [total] of the samples; None if unknown.
        total: the number of samples.
        count: the number of samples to choose.

    Returns:
        The indices [min(count, total)], sorted by class.
    """
    if labels is None:
        return sample_indices(total, count)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    members = {int(c): order[labels[order] == c].tolist() for c in labels.unique()}
    classes = list(members)
    if len(classes) > count:  # spread evenly over all classes
        classes = [classes[i * len(classes) // count] for i in range(count)]
    rounds = range(max(map(len, members.values()), default=0))
    chosen = [(c, members[c][i]) for i in rounds for c in classes if i < len(members[c])]
    return torch.tensor([index for _, index in sorted(chosen[:count])], dtype=torch.int64)
