"""Row groups in memory: fetched by threads, and held while they are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cached_property
from typing import Generic, TypeVar

from ssl_zoo.data.sample_files import LostData

T = TypeVar("T")

FETCHING = 8
"""The number of threads that fetch row groups."""


class HeldGroups(Generic[T]):
    """Row groups by number, those that passes read and the last few others.

    Args:
        fetch: returns a row group, from several threads.
        others: the number of row groups that are held though no pass reads them.
    """

    def __init__(self, fetch: Callable[[int], T], others: int) -> None:
        self._fetch, self._others = fetch, others
        self._held: OrderedDict[int, Future[T]] = OrderedDict()
        self._wanted: dict[object, frozenset[int]] = {}
        self._lock = threading.Lock()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(FETCHING, thread_name_prefix="ssl-zoo-fetch")

    def get(self, group: int) -> T:
        """Return a row group, which is fetched if it is not held.

        Raises:
            SslZooError: it cannot be read.
        """
        while True:
            with self._lock:
                future = self._start(group)
            try:
                return future.result()
            except CancelledError:  # no pass wants it any more, but this caller
                continue
            except LostData:  # which a later call tries again
                with self._lock:
                    if self._held.get(group) is future:
                        del self._held[group]
                raise

    def hold(self, owner: object, groups: Sequence[int]) -> None:
        """Hold these row groups for an owner in place of those before, and fetch the missing ones.

        Args:
            owner: who wants them, such as a pass.
            groups: the row groups, those first that are needed first; none to end it.
        """
        with self._lock:
            if frozenset(groups) == self._wanted.get(owner, frozenset()):
                return
            self._wanted[owner] = frozenset(groups)
            if not groups:
                del self._wanted[owner]
            self._drop()
            for group in groups:
                self._start(group)

    def _start(self, group: int) -> Future[T]:
        """Return a row group, or its fetching, which is begun; to be called under the lock."""
        future = self._held.get(group)
        if future is None or future.cancelled():
            future = self._held[group] = self._pool.submit(self._fetch, group)
            self._drop()
        self._held.move_to_end(group)
        return future

    def _drop(self) -> None:
        """Drop row groups that nobody wants but the last few; to be called under the lock."""
        wanted = frozenset[int]().union(*self._wanted.values())
        others = [group for group in self._held if group not in wanted]
        for group in others[: -self._others]:
            self._held.pop(group).cancel()
