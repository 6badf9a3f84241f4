"""Batches of any modality: a tensor, or a named tuple of batches, whose leading axis counts samples.

Images are one tensor. A text is two, ``ids`` [B, T] and ``lengths`` [B], and a sound likewise. The core
moves, selects and joins batches with these functions, and never looks inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Tree: TypeAlias = Any
"""A tensor, or a tuple of trees; the first axis of each tensor counts samples."""


def leaves(tree: Tree) -> Iterator[Tensor]:
    """Yield the tensors of a tree in order."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from leaves(part)
    else:
        yield tree


def map_leaves(function: Callable[..., Any], *trees: Tree) -> Tree:
    """Apply a function to the tensors at the same place of trees of one shape; return such a tree."""
    first = trees[0]
    if not isinstance(first, tuple):
        return function(*trees)
    parts = [map_leaves(function, *parts) for parts in zip(*trees, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def size(tree: Tree) -> int:
    """Return the number of samples of a batch."""
    return len(next(leaves(tree)))


def nbytes(tree: Tree) -> int:
    """Return the size of a tree in memory, in bytes."""
    return sum(leaf.nbytes for leaf in leaves(tree))


def rows(tree: Tree, indices: Tensor | slice) -> Tree:
    """Return the samples with these indices [N], or of this slice."""
    if isinstance(indices, Tensor):
        return map_leaves(lambda leaf: leaf[indices.to(leaf.device)], tree)
    return map_leaves(lambda leaf: leaf[indices], tree)


def join(trees: Sequence[Tree]) -> Tree:
    """Join batches one after the other."""
    return trees[0] if len(trees) == 1 else map_leaves(lambda *parts: torch.cat(parts), *trees)


def split(tree: Tree, number: int) -> list[Tree]:
    """Split a batch into batches of at most `number` samples."""
    return [rows(tree, slice(i, i + number)) for i in range(0, size(tree), number)]


def move(tree: Tree, device: torch.device, non_blocking: bool = False) -> Tree:
    """Return a tree on a device."""
    return map_leaves(lambda leaf: leaf.to(device, non_blocking=non_blocking), tree)


def pin(tree: Tree) -> Tree:
    """Return a copy in pinned memory, from which a GPU copies asynchronously."""
    return map_leaves(Tensor.pin_memory, tree)


def repeat_rows(tree: Tree, number: int) -> Tree:
    """Return a batch of `number` samples, the given ones over and over."""
    return rows(tree, torch.arange(number) % size(tree))
