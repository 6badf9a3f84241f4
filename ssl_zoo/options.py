"""Options shared by many tasks, as base classes for their `Options`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import field_validator, model_validator

from ssl_zoo.errors import Unsuitable
from ssl_zoo.sizes import Size, height_width
from ssl_zoo.spec import ImageSpec, Moves
from ssl_zoo.task import Field, TaskOptions
from ssl_zoo.views import Compose, Normalise, RandomAffine, RandomResizedCrop
from ssl_zoo.views.named import Steps, build_transform, parse_views
from ssl_zoo.views.ranges import share_range

_CROP = "random_resized_crop"


class CropOptions(TaskOptions):
    """The options of a random crop, of small moves, and of the user's transforms in its place.

    A task takes its augmentation from `view`, and then `views` composes another one. One that takes the
    `crop` alone, because its views are a part of its meaning, refuses `views` by that.
    """

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
    views: Steps | tuple[Steps, ...] | None = Field(
        None, description="transforms by name, or a list of them for each view; none: the task's own"
    )

    @field_validator("crop_scale")
    @classmethod
    def _range_of_shares(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if scale is None else share_range(scale)

    @field_validator("views", mode="before")
    @classmethod
    def _named_transforms(cls, views: Any) -> Any:
        return parse_views(views)

    @model_validator(mode="after")
    def _nothing_replaced(self) -> CropOptions:
        fields = type(self).model_fields
        for name in fields if self.views is not None else ():
            if name in self.replaced() and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} has no effect beside task.views; leave one of them out")
        return self

    @classmethod
    def replaced(cls) -> set[str]:
        """Return the names of the options that have no effect where `views` is given."""
        return set()

    def view(self, spec: ImageSpec) -> Compose:
        """Return the augmentation to one view: `frame` and normalisation, or the transforms of `views`.

        Args:
            spec: the description of the images.

        Raises:
            Unsuitable: there are lists for several views.
        """
        if self.views is None:
            return Compose(self.frame(spec), Normalise(spec))
        return self.composed(self.steps(1)[0], spec)

    def crop(
        self, spec: ImageSpec, size: Size | None = None, scale: tuple[float, float] | None = None
    ) -> RandomResizedCrop | RandomAffine:
        """Return what `frame` does, for a task that does the rest itself.

        Args:
            spec: the description of the images.
            size: as for `frame`.
            scale: likewise.

        Raises:
            Unsuitable: `views` is given, which would have no effect.
        """
        self.require_own_views()
        return self.frame(spec, size, scale)

    def frame(
        self, spec: ImageSpec, size: Size | None = None, scale: tuple[float, float] | None = None
    ) -> RandomResizedCrop | RandomAffine:
        """Return the change of geometry with which a view begins: a crop, or small moves in its place.

        Args:
            spec: the description of the images.
            size: the size of a small crop, in pixels, which moves never take the place of, as it shows
                a part of the image; None for the network's input.
            scale: the range of a crop's area as a share of the image's; None for the option.
        """
        if size is None and (spec.moves is not None if self.moves is None else self.moves):
            return RandomAffine(spec.size, **vars(spec.moves or Moves()), flip=self._flip(spec))
        return self._crop(spec, size, scale)

    def require_own_views(self) -> None:
        """Raise if `views` is given.

        Raises:
            Unsuitable: it is.
        """
        if self.views is not None:
            raise Unsuitable("task.views: this task's views are a part of what it learns; leave it out")

    def steps(self, number: int) -> Sequence[Steps]:
        """Return the transforms by `views` of each of `number` views: one list for all, or one for each.

        Args:
            number: the number of views that are made of an image at the network's size.

        Raises:
            Unsuitable: there is another number of lists, or all views would be equal.
        """
        views: tuple[Any, ...] = self.views or ()
        lists = views if views and isinstance(views[0], tuple) else (views,)
        if len(lists) not in (1, number):
            each = f", or {number} lists" if number > 1 else ""
            raise Unsuitable(
                f"task.views: has {len(lists)} lists, and this task makes {number} "
                f"{'view' if number == 1 else 'views'}; give one list of transforms{each}"
            )
        if number > 1 and not any(lists):
            raise Unsuitable(
                f"task.views: has no transform, so that all {number} views of an image would be equal; "
                "give some, or leave it out"
            )
        return lists * number if len(lists) == 1 else lists

    def composed(
        self,
        steps: Steps,
        spec: ImageSpec,
        size: Size | None = None,
        scale: tuple[float, float] | None = None,
    ) -> Compose:
        """Return the transforms with these names, at the network's size, and then normalisation.

        A crop is the task's, but for the parameters that it is given. Without one, images are resized.

        Args:
            steps: the names and parameters, such as one of `steps`.
            spec: the description of the images.
            size: the size of a small crop, in pixels, which is always cut; None for the network's input.
            scale: the range of a crop's area as a share of the image's; None for the option.
        """
        crop = self._crop(spec, size, scale)
        fixed = () if size is None else ("scale",)  # the share of small crops has an option of its own
        transforms = [
            replace(crop, **{key: value for key, value in given.items() if key not in fixed})
            if name == _CROP
            else build_transform(name, given, size=crop.size, spec=spec)
            for step in steps
            for name, given in step.items()
        ]
        if not any(_CROP in step for step in steps):
            resize = RandomResizedCrop(crop.size, scale=(1, 1), ratio=_ratios(crop.size, 1, 1), flip=0)
            transforms.insert(0, resize if size is None else crop)
        return Compose(*transforms, Normalise(spec))

    def _crop(
        self, spec: ImageSpec, size: Size | None = None, scale: tuple[float, float] | None = None
    ) -> RandomResizedCrop:
        scale = scale or self.crop_scale or (0.08, 1.0)
        size = size or spec.size
        ratio = _ratios(size, 3 / 4, 4 / 3)
        return RandomResizedCrop(size, scale=scale, ratio=ratio, flip=self._flip(spec))

    def _flip(self, spec: ImageSpec) -> float:
        return (0.5 if spec.mirror else 0.0) if self.flip is None else self.flip


def _ratios(size: Size, low: float, high: float) -> tuple[float, float]:
    """Return the range of a crop's width over its height that stretches it by `low` to `high` only."""
    height, width = height_width(size)
    return low * width / height, high * width / height
