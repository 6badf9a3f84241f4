"""A file of which several threads read parts."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path


class PositionedFile:
    """A file that is open for reading by position, from several threads at once.

    Until nothing refers to it, it stays open, and so readable when it is removed or replaced.

    Args:
        file: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        self._opened = file.open("rb", buffering=0)
        self._seeking = threading.Lock()
        weakref.finalize(self, self._opened.close)

    def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from `offset`.

        Raises:
            OSError: they cannot be read.
        """
        if hasattr(os, "pread"):
            return os.pread(self._opened.fileno(), size, offset)
        with self._seeking:  # Windows has no pread
            self._opened.seek(offset)
            return self._opened.read(size)
