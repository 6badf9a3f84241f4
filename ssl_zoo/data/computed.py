"""Sequences whose elements are computed where they are asked for, so that none is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class ComputedSequence(Sequence[T]):
    """What a function returns for each number below a count.

    Args:
        count: the count.
        of: the function.
    """

    def __init__(self, count: int, of: Callable[[int], T]) -> None:
        self._count, self._of = count, of

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(self._count)[index]
        return self._of(places) if isinstance(places, int) else [self._of(i) for i in places]
