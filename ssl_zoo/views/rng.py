"""Random numbers for a batch that is distributed over processes."""

from __future__ import annotations

import copy
import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on all parts.

    The parts are hashed, as generators may use only some bits of a seed, so that consecutive numbers
    are poor seeds.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Drawn(NamedTuple):
    """The parameters that a transform has drawn, as `Rng.recording` keeps them.

    Attributes:
        transform: the transform.
        parameters: its parameters, as its `draw` returns them.
        shape: the shape of the batch that it was applied to, [B, C, H, W].
    """

    transform: object
    parameters: Any
    shape: torch.Size


class Rng:
    """A seeded source of random parameters, one row per image.

    Each process draws the numbers for the joint batch of all processes and keeps the rows of its own
    images, so the views of a step do not depend on the number of processes. Some tens of numbers are
    drawn per image, so drawing them in every process costs little.

    Args:
        seed: the seed; the numbers depend on it and on the type of the device.
        device: the device on which the numbers are drawn.
        rank: the index of this process's share of the joint batch, in 0..world_size-1.
        world_size: the number of processes that share the joint batch.
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
        # Numbers that decide the control flow are drawn on the CPU, so that reading them is no wait.
        on_cpu = self.device.type == "cpu"
        self._host = self.generator if on_cpu else torch.Generator().manual_seed(seed)
        self._drawn: list[Drawn] | None = None

    def uniform(self, n: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw float32 [n, *shape], uniform in [low, high)."""
        joint = torch.rand(self.world_size * n, *shape, generator=self.generator, device=self.device)
        return self._own(joint).mul(high - low).add_(low)

    def normal(self, n: int, *shape: int) -> Tensor:
        """Draw float32 [n, *shape] from the standard normal distribution."""
        joint = torch.randn(self.world_size * n, *shape, generator=self.generator, device=self.device)
        return self._own(joint).clone()

    def bernoulli(self, n: int, p: float) -> Tensor:
        """Draw bool [n], true with probability `p`."""
        return self.uniform(n) < p

    def recording(self) -> tuple[Rng, list[Drawn]]:
        """Return the same source, and a list to which transforms add the parameters that they draw.

        It goes on where this one is and moves it on; its numbers are those that this one would draw:

            recording, drawn = rng.recording()
            views = self.pair(batch, recording)  # as self.pair(batch, rng)
        """
        recording = copy.copy(self)
        recording._drawn = drawn = [] if self._drawn is None else self._drawn
        return recording, drawn

    def record(self, transform: object, parameters: Any, x: Tensor) -> None:
        """Add a transform's parameters for a batch to the list of `recording`, if there is one."""
        if self._drawn is not None:
            self._drawn.append(Drawn(transform, parameters, x.shape))

    @property
    def shared(self) -> Rng:
        """The same source, whose numbers are the same in every process, for random directions.

        It goes on where this one is and moves it on, so every process must draw from it alike.
        """
        shared = copy.copy(self)
        shared.rank, shared.world_size = 0, 1
        return shared

    def permutation(self, n: int) -> Tensor:
        """Draw a permutation of 0..n-1, int64 [n], the same in every process."""
        return torch.randperm(n, generator=self.generator, device=self.device)

    def order(self, n: int) -> list[int]:
        """Draw a permutation of 0..n-1 as a list, the same in every process."""
        return torch.randperm(n, generator=self._host).tolist()

    def seed(self) -> int:
        """Draw a seed for another generator, different in every process."""
        joint = torch.randint(2**62, (self.world_size,), generator=self._host)
        return int(joint[self.rank])

    def _own(self, joint: Tensor) -> Tensor:
        """Return this process's rows of those of the joint batch."""
        n = len(joint) // self.world_size
        return joint[self.rank * n : (self.rank + 1) * n]
