"""Random numbers for a joint batch, of which each process keeps its own share."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that follows from all the parts.

    Generators take only some bits of a seed, so neighbouring numbers are no seeds of neighbours.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Rng:
    """A seeded source of random parameters, one row per image.

    Every process draws the numbers for the joint batch and keeps the rows of its own images, so that
    a step sees the same views however many processes share it. The numbers are few (some tens per
    image), so drawing them `world_size` times costs next to nothing.

    Args:
        seed: what the numbers follow from, with the device's kind of generator.
        device: where the numbers are drawn.
        rank: which share of the joint batch this process holds.
        world_size: among how many processes the joint batch is split.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.device = torch.device(device)
        self.rank = rank
        self.world_size = world_size
        self.generator = torch.Generator(self.device).manual_seed(seed)
        # What decides the course of the program is drawn where reading it waits for no device.
        on_cpu = self.device.type == "cpu"
        self._host = self.generator if on_cpu else torch.Generator().manual_seed(seed)

    def uniform(self, n: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Float32 [n, *shape], uniform in [low, high)."""
        joint = torch.rand(self.world_size * n, *shape, generator=self.generator, device=self.device)
        return joint[self.rank * n : (self.rank + 1) * n].mul(high - low).add_(low)

    def bernoulli(self, n: int, p: float) -> Tensor:
        """Bool [n], true with probability `p`."""
        return self.uniform(n) < p

    def permutation(self, n: int) -> Tensor:
        """A permutation of 0..n-1, int64 [n], the same in every process."""
        return torch.randperm(n, generator=self.generator, device=self.device)

    def order(self, n: int) -> list[int]:
        """A permutation of 0..n-1 as numbers, the same in every process."""
        return torch.randperm(n, generator=self._host).tolist()

    def seed(self) -> int:
        """A seed for another generator, different in every process."""
        joint = torch.randint(2**62, (self.world_size,), generator=self._host)
        return int(joint[self.rank])
