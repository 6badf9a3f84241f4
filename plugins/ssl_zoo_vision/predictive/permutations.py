"""The permutations of jigsaw puzzles: a set whose members are far apart."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import torch
from torch import Tensor


@cache
def permutations(number: int, tiles: int, seed: int = 0) -> Tensor:
    """Choose permutations far apart from each other, greedily (Noroozi & Favaro 2016, algorithm 1).

    The first is drawn. Each further one has the largest Hamming distance to the nearest one chosen so
    far; ties go to the largest mean distance, then to the first in lexicographic order. The paper
    maximises the mean only. For 100 permutations of nine tiles that mean is no larger (8.08), but most
    permutations differ from another one in only two tiles, here in at least six.

    Returns:
        int64 [number, tiles]: for each permutation, the cell whose tile is at each position. The
        tensor is cached and shared: do not modify it.

    Raises:
        ValueError: there are fewer than `number` permutations of `tiles` tiles.
    """
    if number > math.factorial(tiles):
        raise ValueError(f"{tiles} tiles have {math.factorial(tiles)} orders, fewer than {number}")
    flat = itertools.chain.from_iterable(itertools.permutations(range(tiles)))
    every = np.fromiter(flat, np.uint8).reshape(-1, tiles).T.copy()  # [tiles, n!]
    nearest = np.full(every.shape[1], tiles, np.int32)
    total = np.zeros_like(nearest)
    chosen = [int(np.random.default_rng(seed).integers(every.shape[1]))]
    while len(chosen) < number:
        distance = (every != every[:, chosen[-1:]]).sum(0, dtype=np.uint8)
        np.minimum(nearest, distance, out=nearest)  # 0 for the chosen, at least 2 for all others
        total += distance
        chosen.append(int((nearest * (tiles * number) + total).argmax()))
    return torch.from_numpy(every[:, chosen].T.astype(np.int64))
