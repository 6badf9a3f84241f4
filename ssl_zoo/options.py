"""Options shared by many tasks, as base classes for their `Options`."""

from __future__ import annotations

from pydantic import field_validator

from ssl_zoo.spec import ImageSpec, Moves
from ssl_zoo.task import Field, TaskOptions
from ssl_zoo.views import RandomAffine, RandomResizedCrop


def share_range(scale: tuple[float, float]) -> tuple[float, float]:
    """Return a range of shares.

    Raises:
        ValueError: it is none, in words that follow the name of the option.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError("must be two shares in (0, 1], the smaller one first")
    return scale


class CropOptions(TaskOptions):
    """The options of a random resized crop, or of small moves in its place."""

    crop_scale: tuple[float, float] | None = Field((0.08, 1.0), description="share of the image's area")
    moves: bool | None = Field(
        None,
        description="small rotations, shifts, scalings and shears in place of crops; none: for data of "
        "which it is known that these keep the meaning and crops do not, such as digits",
    )
    flip: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability of a horizontal flip; none: 0.5, or 0 if mirroring changes the meaning",
    )

    @field_validator("crop_scale")
    @classmethod
    def _range_of_shares(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if scale is None else share_range(scale)

    def crop(
        self, spec: ImageSpec, size: int | None = None, scale: tuple[float, float] | None = None
    ) -> RandomResizedCrop | RandomAffine:
        """Return the transform for images of `spec`.

        Args:
            spec: the description of the images.
            size: the side of a small crop, in pixels, which moves never take the place of, as it shows
                a part of the image; None for the network's input.
            scale: the range of its area as a share of the image's; None for the option.
        """
        flip = (0.5 if spec.mirror else 0.0) if self.flip is None else self.flip
        if size is None and (spec.moves is not None if self.moves is None else self.moves):
            return RandomAffine(spec.size, **vars(spec.moves or Moves()), flip=flip)
        return RandomResizedCrop(
            size or spec.size, scale=scale or self.crop_scale or (0.08, 1.0), flip=flip
        )
