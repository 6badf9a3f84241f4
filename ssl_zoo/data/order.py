"""The random order of a pass: stored for as many samples as cost little memory, computed for more."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

MAX_STORED = 2**20
"""The number of samples of which the order of a pass is stored, in 8 MiB; of more it is computed."""
_ROUNDS = 6
_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""The multipliers of splitmix64 (Steele et al. 2014, Fig. 14) as signed numbers."""


class Order(Protocol):
    """The order of a pass: the indices of its samples, of which a part can be asked for."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, part: slice, /) -> Tensor:
        """Return the indices of consecutive samples of the pass, int64."""


def random_order(n: int, generator: torch.Generator) -> Order:
    """Draw a random order of the numbers below `n`, in at most 8 MiB of memory."""
    if n <= MAX_STORED:
        return torch.randperm(n, generator=generator)
    return KeyedOrder(n, int(torch.randint(2**62, (), generator=generator)))


def sample_indices(total: int, limit: int) -> Tensor:
    """Return the sorted indices [N] of at most `limit` of `total` samples, always the same ones."""
    if total <= limit:
        return torch.arange(total)
    order = random_order(total, torch.Generator().manual_seed(0))
    return order[:limit].sort().values


class KeyedOrder:
    """A permutation of the numbers below `n` that is computed where it is asked for, and not stored.

    It is a Feistel network on the bits of a number, which is a permutation of the numbers of these bits
    for any key; where it leads to `n` or beyond, it is applied again until it does not (Black and
    Rogaway 2002, "Ciphers with Arbitrary Finite Domains", sections 4 and 5). It serves to shuffle, not
    to keep a secret.

    Args:
        n: how many numbers, at most 2⁶².
        key: what determines the permutation.
    """

    def __init__(self, n: int, key: int) -> None:
        self.n = n
        self._bits = max(1, ((n - 1).bit_length() + 1) // 2)  # of each half
        generator = torch.Generator().manual_seed(key)
        self._keys = torch.randint(2**62, (_ROUNDS,), generator=generator).tolist()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: slice, /) -> Tensor:
        """Return the numbers at consecutive places, int64."""
        start, stop, step = part.indices(self.n)
        numbers = self._permuted(torch.arange(start, stop, step))
        while (beyond := numbers >= self.n).any():
            numbers[beyond] = self._permuted(numbers[beyond])
        return numbers

    def _permuted(self, numbers: Tensor) -> Tensor:
        """Return where the network leads from numbers of twice `_bits` bits, int64."""
        mask = 2**self._bits - 1
        left, right = numbers >> self._bits, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        joined: Tensor = (left << self._bits) | right
        return joined


def _mixed(x: Tensor) -> Tensor:
    """Return int64 numbers with their bits mixed, as splitmix64 does; products wrap around."""
    x = x * _ODD[0]
    x = (x ^ _shifted(x, 30)) * _ODD[1]
    x = (x ^ _shifted(x, 27)) * _ODD[2]
    x = x ^ _shifted(x, 31)
    return x


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Return int64 numbers shifted to the right as if they had no sign."""
    return torch.bitwise_and(x >> bits, 2 ** (64 - bits) - 1)
