"""The description of samples that sources, encoders and tasks share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.notices import Notice

RAW_SIZE = 32
"""The largest side, in pixels, of images whose raw pixels serve as baseline features.

Larger images are shrunk to it: their pixels would need more memory and are no better as features."""


_RAW = Notice(
    "raw-size",
    f"For the baseline `pixels`, images are shrunk to at most {RAW_SIZE}×{RAW_SIZE} pixels.",
    "it cannot be changed",
)


@dataclass(frozen=True)
class Spec:
    """The shape and meaning of the samples of a source.

    A plugin for another modality derives its own class with the facts that its encoders and tasks need,
    such as the size and padding token of a vocabulary, or a sampling rate.

    Attributes:
        modality: the kind of data, such as ``"image"``.
    """

    raw_name: ClassVar[str | None] = None
    """The name of the raw-input baseline; None if raw input is unsuitable as features."""
    noun: ClassVar[str] = "samples"
    """The plural noun for the samples."""

    modality: str

    def prepare(self, batch: Tensor) -> Tensor:
        """Return a raw batch as input for a network, without augmentation, for evaluation."""
        return batch

    def vary(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return `prepare` of a batch after a slight random change that keeps the meaning of samples.

        By default nothing is changed.
        """
        return self.prepare(batch)

    def without_classes(self) -> Spec:
        """Return the description of the same samples without labels."""
        return self

    def raw(self, batch: Tensor) -> Tensor:
        """Return a raw batch [B, ...] as features [B, D], for the raw-input baseline."""
        return batch.flatten(1).float()


@dataclass(frozen=True)
class ImageSpec(Spec):
    """The description of images.

    A raw batch is uint8 [B, channels, h, w]; a network takes float [B, channels, size, size].

    Attributes:
        channels: the number of channels, 1 or 3.
        size: the side of the network's square input, in pixels.
        mean: the mean of each channel over the train split, for intensities in [0, 1].
        std: the standard deviation of each channel, likewise.
        mirror: whether a mirrored image has the same meaning, which is false for digits and text. It is
            the default of whether tasks flip images at random.
        classes: the number of classes, for tasks that need labels; None if there are no labels.

    Raises:
        ValueError: `mean` or `std` does not have one number for each channel.
    """

    raw_name: ClassVar[str | None] = "pixels"
    noun: ClassVar[str] = "images"

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
        """Resize and normalise uint8 [B, C, h, w] to float32 [B, channels, size, size].

        Resizing is bilinear and antialiased. Images of another source may have another number of
        channels C: gray is repeated, colours are averaged.
        """
        x = self._channels(batch.float().div_(255))
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.normalise(x)

    def vary(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return `prepare` of a random square, at least half the area, randomly flipped if `mirror`."""
        x = self._channels(batch.float().div_(255))
        draw = torch.rand(4, len(x), generator=generator).to(x.device)
        side = 0.5**0.5 + (1 - 0.5**0.5) * draw[0]
        flip = torch.where((draw[3] < 0.5) & self.mirror, -1.0, 1.0)
        theta = x.new_zeros(len(x), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = side * flip, side
        theta[:, 0, 2], theta[:, 1, 2] = ((1 - side) * (2 * d - 1) for d in draw[1:3])
        grid = F.affine_grid(theta, [len(x), self.channels, self.size, self.size], align_corners=False)
        return self.normalise(F.grid_sample(x, grid, padding_mode="border", align_corners=False))

    def without_classes(self) -> ImageSpec:
        """Return the description of the same images without labels."""
        return replace(self, classes=None)

    def raw(self, batch: Tensor) -> Tensor:
        """Return the pixels of uint8 [B, C, h, w], shrunk to at most `RAW_SIZE`, as features [B, D]."""
        x = batch.float()
        side = min(self.size, RAW_SIZE)
        if self.size > side:
            _RAW(f"the baseline pixels sees images of {side}×{side} pixels, not {self.size}×{self.size}")
        if max(x.shape[-2:]) > side:
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        return x.flatten(1)

    def _channels(self, x: Tensor) -> Tensor:
        """Convert [B, C, h, w] to [B, channels, h, w]."""
        if x.shape[1] == self.channels:
            return x
        return x.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise intensities [B, C, h, w] in [0, 1] to zero mean and unit deviation per channel."""
        scale = 1 / self._channel(self.std, x)
        return (x * scale).sub_(self._channel(self.mean, x) * scale)

    def denormalise(self, x: Tensor) -> Tensor:
        """Undo `normalise` and clamp to [0, 1], for display."""
        return (x * self._channel(self.std, x) + self._channel(self.mean, x)).clamp(0, 1)

    @staticmethod
    def _channel(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
