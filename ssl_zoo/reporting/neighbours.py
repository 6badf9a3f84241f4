"""The samples of the bank that a representation finds nearest to a few of the test split."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.evaluation.features import sample_indices


def nearest(bank: Tensor, queries: Tensor, k: int) -> Tensor:
    """The numbers [Q, k] of the k nearest by cosine similarity, the nearest first.

    Args:
        bank: features [N, D].
        queries: features [Q, D].
        k: how many; all of them where the bank has fewer.
    """
    similarity = F.normalize(queries.double(), dim=1) @ F.normalize(bank.double(), dim=1).T
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :k]


def choose_queries(labels: Tensor | None, total: int, count: int) -> Tensor:
    """The numbers of a few samples, always the same ones, of as many classes as can be.

    Args:
        labels: the classes [total] of the samples; None where they are not known.
        total: how many samples there are.
        count: how many are wanted.

    Returns:
        The numbers [min(count, total)], those of one class after another.
    """
    if labels is None:
        return sample_indices(total, count)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    members = {int(c): order[labels[order] == c].tolist() for c in labels.unique()}
    classes = list(members)
    if len(classes) > count:  # spread over all of them
        classes = [classes[i * len(classes) // count] for i in range(count)]
    turns = range(max(map(len, members.values()), default=0))
    chosen = [(c, members[c][turn]) for turn in turns for c in classes if turn < len(members[c])]
    return torch.tensor([number for _, number in sorted(chosen[:count])], dtype=torch.int64)
