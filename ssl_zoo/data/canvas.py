"""Canvas: random windows of whole images, which training sees in place of the middle of each.

Images are kept with their aspect, and in each pass of training a window of the aspect of the network's
input, a square for a square input, is cut out of each, as large as it has one. Its place follows from
the seed of the pass and the number of the image alone, so that a resumed run and any number of processes
see the same ones, and over many passes an image is seen to its ends. Evaluation sees the middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from ssl_zoo import distributed, preprocess
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import decoded_cache, residence
from ssl_zoo.data.decode import MAX_ASPECT, excess
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.sample_files import SampleFiles
from ssl_zoo.data.splits import Split
from ssl_zoo.notices import Notice
from ssl_zoo.sizes import Size, height_width, scale_size, shape_name
from ssl_zoo.text import printable
from ssl_zoo.views import derive_seed

Place = Literal["memory", "cache", "files"]
"""Where whole images lie: decoded in memory or in a cache, or in their files."""
SMALLEST_CROP = 0.08
"""The area of the smallest crops of most papers, as a share of the image's."""
LOWERED = (1.0, 0.75, 0.5)
"""The shares of the wanted canvas that are tried where images do not fit into memory."""
LEAST_SHARE = 0.5
"""The share of the free memory that images at the least canvas may take, or all that must be there."""

_CANVAS = Notice(
    "canvas",
    "Training sees a random window of each image in each pass: the largest of the aspect of the "
    "network's input, a square for a square input, whose shorter side is kept at `data.canvas` pixels. "
    "By default that is enough for crops of 8 % not to be enlarged, but not more than the images have, "
    "and less where they do not fit into memory. Evaluation sees the central part of that aspect at 8/7 "
    "of the network's input.",
    "data.canvas",
)


def window(image: Tensor, size: tuple[int, int], seed: int, number: int) -> Tensor:
    """Return a random window of an image [C, h, w], which is larger than it in one direction at most.

    It lies around a pixel that is drawn uniformly, as far as the ends of the image allow. So a pixel at
    an end is seen half as often as one far from them, and not almost never.

    Args:
        image: the image.
        size: the height and width of the window, in pixels.
        seed: the seed of the pass.
        number: the number of the image, which with the seed alone determines the place.
    """
    drawn = derive_seed("window", seed, number)
    top, left = (
        min(max(drawn % length - side // 2, 0), length - side)
        for length, side in zip(image.shape[1:], size, strict=True)
    )
    return image[:, top : top + size[0], left : left + size[1]]


class _WindowFiles(SampleFiles):
    """The windows that one pass sees of images in files or in a cache.

    Args:
        images: the images, kept whole.
        seed: the seed of the pass.
    """

    def __init__(self, images: ImageFiles, seed: int) -> None:
        # Not counted again in `unreadable.total`.
        self.images, self.seed = images, seed
        self.name, self.count, self.workers = images.name, images.count, images.workers
        self.unreadable, self.origin = images.unreadable, images.origin

    def read(self, number: int) -> Tensor:
        """Return a window [C, height, width]."""
        return window(self.images.read(number), self.images.size, self.seed, number)

    def decode(self, number: int) -> Tensor | None:
        """Return a window [C, height, width]; None if the image is unreadable."""
        image, size = self.images.decode(number), self.images.size
        return None if image is None else window(image, size, self.seed, number)

    def empty(self, count: int, pin: bool = False) -> Tensor:
        """Return uninitialised memory for windows, [count, C, height, width]."""
        return self.images.empty(count, pin)


class _HeldWindows(Split):
    """The windows that one pass sees of images in memory.

    Args:
        images: the image [C, h, w] of each sample.
        size: the height and width of the windows, in pixels.
        numbers: their numbers among the files.
        seed: the seed of the pass.
    """

    def __init__(
        self, images: Sequence[Tensor], size: tuple[int, int], numbers: Sequence[int], seed: int
    ) -> None:
        self.images, self.size, self.numbers, self.seed = images, size, numbers, seed

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> Tensor:
        """Return windows [B, C, height, width], on the device of the images."""
        return torch.stack(
            [window(self.images[i], self.size, self.seed, self.numbers[i]) for i in indices.tolist()]
        )


class Canvas:
    """The whole images of a split, of which each pass of training sees random windows.

    Nothing is decoded before `prepare`, or before a batch is read.

    Args:
        split: the split of the image files.
        config: the ``data`` section.
        size: the size of the network's input.
        device: the device in whose memory the images lie if they fit.
        name: the name of the source.
        key: the name of the split.
    """

    def __init__(
        self, split: LazySplit, config: DataConfig, size: Size, device: torch.device, name: str, key: str
    ) -> None:
        assert isinstance(split.files, ImageFiles)
        self.config, self.size, self.device, self.name, self.key = config, size, device, name, key
        self._middles, self._split = split.files, split
        self._held: list[Tensor] | None = None
        self._prepared = False

    @classmethod
    def of(
        cls,
        split: Split,
        kept: Split,
        config: DataConfig,
        size: Size,
        device: torch.device,
        name: str,
        key: str,
    ) -> Canvas | None:
        """Return the whole images of a split of files; None where windows would show no more.

        Args:
            split: the split, as it was before it was placed in memory or a cache.
            kept: the same split afterwards, without the images that are unreadable.
            config: the ``data`` section.
            size: the size of the network's input.
            device: the device in whose memory the images lie if they fit.
            name: the name of the source.
            key: the name of the split.

        Raises:
            SettingError: ``data.canvas`` is smaller than the network's input, or there are no files.
        """
        canvas = config.canvas
        if not isinstance(split, LazySplit) or not isinstance(split.files, ImageFiles):
            if isinstance(canvas, int):
                raise SettingError(
                    "data.canvas", f"{printable(config.source_text)} has no image files; leave it out"
                )
            return None
        shorter = min(height_width(size))
        if isinstance(canvas, int) and canvas < shorter:
            raise SettingError(
                "data.canvas",
                f"is {canvas}, and the network's input has {shorter} pixels; give at least as many",
            )
        if canvas == "square":
            stored = min(preprocess.stored_size(size))
            _report(name, f"the central {shape_name(size)}", split.files.sizes, stored, size, 1)
            return None
        if kept is not split:  # what could not be read is left out
            readable = [i for i, x in enumerate(split.names) if printable(x) not in split.skipped]
            split = split.subset(torch.tensor(readable, dtype=torch.long))
        kept_whole = cls(split, config, size, device, name, key)
        gains = kept_whole._choices[0] > kept_whole._least or kept_whole._middles.mean_excess > 1
        return kept_whole if gains else None

    def __len__(self) -> int:
        return len(self._split)

    @property
    def side(self) -> int:
        """The shorter side of the windows, in pixels."""
        return self._chosen[0]

    def at(self, side: int) -> Canvas:
        """Return the same images, kept for windows with another shorter side."""
        config = self.config.model_copy(update={"canvas": side})
        return Canvas(self._split, config, self.size, self.device, self.name, self.key)

    def prepare(self) -> None:
        """Choose the canvas, say so, and decode the images into memory or a cache if they go there."""
        if self._prepared:
            return
        self._prepared = True
        _, place = self._chosen
        self._report_choice()
        if place == "cache":
            decoded_cache.provide(self._images, self._cache_name, self._cache_folder)
        elif place == "memory":
            self._held = self._decoded()

    def at_pass(self, seed: int) -> Split:
        """Return the windows that the pass with this seed sees, as a split of the same samples."""
        if self._held is not None:
            return _HeldWindows(self._held, self._images.size, self._split.numbers.tolist(), seed)
        return LazySplit(_WindowFiles(self._images, seed), self._split.labels, self._split.numbers)

    @cached_property
    def _images(self) -> ImageFiles:
        return self._kept_whole(self.side)

    def _kept_whole(self, side: int) -> ImageFiles:
        """Return the images, kept for windows with this shorter side."""
        return self._middles.kept_whole(scale_size(self.size, side))

    def _decoded(self) -> list[Tensor]:
        """Return all images on the device, another one of its class in place of an unreadable one."""
        images = [
            None if image is None else image.contiguous().to(self.device)
            for image in self._images.decode_all(self._split.numbers)
        ]
        held = []
        for i in range(len(images)):
            found = (image for k in self._split.stand_ins(i) if (image := images[k]) is not None)
            held.append(next(found))
        return held

    @property
    def _least(self) -> int:
        return min(preprocess.stored_size(self.size))

    @property
    def _choices(self) -> list[int]:
        """The canvases to choose from, in falling order."""
        if isinstance(self.config.canvas, int):
            return [self.config.canvas]
        shorter = _shorter_sides(self._middles.sizes, self.size)
        enough = min(height_width(self.size)) / math.sqrt(SMALLEST_CROP)
        wanted = min(enough, median(shorter)) if shorter else self._least
        return sorted({max(self._least, round(share * wanted)) for share in (*LOWERED, 0)}, reverse=True)

    @cached_property
    def _chosen(self) -> tuple[int, Place]:
        """The canvas, and where images of that size lie."""
        choices = self._choices
        place: Place = "memory" if self.config.cache is None else "cache"
        if place == "cache":
            fits = [self._fits_cache(canvas) for canvas in choices]
        elif self.config.resident == "never" or len(self) > residence.MAX_RESIDENT_IMAGES:
            fits = []
        else:
            free = residence.free_memory(self.device) / distributed.world_size()
            fits = [self._nbytes(canvas) <= self._share(canvas) * free for canvas in choices]
        first = fits.index(True) if any(fits) else len(choices)
        (number,) = distributed.all_reduce_max(first)  # all processes decide alike
        if number < len(choices):
            return choices[int(number)], place
        return min(choices[0], 2 * self._least) if len(choices) > 1 else choices[0], "files"

    def _fits_cache(self, canvas: int) -> bool:
        """Return whether a cache has images of this size already, or has room for them."""
        images = self._kept_whole(canvas)
        free = decoded_cache.free_space(self._cache_folder)
        return self._nbytes(canvas) <= LEAST_SHARE * free or decoded_cache.has_file(
            images, self._cache_name, self._cache_folder
        )

    @property
    def _cache_folder(self) -> Path:
        assert self.config.cache is not None
        return user_path("data.cache", self.config.cache)

    @property
    def _cache_name(self) -> str:
        return f"{self.name} {self.key}"

    def _share(self, canvas: int) -> float:
        """Return the share of the free memory that images with this canvas may take."""
        least = canvas == self._least or self.config.resident == "always"
        return LEAST_SHARE if least else residence.MEMORY_SHARE

    def _nbytes(self, canvas: int) -> int:
        return len(self) * self._kept_whole(canvas).sample_nbytes

    def _report_choice(self) -> None:
        """Say how much of the images can be seen, and at which magnification."""
        canvas, place = self._chosen
        wanted, reason = self._choices[0], ""
        if place == "files":
            hint = " (data.cache keeps them decoded)" if self.config.cache is None else ""
            reason = f", as they are decoded at each use{hint}"
        elif canvas < wanted:
            reason = f", as {wanted} would take {self._nbytes(wanted) / 1e6:,.0f} MB of {place}"
        what = f"windows of whole images, {canvas} pixels on the shorter side{reason}"
        _report(self.name, what, self._middles.sizes, canvas, self.size, MAX_ASPECT)


def _shorter_sides(sizes: Sequence[tuple[int, int]], size: Size) -> list[float]:
    """Return the shorter side of the largest window in each image, in pixels.

    Args:
        sizes: the heights and widths of the images, [M, 2].
        size: the size of the network's input, of whose aspect a window is.
    """
    sides = height_width(size)
    return [min(n * min(sides) / m for n, m in zip(shape, sides, strict=True)) for shape in sizes]


def _report(
    name: str, what: str, sizes: Sequence[tuple[int, int]], canvas: int, size: Size, max_aspect: int
) -> None:
    """Say how much of images can be seen in training, and at which magnification.

    Args:
        name: the name of the source.
        what: what training sees of an image.
        sizes: the heights and widths of some images, [M, 2], as files have them.
        canvas: the shorter side of their windows in training, in pixels.
        size: the size of the network's input.
        max_aspect: the area that is seen, in units of that of the largest window.
    """
    sides = height_width(size)
    scale = min(1.0, canvas / median(_shorter_sides(sizes, size))) if sizes else 1.0
    seen = [min(1.0, max_aspect / excess(shape, sides)) for shape in sizes] or [1.0]
    crop = round(canvas * math.sqrt(SMALLEST_CROP))
    factor = min(sides) / crop
    _CANVAS(
        f"{name}: training sees {what}: {sum(seen) / len(seen):.0%} of an image can be seen, at "
        f"{scale:.0%} of its resolution; crops of {SMALLEST_CROP:.0%} have {crop} pixels, "
        f"{'not enlarged' if factor < 1.02 else f'enlarged {factor:.1f} times'}; data.canvas sets it"
    )
