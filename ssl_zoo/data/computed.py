"""Sequences whose elements are computed where they are asked for, so that none is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class ComputedSequence(Sequence[T]):
    """A sequence whose elements a function computes; it equals any with equal elements.

    Args:
        count: the number of elements.
        function: returns the element with a given index.
    """

    def __init__(self, count: int, function: Callable[[int], T]) -> None:
        self._count, self._function = count, function

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(self._count)[index]
        function = self._function
        return function(places) if isinstance(places, int) else [function(i) for i in places]
