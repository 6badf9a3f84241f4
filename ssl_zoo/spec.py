"""What the data looks like to a network: the one thing a source, an encoder and a task agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

RAW_SIZE = 32
"""Up to this side, in pixels, the raw pixels of an image are its features as a baseline: beyond it
they would need more memory than any network's, and are no better."""


@dataclass(frozen=True)
class Spec:
    """The shape and meaning of one batch of a source.

    A plugin for another modality derives its own from this one, with whatever its encoders and
    tasks must know: a vocabulary's size and padding token, a sampling rate.
    """

    raw_name: ClassVar[str | None] = None
    """What the raw input is called as a baseline; None where it makes no sense as features."""

    modality: str

    def prepare(self, batch: Tensor) -> Tensor:
        """Turn a raw batch into what a network takes, without augmentation, for evaluation."""
        return batch

    def vary(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """`prepare` after a slight random change that leaves a sample's meaning; none by default."""
        return self.prepare(batch)

    def raw(self, batch: Tensor) -> Tensor:
        """A raw batch [B, ...] as features [B, D] of no network at all."""
        return batch.flatten(1).float()


@dataclass(frozen=True)
class ImageSpec(Spec):
    """Images: a raw batch is uint8 [B, channels, h, w]; a network takes float [B, channels, size, size].

    Attributes:
        channels: 1 or 3.
        size: the side of the square that the network takes, in pixels.
        mean: the mean of each channel over the train split, of intensities in [0, 1].
        std: the standard deviation of each channel, likewise.
        mirror: whether the mirror image of an image means the same (not so for digits and text);
            what a task's random horizontal flip goes by, unless it is told otherwise.
        classes: the number of classes, for the head of a task that needs labels; None without any.

    Raises:
        ValueError: the mean or the deviation is not one number for each channel.
    """

    raw_name: ClassVar[str | None] = "pixels"

    modality: str = "image"
    channels: int = 3
    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    mirror: bool = True
    classes: int | None = None

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"ImageSpec: channels={self.channels}, so mean and std must have as many values, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    def prepare(self, batch: Tensor) -> Tensor:
        """uint8 [B, C, h, w] to normalised float32 [B, channels, size, size] (antialiased bilinear).

        Images of another source may have other channels: gray is repeated, colours are averaged.
        """
        x = self._channels(batch.float().div_(255))
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.normalise(x)

    def vary(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """`prepare` of a random square of at least half the area, mirrored at random if that may be."""
        x = self._channels(batch.float().div_(255))
        draw = torch.rand(4, len(x), generator=generator).to(x.device)
        side = 0.5**0.5 + (1 - 0.5**0.5) * draw[0]
        flip = torch.where((draw[3] < 0.5) & self.mirror, -1.0, 1.0)
        theta = x.new_zeros(len(x), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = side * flip, side
        theta[:, 0, 2], theta[:, 1, 2] = ((1 - side) * (2 * d - 1) for d in draw[1:3])
        grid = F.affine_grid(theta, [len(x), self.channels, self.size, self.size], align_corners=False)
        return self.normalise(F.grid_sample(x, grid, padding_mode="border", align_corners=False))

    def raw(self, batch: Tensor) -> Tensor:
        """uint8 [B, C, h, w] to the pixels as features [B, D], larger images shrunk to `RAW_SIZE`."""
        x = batch.float()
        side = min(self.size, RAW_SIZE)
        if max(x.shape[-2:]) > side:
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        return x.flatten(1)

    def _channels(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.channels:
            return x
        return x.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)

    def normalise(self, x: Tensor) -> Tensor:
        """Intensities [B, C, h, w] in [0, 1] to zero mean and unit deviation per channel."""
        scale = 1 / self._channel(self.std, x)
        return (x * scale).sub_(self._channel(self.mean, x) * scale)

    def denormalise(self, x: Tensor) -> Tensor:
        """Undo `normalise` and clamp to [0, 1], for pictures."""
        return (x * self._channel(self.std, x) + self._channel(self.mean, x)).clamp(0, 1)

    @staticmethod
    def _channel(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
