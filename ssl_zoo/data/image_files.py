"""Image files, decoded to squares of one size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_zoo import preprocess
from ssl_zoo.data import decoded_cache
from ssl_zoo.data.decode import image_error_reason
from ssl_zoo.data.mapped import ArrayFile
from ssl_zoo.data.pixels import Form
from ssl_zoo.data.sample_files import SampleFiles, UnreadableFiles
from ssl_zoo.text import printable


@dataclass(eq=False, kw_only=True)
class ImageFiles(SampleFiles):
    """The images of a split, by number, and the size to which they are decoded.

    Attributes:
        open: opens the image with a given number; called from several threads.
        side: the side of the decoded squares, in pixels.
        channels: the number of channels C of the decoded squares.
        dtype: the name of their type, as in `Form`.
        widen: whether images of 8 bits become images of 16, as in `Form`.
        squares: all images decoded, [count, C, side, side], where a cache has them. Unreadable ones
            are recorded already, and their rows have no meaning.
    """

    open: Callable[[int], Image.Image | NDArray[Any]]
    side: int
    channels: int
    dtype: str = "uint8"
    widen: bool = False
    unreadable: UnreadableFiles = field(default_factory=lambda: UnreadableFiles("images"))
    squares: ArrayFile | None = field(default=None, init=False)

    @property
    def form(self) -> Form:
        """The form of the decoded squares."""
        return Form(self.channels, self.dtype, self.widen)

    def empty(self, count: int, pin: bool = False) -> Tensor:
        """Return uninitialised memory for decoded images, [count, C, side, side]."""
        shape = (count, self.channels, self.side, self.side)
        return torch.empty(shape, dtype=self.form.torch_dtype, pin_memory=pin)

    def read(self, number: int) -> Tensor:
        """Return an image as [C, side, side]."""
        image = self.open(number)
        with preprocess.opened(image):
            square = preprocess.to_square(image, self.side, self.channels)
        return torch.from_numpy(self.form.cast(square))

    def decode(self, number: int) -> Tensor | None:
        """Return an image as [C, side, side], from the cache if there is one; None if unreadable.

        Raises:
            UserError: too many images cannot be read.
            SslZooError: their folder or archive is gone.
        """
        if self.squares is None:
            decoded: Tensor | None = super().decode(number)
            return decoded
        unreadable = printable(self.name(number)) in self.unreadable.reasons
        return None if unreadable else self.squares.read(torch.tensor([number]))[0]

    def cached(self, name: str, folder: Path) -> ArrayFile:
        """Return the decoded images from a cache, which is made if it is missing or out of date."""
        return decoded_cache.provide(self, name, folder)

    def reason(self, error: Exception) -> str:
        """Return in a line why an image could not be read."""
        return image_error_reason(error)
