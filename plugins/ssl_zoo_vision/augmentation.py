"""The augmentation of SimCLR, MoCo and BYOL: crop, flip, jitter, grayscale, blur, solarise."""

from __future__ import annotations

from pydantic import field_validator

from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Field
from ssl_zoo.views import (
    ColorJitter,
    Compose,
    GaussianBlur,
    Normalise,
    RandomGrayscale,
    RandomSolarise,
)

SMALL = 64
"""Up to this side, in pixels, options that are None take the papers' values for small images."""


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
        """Return the augmentation for images described by `spec`.

        Args:
            spec: the description of the images.
            blur_p: the paper's probability of blurring, used where the option is None.
            solarise_p: the probability of solarising.
        """
        if self.blur_p is not None:
            blur_p = self.blur_p
        elif spec.size <= SMALL:
            blur_p = 0.0
        return Compose(
            self.crop(spec),
            ColorJitter(*self.jitter, p=self.jitter_p),
            RandomGrayscale(self.grayscale_p),
            GaussianBlur(p=blur_p),
            RandomSolarise(solarise_p),
            Normalise(spec),
        )
