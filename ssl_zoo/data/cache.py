"""Decoded images on the disk: decoded once, and read by this and later runs.

Of each split of a source, ``data.cache`` holds two files whose names end in a fingerprint:

- ``….npy``: the squares, uint8 [N, C, side, side]; zeros for an image that cannot be read.
- ``….json``: the images that cannot be read, with the reasons. It comes last, when the first is on
  the disk whole; without it the first is not read.

The fingerprint is of the side and the channels, of Pillow's version, and of each image's path, size
and time of change. Where it differs, the images are decoded anew and the old files are removed; who
has them open keeps them.

For a CPU each batch is read from the file: the system keeps in memory what there is room for.
To another device the squares are copied where they fit, unless ``data.resident`` is never; where they
do not fit, each batch is read from the file, also with always.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.data.lazy import Origin, Pictures
from ssl_zoo.data.splits import ArrayFile
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.files import commit_file
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")

FORMAT = 1
"""Of the files; to be raised when they, or what `decode` makes of an image, become others."""
LISTS = ("_image_files", "_images", "imgs", "samples", "_samples")
"""Where torchvision's data sets and timm's readers keep the files of their images."""


def origin_of(dataset: Any) -> Origin | None:
    """Where the images of a data set of torchvision's or timm's lie; None where that cannot be told."""
    holder = getattr(dataset, "reader", dataset)
    root = getattr(holder, "root", None)
    if root is None:
        return None
    if Path(root).is_file():
        return Origin(Path(root), [root] * len(dataset))
    lists = (getattr(holder, name, None) for name in LISTS)
    found = next((found for found in lists if isinstance(found, list) and found), [])
    files = [item[0] if isinstance(item, tuple) else item for item in found]
    known = len(files) == len(dataset) and all(isinstance(file, str | Path) for file in files)
    return Origin(Path(root), files) if known else None


def provide(pictures: Pictures, name: str, folder: Path) -> None:
    """Give images their squares from a cache, which is made first where it is missing or out of date.

    Of several processes one makes it, and the others wait for that.

    Args:
        pictures: the images; those that are known not to be readable are noted.
        name: of the source and the split.
        folder: that of the cache; it need not exist.

    Raises:
        UserError: too many images cannot be read; nothing tells whether a cache of them is out of date;
            or the cache cannot be written, and then nothing is left of it.
    """
    if pictures.squares is not None:
        return
    if pictures.origin is None:
        raise UserError(
            f"data.cache: nothing tells whether the images of {printable(name)} have changed, as they "
            "are not files; leave data.cache out"
        )
    kept = _Kept(pictures, pictures.origin, name, folder)
    try:
        if not kept.read():
            folder.mkdir(parents=True, exist_ok=True)
            with kept.lock():
                if not kept.read():  # it was made meanwhile
                    kept.make()
    except OSError as error:
        raise UserError(
            f"data.cache: cannot write into {printable(folder)}: {error.strerror or error}; "
            "name another folder, or leave data.cache out"
        ) from error


class _Kept:
    """What a cache has of some images.

    Attributes:
        file: the squares.
        notes: the images that cannot be read.
    """

    def __init__(self, pictures: Pictures, origin: Origin, name: str, folder: Path) -> None:
        self.pictures, self.name, self.folder = pictures, printable(name), folder
        square = f"{pictures.channels}x{pictures.side}x{pictures.side}"
        place = hashlib.sha256(os.fsencode(f"{origin.root.resolve()}\0{name}\0{square}"))
        short = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:60]
        self._source = f"{short}-{place.hexdigest()[:8]}"
        self._stem = f"{self._source}-{_fingerprint(pictures, origin)}"
        self.file = folder / f"{self._stem}.npy"
        self.notes = folder / f"{self._stem}.json"
        self._shape = (pictures.count, pictures.channels, pictures.side, pictures.side)

    def read(self) -> bool:
        """Open the squares and note what cannot be read; whether they are there, whole.

        Raises:
            UserError: too many cannot be read.
        """
        try:
            unreadable = {
                int(image["number"]): str(image["reason"])
                for image in json.loads(self.notes.read_text())["unreadable"]
            }
            squares = ArrayFile(self.file)
        except Exception:  # whatever broken files make their readers raise
            return False
        numbers = range(self.pictures.count)
        if squares.whole.shape != self._shape or any(number not in numbers for number in unreadable):
            return False
        for number, why in unreadable.items():
            self.pictures.unreadable.note(printable(self.pictures.name(number)), OSError(why))
        if unreadable:
            log.warning(
                "%d images of %s could not be read when they were decoded; to try again, remove %s",
                len(unreadable), self.name, self.notes,
            )  # fmt: skip
        self.pictures.squares = squares
        return True

    def lock(self) -> Any:
        """Keep other processes from making it, until the returned context is left."""
        lock = FileLock(self.folder / f".{self._source}.lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            level = logging.WARNING if distributed.rank() == 0 else logging.INFO
            log.log(level, "another process is decoding %s into %s; waiting", self.name, self.folder)
            return lock.acquire()

    def make(self) -> None:
        """Decode all images and put them in the place of older ones; to be called under the lock.

        Raises:
            UserError: too many images cannot be read, or there is no room.
            OSError: the files cannot be written.
        """
        for left in self.folder.glob(f".{self._source}-*.part"):  # by a process that was killed
            left.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)  # of a file that cannot be read
        size = int(np.prod(self._shape))
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise UserError(
                f"data.cache: the decoded images of {self.name} need {size / 1e6:,.0f} MB, and "
                f"{printable(self.folder)} has {free / 1e6:,.0f} MB left; name another folder, or leave "
                "data.cache out"
            )
        log.info("decoding %s into %s, %.0f MB", self.name, self.file, size / 1e6)
        aside = [self.folder / f".{file.name}.part" for file in (self.file, self.notes)]
        try:
            squares = np.lib.format.open_memmap(aside[0], "w+", np.uint8, self._shape)
            _allocate(aside[0])
            read = self.pictures.decode_into(torch.from_numpy(squares), torch.arange(len(squares)))
            squares.flush()
            commit_file(aside[0], self.file)
            aside[1].write_text(json.dumps({"unreadable": self._unreadable(read)}, indent=2) + "\n")
            commit_file(aside[1], self.notes)
        except BaseException:
            for file in (*aside, self.file):
                file.unlink(missing_ok=True)
            raise
        self.pictures.squares = ArrayFile(self.file)
        for suffix in (".json", ".npy"):
            for old in self.folder.glob(f"{self._source}-*{suffix}"):
                if old.stem != self._stem:
                    with contextlib.suppress(OSError):  # it is another user's
                        old.unlink()

    def _unreadable(self, read: Tensor) -> list[dict[str, Any]]:
        found = []
        for number in (~read).nonzero().flatten().tolist():
            name = printable(self.pictures.name(number))
            reason = self.pictures.unreadable.names[name]
            found.append({"number": number, "name": name, "reason": reason})
        return found


def _fingerprint(pictures: Pictures, origin: Origin) -> str:
    """What changes when the squares would."""
    digest = hashlib.sha256(
        f"{FORMAT} {pictures.count} {pictures.side} {pictures.channels} {PIL.__version__}\n".encode()
    )
    above = f"{origin.root}{os.sep}"

    def stamps(start: int) -> bytes:
        return b"".join(_stamp(file, above) for file in origin.files[start : start + 1024])

    # Of a disk in a network the threads hide the latency.
    with ThreadPoolExecutor(pictures.workers) as pool:
        for some in pool.map(stamps, range(0, len(origin.files), 1024)):
            digest.update(some)
    return digest.hexdigest()[:16]


def _stamp(file: str | Path, above: str) -> bytes:
    try:
        found = os.stat(file)  # noqa: PTH116 - for a million files it matters
        stamp = f"{found.st_size} {found.st_mtime_ns}"
    except OSError as error:  # it will be noted when it is decoded
        stamp = str(error.errno)
    return os.fsencode(str(file).removeprefix(above)) + f"\0{stamp}\n".encode()


def _allocate(file: Path) -> None:
    """Have the disk's room set aside: in a mapped file its lack would end the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
