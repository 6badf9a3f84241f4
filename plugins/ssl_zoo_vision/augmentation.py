"""The augmentation of SimCLR, MoCo and BYOL: crop, flip, jitter, grayscale, blur, solarise."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import field_validator

from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Field
from ssl_zoo.views import (
    ColorJitter,
    Compose,
    GaussianBlur,
    MultiCrop,
    Normalise,
    RandomGrayscale,
    RandomSolarise,
)

SMALL = 64
"""Up to this side, in pixels, options that are None take the papers' values for small images."""


@dataclass(frozen=True)
class Crops:
    """Crops of one kind, for `ViewOptions.crops`.

    Attributes:
        number: the number of crops of an image.
        scale: the range of a crop's area, as a share of the image's area; None for the option.
        size: the side of the crops, in pixels; None for the network's input.
        blur_p: the paper's probability of blurring, used where the option is None.
        solarise_p: the probability of solarising.
    """

    number: int
    scale: tuple[float, float] | None = None
    size: int | None = None
    blur_p: float = 0.5
    solarise_p: float = 0.0


class ViewOptions(CropOptions):
    """The options of an augmented view."""

    jitter: tuple[float, float, float, float] = Field(
        (0.4, 0.4, 0.4, 0.1), description="brightness, contrast, saturation, hue"
    )
    jitter_p: float = Field(0.8, ge=0, le=1, description="probability of colour jitter")
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

    def view(self, spec: ImageSpec, blur_p: float = 0.5, solarise_p: float = 0.0) -> Compose:
        """Return the augmentation for images described by `spec`: a crop, and what follows it.

        Its ``placed`` tells the boxes of the crops, see `ssl_zoo.views.RandomResizedCrop.placed`.

        Args:
            spec: the description of the images.
            blur_p: the paper's probability of blurring, used where the option is None.
            solarise_p: the probability of solarising.
        """
        return Compose(self.crop(spec), *self.colours(spec, blur_p, solarise_p).transforms)

    def colours(self, spec: ImageSpec, blur_p: float = 0.5, solarise_p: float = 0.0) -> Compose:
        """Return what follows a crop: changes of colour, blur and normalisation.

        Args:
            spec: the description of the images.
            blur_p: as for `view`.
            solarise_p: as for `view`.
        """
        if self.blur_p is not None:
            blur_p = self.blur_p
        elif spec.size <= SMALL:
            blur_p = 0.0
        return Compose(
            ColorJitter(*self.jitter, p=self.jitter_p),
            RandomGrayscale(self.grayscale_p),
            GaussianBlur(p=blur_p),
            RandomSolarise(solarise_p),
            Normalise(spec),
        )

    def crops(self, spec: ImageSpec, *kinds: Crops) -> MultiCrop:
        """Return an augmentation to several crops of each image, such as SwAV's and DINO's.

        For two large and six small crops of 224 and 96 pixels:

            options.crops(spec, Crops(2, (0.14, 1.0)), Crops(6, (0.05, 0.14), size=96))

        Pass its views through an encoder with `ssl_zoo.nn.by_size`.

        Args:
            spec: the description of the images.
            kinds: the kinds of crops, in the order of the views.
        """
        return MultiCrop(
            [
                (
                    kind.number,
                    Compose(
                        self.crop(spec, kind.size, kind.scale),
                        *self.colours(spec, kind.blur_p, kind.solarise_p).transforms,
                    ),
                )
                for kind in kinds
            ]
        )
