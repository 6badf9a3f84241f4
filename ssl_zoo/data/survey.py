"""A look at some of a source's images, to say what decoding them to small squares of 8 bits loses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from ssl_zoo.data.decode import is_gray
from ssl_zoo.notices import Notice
from ssl_zoo.preprocess import has_more_than_8_bits
from ssl_zoo.text import quantity

MAX_SURVEYED = 256
"""The number of images that are looked at, spread over the source."""

_SIZE = Notice(
    "image-size",
    "The network's input is a square of 224 pixels unless the source has its own size.",
    "--image-size",
)
_NOT_SQUARE = Notice(
    "not-square",
    "Of an image that is not square the central square is used.",
    "cut the images yourself",
)
_ENLARGED = Notice(
    "enlarged",
    "An image smaller than the network's input is enlarged.",
    "--image-size",
)
_BITS = Notice(
    "bit-depth",
    "Images of more than 8 bits are scaled to 8, each by its own range; negative values become 0.",
    "scale them to 8 bits yourself, with one range for all",
)
_ALPHA = Notice(
    "transparency",
    "Pixels that an alpha channel makes transparent become white.",
    "remove the alpha channel",
)
_FRAMES = Notice(
    "first-frame",
    "Of a file with several frames or pages the first one is used.",
    "save the frames as files",
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
    """

    total: int
    seen: int
    counts: Counter[str]

    @property
    def channels(self) -> int:
        """The number of channels of decoded images: 1 if all are gray, otherwise 3."""
        return 1 if self.counts["gray"] == self.seen else 3

    def report(self, name: str, size: int, size_is_default: bool) -> None:
        """Give a notice for each property that matters.

        Args:
            name: the source's name.
            size: the side of the network's input, in pixels.
            size_is_default: whether the user left the size open.
        """
        square = f"{size}×{size} pixels"
        if size_is_default:
            _SIZE(f"{name}: the network sees {square}, the default; --image-size changes it")
        channels = "one channel is used" if self.channels == 1 else "repeated to three channels"
        small = f"smaller than the {square} that the network sees"
        self._report(_NOT_SQUARE, name, "not square", "is|are not square", "the edges are cut off")
        self._report(
            _ENLARGED, name, "small", f"is|are {small}", "enlarged; a smaller --image-size avoids it"
        )
        self._report(
            _BITS, name, "deep", "has|have more than 8 bits", "scaled to 8 bits, each by its own range"
        )
        self._report(
            _ALPHA, name, "alpha", "has|have an alpha channel", "transparent pixels become white"
        )
        self._report(_FRAMES, name, "frames", "has|have several frames", "the first one is used")
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
            verb = several if number > 1 else f"{one} {several.partition(' ')[2]}"
            notice(f"{name}: {subject} {verb}; {effect}")


def survey(open_image: Callable[[int], Image.Image], count: int, side: int) -> Survey:
    """Look at up to about `MAX_SURVEYED` images; those that cannot be opened do not count.

    Args:
        open_image: opens the image with a given number.
        count: the number of images.
        side: the side of the stored squares, in pixels.
    """
    counts: Counter[str] = Counter()
    seen = 0
    for number in range(0, count, max(1, count // MAX_SURVEYED)):
        try:
            with open_image(number) as image:
                counts.update(_properties(image, side))
        except Exception:  # decoders raise errors of every kind; training skips the image
            continue
        seen += 1
    return Survey(count, seen, counts)


def _properties(image: Image.Image, side: int) -> list[str]:
    properties = {
        "not square": image.width != image.height,
        "small": min(image.size) < round(side * 7 / 8),  # the network's input
        "deep": has_more_than_8_bits(image),
        "alpha": image.has_transparency_data,
        "frames": getattr(image, "is_animated", False),
        "gray": is_gray(image),
    }
    return [name for name, holds in properties.items() if holds]
