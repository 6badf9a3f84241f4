"""The type, the channels and the range of a data set's images, which are one for all of them."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.order import Order
from ssl_zoo.data.read_ahead import PREFETCHED_BATCHES
from ssl_zoo.data.splits import Pass, Split
from ssl_zoo.preprocess import widened

if TYPE_CHECKING:
    from ssl_zoo.data.canvas import Canvas

TYPES = {name: getattr(torch, name) for name in ("uint8", "uint16", "int16", "float32")}
"""The types of stored pixels, by name, as `ssl_zoo.pixel_files.plain` gives them."""


@dataclass(frozen=True)
class Form:
    """The form in which the images of a data set are stored.

    Attributes:
        channels: the number of channels.
        dtype: the name of their type, a key of `TYPES`.
        widen: whether images of 8 bits become images of 16, in which white is 65,535.
    """

    channels: int
    dtype: str = "uint8"
    widen: bool = False

    @classmethod
    def of(cls, channels: int, types: Sequence[str], config: DataConfig) -> Form:
        """Return the form for images of these types.

        Where images of 8 and of 16 bits are mixed, each is a share of its type's range, unless the
        user says otherwise, or gives the range of the values.
        """
        kinds = set(types) or {"uint8"}
        widen = config.widen
        if widen is None:
            widen = kinds == {"uint8", "uint16"} and config.range is None
        joint = str(np.result_type(*kinds, *(["uint16"] if widen else [])))
        return cls(channels, joint if joint in TYPES else "float32", widen)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch names it."""
        dtype: torch.dtype = TYPES[self.dtype]
        return dtype

    def cast(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return pixels in the type of the data set.

        Raises:
            ValueError: it cannot hold their values.
        """
        ours = np.dtype(self.dtype)
        if self.widen:
            pixels = widened(pixels)
        if pixels.dtype == ours:
            return pixels
        cast = pixels.astype(ours)
        if not np.can_cast(pixels.dtype, ours) and (cast.astype(pixels.dtype) != pixels).any():
            raise ValueError(f"has values of {pixels.dtype}, and other images are {self.dtype}")
        return cast


def scale(pixels: Tensor, limits: tuple[float, float]) -> Tensor:
    """Return pixels of any type as float32 in [0, 1], where `limits` are 0 and 1; others are clipped.

    NaN, which images of floats may have, becomes 0.
    """
    low, high = limits
    scaled = pixels.float().sub_(low).div_(high - low).clamp_(0, 1)
    return scaled.nan_to_num_(nan=0.0) if pixels.is_floating_point() else scaled


class ScaledSplit(Split):
    """A split whose images are stored in their own type, and given as float32 in [0, 1].

    Args:
        split: the stored images.
        limits: the values that become 0 and 1.
    """

    def __init__(self, split: Split, limits: tuple[float, float]) -> None:
        self.split, self.limits = split, limits
        self.labels = split.labels
        self.resident, self.readers = split.resident, split.readers
        self.canvas = split.canvas

    def __len__(self) -> int:
        return len(self.split)

    @property
    def skipped(self) -> Mapping[str, str]:  # type: ignore[override]
        """The unreadable files met so far, with the reason for each."""
        return self.split.skipped

    @property
    def names(self) -> Sequence[str] | None:
        """The name of each of the N samples."""
        return self.split.names

    @property
    def groups(self) -> Sequence[str] | None:
        """The name of what each of the N samples is a part of."""
        return self.split.groups

    @property
    def nbytes(self) -> int:
        """The size of all samples as they are stored, in bytes."""
        return self.split.nbytes

    def batch(self, indices: Tensor) -> Tensor:
        """Return the images with these indices, float32 [B, C, h, w]."""
        return scale(self.split.batch(indices), self.limits)

    def order(self, generator: torch.Generator) -> Order:
        """Draw the order of a pass over the split."""
        return self.split.order(generator)

    def batch_indices(self, part: Pass) -> Iterator[Tensor]:
        """Yield the indices [B] of each of a process's batches in a pass."""
        return self.split.batch_indices(part)

    def at_pass(self, seed: int) -> ScaledSplit:
        """Return the samples as a pass of training with this seed sees them."""
        return ScaledSplit(self.split.at_pass(seed), self.limits)

    def with_canvas(self, canvas: Canvas | None) -> ScaledSplit:
        """Return the same samples, of which passes of training see another canvas, scaled."""
        changed = copy.copy(self)
        changed.split, changed.canvas = self.split.with_canvas(canvas), canvas
        return changed

    def contents_hash(self) -> str | None:
        """Return a hash that changes if the samples are replaced."""
        return self.split.contents_hash()

    def spread(self, limit: int) -> Tensor:
        """Return the rising indices of at most `limit` samples."""
        return self.split.spread(limit)

    def sample(self, limit: int) -> Tensor:
        """Return the rising indices of at most `limit` samples drawn at random."""
        return self.split.sample(limit)

    def read_batches(
        self, chunks: Iterable[Tensor], *, prefetch: int = PREFETCHED_BATCHES, pin: bool = False
    ) -> Generator[Tensor]:
        """Yield batches as `Split.read_batches` does."""
        stored = self.split.read_batches(chunks, prefetch=prefetch)
        try:
            for batch in stored:
                scaled = scale(batch, self.limits)
                yield tree.pin(scaled) if pin and not self.resident else scaled
        finally:
            stored.close()

    def readable(self) -> bool:
        """Return whether any sample can be read."""
        return self.split.readable()

    def subset(self, indices: Tensor) -> ScaledSplit:
        """Return the samples with these indices [M] as a split."""
        return ScaledSplit(self.split.subset(indices), self.limits)

    def to(self, device: torch.device) -> ScaledSplit:
        """Return the same samples in the memory of `device`."""
        return ScaledSplit(self.split.to(device), self.limits)


def fixed_part(split: Split, limit: int) -> Tensor:
    """Return at most `limit` images of a split, drawn at random and always the same, [M, C, h, w]."""
    images: Tensor = split.batch(split.sample(limit))
    return images
