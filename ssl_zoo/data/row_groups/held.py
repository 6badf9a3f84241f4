"""Row groups in memory: fetched by threads, and held while they are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

from ssl_zoo.data.sample_files import LostData
from ssl_zoo.errors import SslZooError

T = TypeVar("T")

FETCHING = 8
"""The number of threads that fetch row groups."""


class HeldGroups(Generic[T]):
    """Row groups in memory, by number: those that are held for an owner, and the last few others.

    A row group is fetched as long as an owner holds it, and no longer than Python's main thread lives.

    Args:
        fetch: returns a row group, from several threads. Besides its number it takes a function that
            tells whether it is still wanted; if not, it is to end soon, with any error.
        spare: the number of row groups that are in memory though nobody holds them.
    """

    def __init__(self, fetch: Callable[[int, Callable[[], bool]], T], spare: int) -> None:
        self._fetch, self.spare = fetch, spare
        self._groups: OrderedDict[int, Future[T]] = OrderedDict()  # the last one used at the end
        self._queue: dict[int, None] = {}  # those whose fetching has not begun, in order
        self._threads = 0
        self._owners: dict[object, frozenset[int]] = {}
        self._ended: SimpleQueue[object] = SimpleQueue()  # owners that are still among those
        self._lock = threading.Lock()

    def get(self, group: int) -> T:
        """Return a row group, which is fetched if it is not in memory.

        Raises:
            LostData: a file cannot be read; a later call tries again.
            SslZooError: the row group cannot be read.
        """
        owner = object()
        try:
            with self._locked():
                self._owners[owner] = frozenset((group,))
                future = self._provide(group)
                if future.done():
                    del self._owners[owner]
            error = future.exception()
        finally:
            self.end(owner)
        if error is None:
            return future.result()
        # A new error, as `future` keeps the other one, and an error keeps the frames it passes.
        kind = LostData if isinstance(error, LostData) else SslZooError
        raise kind(str(error) or type(error).__name__) from error

    def hold(self, owner: object, groups: Sequence[int]) -> None:
        """Hold these row groups for an owner in place of those before, and fetch the missing ones.

        Args:
            owner: what needs them, such as a pass.
            groups: the row groups, those first that are needed first.
        """
        with self._locked():
            if frozenset(groups) == self._owners.get(owner):
                return
            self._owners[owner] = frozenset(groups)
            self._drop()
            for group in groups:
                self._provide(group)

    def end(self, owner: object) -> None:
        """Hold nothing for an owner any more.

        Generators may call it when they are collected as garbage, which can happen while this very
        thread has the lock. So it never waits for the lock; the thread that has it does the work.
        """
        self._ended.put(owner)
        self._end_owners()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock."""
        try:
            with self._lock:
                yield
        finally:
            self._end_owners()

    def _end_owners(self) -> None:
        """Remove the owners that have ended, unless a thread has the lock, which will do it then."""
        while not self._ended.empty() and self._lock.acquire(blocking=False):
            try:
                while not self._ended.empty():
                    self._owners.pop(self._ended.get(), None)
                self._drop()
            finally:
                self._lock.release()

    def _provide(self, group: int) -> Future[T]:
        """Return the future of a row group, and see that it is fetched; to be called under the lock."""
        if group not in self._groups:
            if self._threads < FETCHING:
                threading.Thread(target=self._fetch_all, name="ssl-zoo-fetch").start()
                self._threads += 1
            self._groups[group] = Future()
            self._queue[group] = None
            self._drop()
        self._groups.move_to_end(group)
        return self._groups[group]

    def _drop(self) -> None:
        """Drop what nobody holds, but the last few that are complete; to be called under the lock."""
        held = frozenset[int]().union(*self._owners.values())
        free = [group for group in self._groups if group not in held]
        complete = [group for group in free if self._groups[group].done()]
        for group in set(free) - set(complete[-self.spare :]):
            del self._groups[group]
            self._queue.pop(group, None)

    def _fetch_all(self) -> None:
        """Fetch row groups until none is left, in a thread."""
        while True:
            with self._locked():
                group = next(iter(self._queue), None)
                if group is None:
                    self._threads -= 1
                    return
                del self._queue[group]
                future = self._groups[group]
            self._fetch_into(future, group)

    def _fetch_into(self, future: Future[T], group: int) -> None:
        """Fetch a row group, unless nobody wants it; a file that cannot be read ends all fetches."""

        def held() -> bool:
            return self._groups.get(group) is future and not future.done()

        def wanted() -> bool:
            return held() and threading.main_thread().is_alive()

        try:
            value = self._fetch(group, wanted)
        except BaseException as error:
            with self._locked():
                if held() and isinstance(error, LostData):
                    self._fail(error)
                elif held():
                    future.set_exception(error)
            return
        with self._locked():
            if held():
                future.set_result(value)

    def _fail(self, error: LostData) -> None:
        """End all fetches with an error, so that nobody waits for one after the other.

        What is needed later is fetched again. To be called under the lock.
        """
        for group in [group for group, future in self._groups.items() if not future.done()]:
            self._groups.pop(group).set_exception(error)
        self._queue.clear()
