"""Batch statistics that do not tell which key belongs to a query."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.notices import Notice
from ssl_zoo.tree import Tree, join, map_leaves

FEWER_GROUPS = Notice(
    "key-groups",
    "Keys are divided into fewer groups than task.key_groups where each would have less than two "
    "images.",
    "a larger batch, or task.key_groups",
)


@torch.no_grad()
def shuffled_groups(
    network: Callable[[Tensor], Tree], x: Tensor, shuffle: Tensor, groups: int = 2
) -> Tree:
    """Pass the joint batch through a network in random groups, each with batch statistics of its own.

    Source: MoCo, arXiv:1911.05722, section 3.3, "shuffling BN". The statistics of the network's batch
    norms must not be those of all processes: ``Teacher(…, local_batchnorm=True)``.

        shuffle = rng.permutation(len(batch) * distributed.world_size())  # in views
        k = shuffled_groups(self.teacher, x, shuffle)                     # in loss, [B, D]

    Args:
        network: maps images [n, C, H, W] to a tensor [n, ...], or a tuple of such tensors.
        x: the images [B, C, H, W] of this process.
        shuffle: a permutation of the joint batch, int64 [world_size · B], the same in all processes.
        groups: the number of groups of the joint batch; at least one per process, and each has at least
            two images.

    Returns:
        The outputs for this process's images, in their order, without gradient.
    """
    mine = distributed.local_rows(distributed.all_gather(x)[shuffle])
    wanted = max(1, groups // distributed.world_size())
    number = max(1, min(wanted, len(mine) // 2))  # a single image has no batch statistics
    if number < wanted:
        FEWER_GROUPS(f"task.key_groups: {number} groups of keys, not {wanted}; each needs two images")
    outputs = join([network(group) for group in mine.tensor_split(number)])
    back = shuffle.argsort()
    return map_leaves(lambda y: distributed.local_rows(distributed.all_gather(y)[back]), outputs)
