"""Augmentations of joint embedding: crop, flip, jitter, grayscale, blur, solarise; pairs, multi-crop.

A method's `Options` derive from the class of its paper's views: `ViewOptions` (MoCo's, SimSiam's),
`SymmetricViewOptions` (SimCLR's, SwAV's), `AsymmetricViewOptions` (BYOL's, DINO's), and, for small crops
beside them, `MultiCropOptions` as well. Where its paper has other numbers, it overrides the field.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import field_validator

from ssl_zoo.errors import Unsuitable
from ssl_zoo.nn import output_shape
from ssl_zoo.options import CropOptions
from ssl_zoo.sizes import Size, longer_side
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field
from ssl_zoo.views import (
    ColorJitter,
    Compose,
    GaussianBlur,
    MultiCrop,
    Normalise,
    RandomChannelDrop,
    RandomGrayscale,
    RandomSolarise,
)
from ssl_zoo.views.ranges import share_range

SMALL = 64
"""Up to this longer side, in pixels, options that are None take the papers' values for small images."""


def is_small(spec: ImageSpec) -> bool:
    """Return whether options that are None take the papers' values for small images."""
    return longer_side(spec.size) <= SMALL


ALONE = (0.14, 1.0)
"""The share of the area in large views that no small ones accompany, in the code of SwAV and DINO."""


@dataclass(frozen=True)
class Crops:
    """Crops of one kind, for `ViewOptions.crops`.

    Attributes:
        number: the number of crops of an image.
        scale: the range of a crop's area, as a share of the image's area; None for the option.
        size: the side of the crops, or their height and width, in pixels; None for the network's input.
        blur_p: the paper's probability of blurring, used where the option is None.
        solarise_p: the probability of solarising.
    """

    number: int
    scale: tuple[float, float] | None = None
    size: Size | None = None
    blur_p: float = 0.5
    solarise_p: float = 0.0


class ViewOptions(CropOptions):
    """The options of an augmented view."""

    jitter: tuple[float, float, float, float] = Field(
        (0.4, 0.4, 0.4, 0.1), description="brightness, contrast, saturation, hue"
    )
    jitter_p: float = Field(0.8, ge=0, le=1, description="probability of colour jitter")
    jitter_each: bool = Field(
        False, description="draw brightness and contrast for each channel, as for bands of a spectrum"
    )
    channel_drop_p: float = Field(0.0, ge=0, le=1, description="probability that a channel is lost")
    grayscale_p: float = Field(0.2, ge=0, le=1, description="probability of conversion to gray")
    blur_p: float | None = Field(
        None, ge=0, le=1, description="probability of blur; none: the paper's, or 0 up to 64 pixels"
    )

    @field_validator("jitter")
    @classmethod
    def _strengths(cls, jitter: tuple[float, ...]) -> tuple[float, ...]:
        if min(jitter) < 0 or jitter[3] > 0.5:
            raise ValueError("must be strengths of at least 0, the hue's of at most 0.5")
        return jitter

    @classmethod
    def replaced(cls) -> set[str]:
        """Return the names of the options of colour and blur."""
        return {*ViewOptions.model_fields, "solarise_p"} - {*CropOptions.model_fields}

    def view(self, spec: ImageSpec, blur_p: float = 0.5, solarise_p: float = 0.0) -> Compose:
        """Return the augmentation for images of `spec`: a crop and what follows it, or `views`.

        Its ``placed`` tells the boxes of the crops, see `ssl_zoo.views.RandomResizedCrop.placed`.

        Args:
            spec: the description of the images.
            blur_p: the paper's probability of blurring, used where the option is None.
            solarise_p: the probability of solarising.
        """
        if self.views is not None:
            return super().view(spec)
        return Compose(self.frame(spec), *self.colours(spec, blur_p, solarise_p).transforms)

    def colours(self, spec: ImageSpec, blur_p: float = 0.5, solarise_p: float = 0.0) -> Compose:
        """Return what follows a crop: changes of colour, blur and normalisation.

        Args:
            spec: the description of the images.
            blur_p: as for `view`.
            solarise_p: as for `view`.

        Raises:
            Unsuitable: `views` is given, which would have no effect.
        """
        self.require_own_views()
        if self.blur_p is not None:
            blur_p = self.blur_p
        elif is_small(spec):
            blur_p = 0.0
        return Compose(
            ColorJitter(*self.jitter, p=self.jitter_p, each=self.jitter_each),
            RandomGrayscale(self.grayscale_p),
            GaussianBlur(p=blur_p),
            RandomSolarise(solarise_p),
            # Left out where it does nothing, as it would draw random numbers.
            *([RandomChannelDrop(self.channel_drop_p, fill=spec.mean)] if self.channel_drop_p else []),
            Normalise(spec),
        )

    def kinds(self) -> tuple[Crops, ...]:
        """Return the kinds of the two large views: here both of one distribution."""
        return (Crops(2),)

    def pair(self, spec: ImageSpec, placed: bool = False) -> MultiCrop:
        """Return the augmentation to the paper's two views of each image.

            view_1, view_2 = options.pair(spec)(images, rng)

        Args:
            spec: the description of the images.
            placed: whether its ``placed`` is used, which tells the boxes of the crops.

        Raises:
            Unsuitable: `moves`, or transforms of `views`, do not keep to the boxes.
        """
        pair = self.crops(spec, *self.kinds())
        if placed and not pair.is_placed:
            reason = "this task finds places again in the other view"
            if self.views is None:
                raise Unsuitable(f"task.moves: {reason}, by crops alone; set it to false")
            raise Unsuitable(
                f"task.views: {reason}; begin with random_resized_crop, and leave out what moves them "
                "after it, such as flips and turns"
            )
        return pair

    def crops(self, spec: ImageSpec, *kinds: Crops) -> MultiCrop:
        """Return an augmentation to several crops of each image, such as SwAV's and DINO's.

        For two large and six small crops of 224 and 96 pixels:

            options.crops(spec, Crops(2, (0.14, 1.0)), Crops(6, (0.05, 0.14), size=96))

        With `views`, each view at the network's size is made by its list, and small crops by the first.

        Pass its views through an encoder with `ssl_zoo.nn.by_size`.

        Args:
            spec: the description of the images.
            kinds: the kinds of crops, in the order of the views.

        Raises:
            Unsuitable: there is another number of lists in `views`.
        """
        if self.views is None:
            return MultiCrop([(kind.number, self._own(spec, kind)) for kind in kinds])
        lists = self.steps(sum(kind.number for kind in kinds if kind.size is None))
        large = iter(lists)
        return MultiCrop(
            [
                (1, self.composed(lists[0] if kind.size else next(large), spec, kind.size, kind.scale))
                for kind in kinds
                for _ in range(kind.number)
            ]
        )

    def _own(self, spec: ImageSpec, kind: Crops) -> Compose:
        """Return the paper's augmentation to crops of a kind."""
        frame = self.frame(spec, kind.size, kind.scale)
        return Compose(frame, *self.colours(spec, kind.blur_p, kind.solarise_p).transforms)


class SymmetricViewOptions(ViewOptions):
    """The options of SimCLR's views, both of one distribution of strong changes (also SwAV's)."""

    jitter: tuple[float, float, float, float] = Field(
        (0.8, 0.8, 0.8, 0.2), description="brightness, contrast, saturation, hue"
    )


class AsymmetricViewOptions(ViewOptions):
    """The options of BYOL's views, from two distributions (appendix B; also DINO's).

    The first is blurred in large images, the second rarely, and solarised at times.
    """

    jitter: tuple[float, float, float, float] = Field(
        (0.4, 0.4, 0.2, 0.1), description="brightness, contrast, saturation, hue"
    )
    solarise_p: float = Field(0.2, ge=0, le=1, description="probability of solarising the second view")

    def kinds(self) -> tuple[Crops, ...]:
        """Return the kinds of the two large views, which differ."""
        return Crops(1, blur_p=1.0), Crops(1, blur_p=0.1, solarise_p=self.solarise_p)


class MultiCropOptions(ViewOptions):
    """The options of small crops beside the two large views (SwAV, arXiv:2006.09882, section 3.2).

    `crop_scale` is of the large views; None stands for `large` of `multi_crop`. Combine it with another
    class of views:

        class Options(MultiCropOptions, AsymmetricViewOptions):
            crop_scale: tuple[float, float] | None = Field(None, description="…")
            local_scale: tuple[float, float] = Field((0.05, 0.4), description="…")
    """

    local: int | None = Field(
        None, ge=0, description="number of small crops; none: the paper's, or 0 up to 64 pixels"
    )
    local_scale: tuple[float, float] = Field(
        (0.05, 0.14), description="share of the image's area in a small crop"
    )
    local_size: float = Field(
        96 / 224, gt=0, le=1, description="sides of a small crop, as a share of the image's"
    )

    @field_validator("local_scale")
    @classmethod
    def _range_of_local_shares(cls, scale: tuple[float, float]) -> tuple[float, float]:
        return share_range(scale)

    def multi_crop(
        self,
        spec: ImageSpec,
        encoder: Encoder,
        local: int,
        large: tuple[float, float] = ALONE,
        solarise_p: float = 0.0,
    ) -> MultiCrop:
        """Return the augmentation to two large views and then the small crops, by the options.

            self.crops = options.multi_crop(spec, encoder, local=6)  # in __init__; any_size = True
            return self.crops(batch, rng)                            # in views
            outputs = by_size(self.encoder, views)                   # in loss, large ones first

        Args:
            spec: the description of the images.
            encoder: the encoder; a transformer's small crops are a whole number of patches wide.
            local: the paper's number of small crops, used for large images where the option is None.
            solarise_p: the probability of solarising a small crop.
            large: the paper's share of the area in a large view beside small ones, used where
                `crop_scale` is None; without small ones it is `ALONE`.
        """
        if self.local is not None:
            local = self.local
        elif is_small(spec):
            local = 0
        size = self.local_crop(spec, encoder)
        small = Crops(local, self.local_scale, size, solarise_p=solarise_p)
        scale = self.crop_scale or (large if local else ALONE)
        views = [replace(kind, scale=kind.scale or scale) for kind in self.kinds()]
        return self.crops(spec, *views, *([small] if local else []))

    def local_crop(self, spec: ImageSpec, encoder: Encoder) -> Size:
        """Return the size of a small crop in pixels, for a transformer a whole number of its patches.

        Args:
            spec: the description of the images.
            encoder: the encoder.
        """
        return part_of(spec, encoder, self.local_size)


def part_of(spec: ImageSpec, encoder: Encoder, share: float) -> Size:
    """Return the size of a small crop in pixels, for a transformer a whole number of its patches.

    Args:
        spec: the description of the images.
        encoder: the encoder.
        share: the sides of the crop, as a share of the image's.
    """
    size, patches = (spec.height, spec.width), [1, 1]
    if encoder.embed_width is not None:
        grid = output_shape(encoder, encoder.feature_map, spec)[2:]
        patches = [side // number for side, number in zip(size, grid, strict=True)]
    height, width = (
        max(1, round(share * side / patch)) * patch for side, patch in zip(size, patches, strict=True)
    )
    return height, width
