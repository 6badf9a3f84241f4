"""Image files, decoded to one size, or kept whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_zoo import preprocess
from ssl_zoo.data import decoded_cache
from ssl_zoo.data.decode import MAX_ASPECT, excess, image_error_reason, to_canvas
from ssl_zoo.data.mapped import ArrayFile, ImageFile
from ssl_zoo.data.pixels import Form
from ssl_zoo.data.sample_files import SampleFiles, UnreadableFiles
from ssl_zoo.text import printable

Opener = Callable[[int, int], Image.Image | NDArray[Any]]
"""Opens the image with a number; a JPEG at a scale with at least as many pixels each way as said."""


@dataclass(eq=False, kw_only=True)
class ImageFiles(SampleFiles):
    """The images of a split, by number, and the size to which they are decoded.

    Attributes:
        open: opens an image; called from several threads.
        size: the height and width of the decoded images, in pixels; of images that are kept whole, those
            of the windows that are cut out of them.
        channels: the number of channels C of the decoded images.
        dtype: the name of their type, as in `Form`.
        widen: whether images of 8 bits become images of 16, as in `Form`.
        sizes: the height and width of some of the images, [M, 2], before they are decoded.
        whole: whether the images are kept whole, with their aspect; otherwise the middle of each.
        decoded: all images decoded, where a cache has them: [count, C, height, width], or whole ones of
            different sizes. Unreadable ones are recorded already, and theirs have no meaning.
    """

    open: Opener
    size: tuple[int, int]
    channels: int
    dtype: str = "uint8"
    widen: bool = False
    unreadable: UnreadableFiles = field(default_factory=lambda: UnreadableFiles("images"))
    sizes: Sequence[tuple[int, int]] = ()
    whole: bool = field(default=False, init=False)
    decoded: ArrayFile | ImageFile | None = field(default=None, init=False)

    @property
    def form(self) -> Form:
        """The form of the decoded images."""
        return Form(self.channels, self.dtype, self.widen)

    @property
    def sample_nbytes(self) -> int:
        """The size of a decoded image, in bytes; of whole ones the mean of those with known sizes."""
        window = super().sample_nbytes
        return round(window * self.mean_excess) if self.whole else window

    @property
    def mean_excess(self) -> float:
        """The mean area of a whole image, in units of its largest window, of those with known sizes."""
        excesses = [min(excess(size, self.size), MAX_ASPECT) for size in self.sizes]
        return float(np.mean(excesses)) if excesses else 1.0

    def kept_whole(self, window: tuple[int, int]) -> ImageFiles:
        """Return the same images, kept whole, so that a window of this height and width just fits in."""
        images = copy.copy(self)
        images.size, images.whole, images.decoded = window, True, None
        return images

    def empty(self, count: int, pin: bool = False) -> Tensor:
        """Return uninitialised memory for images of one size, [count, C, height, width]."""
        shape = (count, self.channels, *self.size)
        return torch.empty(shape, dtype=self.form.torch_dtype, pin_memory=pin)

    def read(self, number: int) -> Tensor:
        """Return an image as [C, height, width], or whole as [C, h, w]."""
        image = self.open(number, max(self.size))
        with preprocess.opened(image):
            convert = to_canvas if self.whole else preprocess.to_size
            pixels = convert(image, self.size, self.channels)
        return torch.from_numpy(self.form.cast(pixels))

    def read_unscaled(self, number: int) -> NDArray[Any]:
        """Return all pixels of an image [C, h, w], also not finite ones, in the type of the form."""
        image = self.open(number, max(self.size))
        with preprocess.opened(image):
            return self.form.cast(preprocess.unscaled(image, self.channels))

    def decode(self, number: int) -> Tensor | None:
        """Return an image as `read`, from the cache if there is one; None if unreadable.

        Raises:
            UserError: too many images cannot be read.
            SslZooError: their folder or archive is gone.
        """
        if self.decoded is None:
            decoded: Tensor | None = super().decode(number)
            return decoded
        if printable(self.name(number)) in self.unreadable.reasons:
            return None
        if isinstance(self.decoded, ImageFile):
            return self.decoded.read(number)
        return self.decoded.read(torch.tensor([number]))[0]

    def cached(self, name: str, folder: Path) -> ArrayFile:
        """Return the decoded images from a cache, which is made if it is missing or out of date."""
        decoded_cache.provide(self, name, folder)
        assert isinstance(self.decoded, ArrayFile)
        return self.decoded

    def reason(self, error: Exception) -> str:
        """Return in a line why an image could not be read."""
        return image_error_reason(error)
