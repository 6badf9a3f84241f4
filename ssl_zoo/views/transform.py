"""The base class of transforms, which draw parameters for a batch of images from an `Rng`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from ssl_zoo.views.rng import Rng

P = TypeVar("P")


class Transform(Protocol):
    """A function that turns a batch of images and an `Rng` into a batch of images."""

    def __call__(self, x: Tensor, rng: Rng, /) -> Tensor:
        """Return the transformed batch."""


@runtime_checkable
class PlacedTransform(Protocol):
    """A transform that can tell which part of each image it shows."""

    def placed(self, x: Tensor, rng: Rng, /) -> tuple[Tensor, Tensor]:
        """Return the transformed batch, and the boxes [B, 4] as `RandomResizedCrop.placed` does."""


class RandomTransform(ABC, Generic[P]):
    """A transform in two halves: one draws the parameters, the other computes.

    A task that must know what was done to each image, or do the same to two batches, uses the halves:

        drawn = jitter.draw(x, rng)
        a, b = jitter.apply(x, drawn), jitter.apply(y, drawn)

    Calling the transform does both, to the bit, and `Rng.recording` then tells the parameters. These are
    the ones that are applied: an image that is left as it is has neutral ones. They are a named tuple of
    tensors with one entry for each image, so that a task may return them among its views.

    Attributes:
        moves: whether it moves what an image shows, so that the boxes of a crop before it are no longer
            the places of its pixels.
    """

    moves: ClassVar[bool] = False

    @abstractmethod
    def draw(self, x: Tensor, rng: Rng) -> P:
        """Draw the parameters for a batch [B, C, H, W], of which only the shape matters."""

    @abstractmethod
    def apply(self, x: Tensor, drawn: P) -> Tensor:
        """Transform a batch of the same shape with these parameters."""

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform uint8 or float [B, C, H, W] to float [B, C, h, w]."""
        return self.apply(x, self.draw_recorded(x, rng))

    def draw_recorded(self, x: Tensor, rng: Rng) -> P:
        """Return `draw`, and let the parameters be known to whoever has asked for them."""
        drawn = self.draw(x, rng)
        rng.record(self, drawn, x)
        return drawn


class Compose(RandomTransform[tuple[Any, ...]]):
    """A sequence of transforms that are applied one after another.

    Its parameters are a tuple with those of each transform. A crop must come first if they are drawn
    beforehand, as the shape of its result is not known to the others.
    """

    def __init__(self, *transforms: Transform) -> None:
        self.transforms = transforms

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Transform [B, C, H, W] to [B, C, h, w]."""
        for transform in self.transforms:
            x = transform(x, rng)
        return x

    def draw(self, x: Tensor, rng: Rng) -> tuple[Any, ...]:
        """Draw the parameters of each transform.

        Raises:
            TypeError: one of them is a plain function, which draws only as it is called.
        """
        return tuple(transform.draw(x, rng) for transform in self._parts())

    def apply(self, x: Tensor, drawn: tuple[Any, ...]) -> Tensor:
        """Transform [B, C, H, W] to [B, C, h, w] with the parameters of each transform."""
        for transform, parameters in zip(self._parts(), drawn, strict=True):
            x = transform.apply(x, parameters)
        return x

    def placed(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return the transformed batch and the boxes [B, 4] of its crop, which must be the first part.

        Raises:
            TypeError: the first transform is no crop, or another one moves what is shown.
        """
        first, *others = self.transforms
        if not isinstance(first, PlacedTransform):
            raise TypeError(f"{type(first).__name__} tells no boxes; begin with a RandomResizedCrop")
        if not self.is_placed:
            names = ", ".join(type(transform).__name__ for transform in others if _moves(transform))
            raise TypeError(f"{names}: moves what the boxes tell; leave it out")
        x, boxes = first.placed(x, rng)
        for transform in others:
            x = transform(x, rng)
        return x, boxes

    @property
    def is_placed(self) -> bool:
        """True if `placed` tells the boxes: the first part is a crop, and no other one moves pixels."""
        begins = [isinstance(transform, PlacedTransform) for transform in self.transforms[:1]]
        return begins == [True] and not any(map(_moves, self.transforms[1:]))

    def _parts(self) -> list[RandomTransform[Any]]:
        parts = [t for t in self.transforms if isinstance(t, RandomTransform)]
        if len(parts) < len(self.transforms):
            names = ", ".join(
                type(t).__name__ for t in self.transforms if not isinstance(t, RandomTransform)
            )
            raise TypeError(f"{names}: draws as it is called; derive it from RandomTransform")
        return parts


def _moves(transform: Transform) -> bool:
    """Return whether a transform moves what an image shows; a plain function is taken not to."""
    return isinstance(transform, RandomTransform) and transform.moves
