"""A look at some of a source's images, to say what decoding them to a small size loses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.decode import is_gray
from ssl_zoo.data.pixels import Form
from ssl_zoo.data.sample_files import LostData
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.preprocess import has_more_than_8_bits, opened
from ssl_zoo.sizes import Size, format_size, height_width, shape_name
from ssl_zoo.text import quantity

MAX_SURVEYED = 256
"""The number of images that are looked at, spread over the source."""

_SIZE = Notice(
    "image-size",
    "The network's input is a square of 224 pixels unless the source has its own size, or the network "
    "pretrained weights, which were trained on images of another size.",
    "--image-size",
)
_NOT_SQUARE = Notice(
    "not-square",
    "Of an image that is not square evaluation sees the central square, and training a window that "
    "moves over all of it; likewise for an input that is not square, of which an image has another "
    "aspect.",
    "data.tile, data.canvas, or cut the images yourself",
)
_ENLARGED = Notice(
    "enlarged",
    "An image smaller than the network's input is enlarged.",
    "--image-size",
)
_BITS = Notice(
    "bit-depth",
    "Images of more than 8 bits, or of another type, are stored in their own type.",
    "scale them to 8 bits yourself, with one range for all",
)
_ALPHA = Notice(
    "transparency",
    "Pixels that an alpha channel makes transparent become white.",
    "data.channels: 4 where it is a channel, such as near infrared; 2 for gray with another channel",
)
_FRAMES = Notice(
    "first-frame",
    "Of a file with several frames or pages the first one is used.",
    "data.pages: samples, or channels where they are those of one image",
)
_GRAY = Notice(
    "gray",
    "A folder has one channel if all images looked at are gray; in any other, gray images are repeated "
    "to three.",
    "convert the images",
)


@dataclass(frozen=True)
class Survey:
    """The properties of the images looked at.

    Attributes:
        total: the number of images of the source.
        seen: the number of images looked at that could be opened.
        counts: the number of those with each property.
        types: the number of those of each type, such as "uint16".
        bands: the number of those with each number of channels, where it is neither 1 nor 3.
        sizes: the height and width of each, in pixels of the file.
    """

    total: int
    seen: int
    counts: Counter[str]
    types: Counter[str] = field(default_factory=Counter)
    bands: Counter[int] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """The number of channels of decoded images: that of most of the images looked at.

        Gray images and those in colour count together, as 1 if all of them are gray, otherwise as 3.
        """
        pictures = self.seen - self.bands.total()
        for number, count in self.bands.most_common(1):
            if count > pictures:
                return number
        return 1 if self.counts["gray"] == pictures else 3

    def form(self, config: DataConfig) -> Form:
        """Return the form in which the images are stored, by the ``data`` section."""
        return Form.of(config.channels or self.channels, list(self.types), config)

    def report(self, name: str, size: Size, form: Form, default: str | None) -> None:
        """Give a notice for each property that matters.

        Args:
            name: the source's name.
            size: the size of the network's input.
            form: the form in which the images are stored.
            default: what the size is, such as "the default"; None if the user has set it.
        """
        pixels = f"{format_size(size)} pixels"
        if default is not None:
            _SIZE(f"{name}: the network sees {pixels}, {default}; --image-size changes it")
        repeated = f"repeated to {'three' if self.channels == 3 else self.channels} channels"
        channels = "one channel is used" if self.channels == 1 else repeated
        small = f"smaller than the {pixels} that the network sees"
        shape = "square" if isinstance(size, int) else f"of the aspect {format_size(size)}"
        self._report(
            _NOT_SQUARE,
            name,
            "not square",
            f"is|are not {shape}",
            f"evaluation sees the central {shape_name(size)}",
        )
        self._report(
            _ENLARGED, name, "small", f"is|are {small}", "enlarged; a smaller --image-size avoids it"
        )
        self._report(_BITS, name, "deep", "has|have more than 8 bits", f"kept as {form.dtype}")
        self._report(
            _ALPHA, name, "alpha", "has|have an alpha channel",
            "transparent pixels become white; data.channels=4 takes it as a channel",
        )  # fmt: skip
        self._report(
            _FRAMES,
            name,
            "frames",
            "has|have several pages",
            "the first one is used; data.pages=samples takes each as a sample",
        )
        self._report(_GRAY, name, "gray", "is|are gray", channels)

    def _report(self, notice: Notice, name: str, key: str, predicate: str, effect: str) -> None:
        """Give a notice of a property that some images have.

        Args:
            notice: the kind of notice.
            name: the source's name.
            key: the name of the property in `counts`.
            predicate: what holds, after the verbs for one and for several, as in "is|are gray".
            effect: what is done with them.
        """
        number = self.counts[key]
        if number:
            images = quantity(self.seen, "images") + (" looked at" if self.seen < self.total else "")
            subject = f"all {images}" if number == self.seen > 1 else f"{number:,} of {images}"
            one, _, several = predicate.partition("|")
            if number == self.seen > 1 and several.startswith("are not "):
                subject, several = f"none of the {images}", several.replace("are not ", "is ", 1)
            verb = several if number > 1 else f"{one} {several.partition(' ')[2]}"
            notice(f"{name}: {subject} {verb}; {effect}")


def survey(
    open_image: Callable[[int], Image.Image | NDArray[Any]],
    count: int,
    size: Size,
    channels: int | None = None,
    has_pages: Callable[[int], bool] = lambda number: False,
    numbers: Sequence[int] | None = None,
) -> Survey:
    """Look at up to about `MAX_SURVEYED` images; those that cannot be opened do not count.

    Args:
        open_image: opens the image with a given number.
        count: the number of images.
        size: the size of the network's input.
        channels: the number of channels that the user asks for; None for that of the images.
        has_pages: whether there are further pages, where the image does not tell.
        numbers: the images to look at; None for some that are spread over all.

    Raises:
        UserError: a library that reads them is not installed.
        LostData: their file or server is gone.
    """
    counts: Counter[str] = Counter()
    types: Counter[str] = Counter()
    bands: Counter[int] = Counter()
    sizes: list[tuple[int, int]] = []
    seen = 0
    for number in numbers or range(0, count, max(1, count // MAX_SURVEYED)):
        try:
            image = open_image(number)
            with opened(image):
                properties = _properties(image, size, channels)
                if isinstance(image, np.ndarray) and has_pages(number):
                    properties.append("frames")
                counts.update(properties)
                types[_type(image)] += 1
                sizes.append(_size(image))
                if isinstance(image, np.ndarray) and len(image) not in (1, 3):
                    bands[len(image)] += 1
        except ImportError as error:
            raise UserError(f"data.source: an image {error}") from error
        except LostData:
            raise
        except Exception:  # decoders raise errors of every kind; training skips the image
            continue
        seen += 1
    return Survey(count, seen, counts, types, bands, sizes)


def _size(image: Image.Image | NDArray[Any]) -> tuple[int, int]:
    """Return the height and width of an image in its file, within 7 pixels for a JPEG."""
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[2]
    scale, *_ = getattr(image, "decoderconfig", ()) or (1,)  # at which a JPEG will be decoded
    return image.height * scale, image.width * scale


def _type(image: Image.Image | NDArray[Any]) -> str:
    """Return the name of the type of an image's values."""
    if isinstance(image, np.ndarray):
        return str(image.dtype)
    if not has_more_than_8_bits(image):
        return "uint8"
    if image.mode == "I":
        return "int16" if getattr(image, "tag_v2", {}).get(258) == (16,) else "float32"
    return "float32" if image.mode == "F" else "uint16"


def _properties(image: Image.Image | NDArray[Any], size: Size, channels: int | None = None) -> list[str]:
    picture = image if isinstance(image, Image.Image) else None
    height, width = image.shape[1:] if isinstance(image, np.ndarray) else image.size[::-1]
    rows, columns = height_width(size)
    cut = (width * rows - height * columns) / rows, (height * columns - width * rows) / columns
    properties = {
        "not square": max(cut) >= 1,  # in pixels, of the width and of the height
        "small": height < rows or width < columns,
        "deep": _type(image) != "uint8",
        "alpha": picture is not None and picture.has_transparency_data and channels in (None, 1, 3),
        "frames": getattr(image, "is_animated", False),
        "gray": is_gray(image) if picture is not None else len(image) == 1,  # type: ignore[arg-type]
    }
    return [name for name, holds in properties.items() if holds]
