"""A cache of decoded images on disk, written once and read by this and later runs.

For each split of a source, the folder ``data.cache`` holds two files whose names end in a fingerprint:

- ``….npy``: the decoded images, [N, C, height, width]; zeros for an unreadable image. Images that are
  kept whole have different sizes and lie one after the other in it, without unreadable ones.
- ``….json``: the unreadable images, with the reasons, and the sizes of whole images. It is written after
  the first file is complete; without it the first file is not read.

The fingerprint covers the size, whether images are whole, the channels, the type, the division of files
into pages and tiles, Pillow's version, and the path, size and modification time of each image. When it
changes, the images are decoded again and the old files are removed; a process that has them open can
still read them.

On a CPU each batch is read from the file, which the system keeps in memory as far as there is room.
On another device the images are copied into its memory if they fit, unless ``data.resident`` is never;
if they do not fit, each batch is read from the file, also with always.
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
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import PIL
import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.data.mapped import ArrayFile, ImageFile
from ssl_zoo.data.sample_files import Origin
from ssl_zoo.errors import Unwritable, UserError
from ssl_zoo.runtime.files import commit_file, file_lock
from ssl_zoo.sizes import write_size
from ssl_zoo.text import error_reason, printable

if TYPE_CHECKING:
    from ssl_zoo.data.image_files import ImageFiles

log = logging.getLogger("ssl_zoo.data")

FORMAT = 1
"""The version of the files; increase it when their format or the result of `decode` changes."""
FILE_LIST_ATTRIBUTES = ("_image_files", "_images", "imgs", "samples", "_samples")
"""The attributes in which torchvision's data sets and timm's readers list the files of their images."""


def origin_of(dataset: Any) -> Origin | None:
    """Return the files of a torchvision or timm data set's images, None where they are unknown."""
    holder = getattr(dataset, "reader", dataset)
    root = getattr(holder, "root", None)
    if root is None:
        return None
    if Path(root).is_file():
        return Origin(Path(root), [root] * len(dataset))
    lists = (getattr(holder, name, None) for name in FILE_LIST_ATTRIBUTES)
    items = next((items for items in lists if isinstance(items, list) and items), [])
    files = [item[0] if isinstance(item, tuple) else item for item in items]
    known = len(files) == len(dataset) and all(isinstance(file, str | Path) for file in files)
    return Origin(Path(root), files) if known else None


def provide(images: ImageFiles, name: str, folder: Path) -> None:
    """Set `images.decoded` to the decoded images of a cache.

    A cache that is missing or out of date is made first: of several processes one makes it, and the
    others wait.

    Args:
        images: the images; the unreadable ones are recorded.
        name: the name of the source and the split.
        folder: the folder of the cache; it need not exist.

    Raises:
        UserError: too many images cannot be read; the images are not files, so that a cache could not
            be checked for changes; or the cache cannot be written, and is then removed.
    """
    if images.decoded is not None:
        return
    if images.origin is None:
        raise UserError(
            f"data.cache: the images of {printable(name)} are not files, so changes to them cannot be "
            "detected; leave data.cache out"
        )
    entry = _CacheEntry(images, images.origin, name, folder)
    try:
        images.decoded = entry.read()
        if images.decoded is None:
            folder.mkdir(parents=True, exist_ok=True)
            with entry.lock():
                images.decoded = entry.read() or entry.make()  # another process may have made it
    except (OSError, Unwritable) as error:
        reason = error.reason if isinstance(error, Unwritable) else error_reason(error)
        raise UserError(
            f"data.cache: cannot write into {printable(folder)}: {reason}; "
            "name another folder, or leave data.cache out"
        ) from error


def has_file(images: ImageFiles, name: str, folder: Path) -> bool:
    """Return whether a cache has a file of these images, which may be out of date."""
    if images.origin is None:
        return False
    return any(_CacheEntry(images, images.origin, name, folder).files(".npy"))


def free_space(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which need not exist."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(existing).free


class _CacheEntry:
    """The files of a cache that belong to the images of one split."""

    def __init__(self, images: ImageFiles, origin: Origin, name: str, folder: Path) -> None:
        self.images, self.name, self.folder = images, printable(name), folder
        other = "whole" if images.whole else images.size[1]
        form = f"{images.channels}x{write_size(images.size)}x{other}"
        location = hashlib.sha256(os.fsencode(f"{origin.root.resolve()}\0{name}\0{form}"))
        short = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:60]
        self._source = f"{short}-{location.hexdigest()[:8]}"
        self._origin = origin
        self._shape = (images.count, images.channels, *images.size)

    @cached_property
    def _stem(self) -> str:
        return f"{self._source}-{_fingerprint(self.images, self._origin)}"

    @property
    def file(self) -> Path:
        """The decoded images."""
        return self.folder / f"{self._stem}.npy"

    @property
    def notes(self) -> Path:
        """The list of unreadable images."""
        return self.folder / f"{self._stem}.json"

    def files(self, suffix: str) -> Iterator[Path]:
        """Yield the files of these images with this suffix, also those that are out of date."""
        return self.folder.glob(f"{self._source}-*{suffix}")

    def read(self) -> ArrayFile | ImageFile | None:
        """Open the decoded images and record the unreadable ones; return None unless they are complete.

        Raises:
            UserError: too many images cannot be read.
        """
        try:
            notes = json.loads(self.notes.read_text())
            reasons = {int(image["number"]): str(image["reason"]) for image in notes["unreadable"]}
            decoded = self._open(notes)
        except Exception:  # broken files make their readers raise errors of every kind
            return None
        numbers = range(self.images.count)
        if decoded is None or any(number not in numbers for number in reasons):
            return None
        for number, reason in reasons.items():
            self.images.unreadable.record(printable(self.images.name(number)), printable(reason))
        if reasons:
            log.warning(
                "%d images of %s could not be read when they were decoded; to try again, remove %s",
                len(reasons), self.name, self.notes,
            )  # fmt: skip
        return decoded

    def _open(self, notes: Mapping[str, Any]) -> ArrayFile | ImageFile | None:
        """Open the decoded images; return None if they are not those of `images`."""
        if self.images.whole:
            sizes = torch.tensor(notes["sizes"], dtype=torch.long).view(-1, 2)
            whole = ImageFile(self.file, self.images.channels, sizes)
            fits = whole.pixels.whole.dtype == self.images.form.torch_dtype
            return whole if fits and len(sizes) == self.images.count else None
        decoded = ArrayFile(self.file)
        fits = decoded.whole.dtype == self.images.form.torch_dtype
        return decoded if fits and decoded.whole.shape == self._shape else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an exclusive lock on the entry."""
        file = self.folder / f".{self._source}.lock"
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(file_lock(file, wait=False))
            except BlockingIOError:
                level = logging.WARNING if distributed.rank() == 0 else logging.INFO
                log.log(level, "another process is decoding %s into %s; waiting", self.name, self.folder)
                held.enter_context(file_lock(file))
            yield

    def make(self) -> ArrayFile | ImageFile | None:
        """Decode all images into the cache in place of older ones; to be called under the lock.

        Raises:
            UserError: too many images cannot be read, or the disk is too full.
            OSError: the files cannot be written.
        """
        for partial in self.folder.glob(f".{self._source}-*.part"):  # of a process that was killed
            partial.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)  # the notes of a file that could not be opened
        size = self.images.count * self.images.sample_nbytes
        free = free_space(self.folder)
        if free < size:
            raise UserError(
                f"data.cache: the decoded images of {self.name} need {size / 1e6:,.0f} MB, and "
                f"{printable(self.folder)} has {free / 1e6:,.0f} MB left; name another folder, or leave "
                "data.cache out"
            )
        log.info("decoding %s into %s, %.0f MB", self.name, self.file, size / 1e6)
        partial_files = [self.folder / f".{file.name}.part" for file in (self.file, self.notes)]
        try:
            write = self._write_whole if self.images.whole else self._write_images
            notes = write(partial_files[0])
            commit_file(partial_files[0], self.file)
            partial_files[1].write_text(f"{json.dumps(notes, indent=2)}\n")
            commit_file(partial_files[1], self.notes)
        except BaseException:
            for file in (*partial_files, self.file):
                file.unlink(missing_ok=True)
            raise
        result = self._open(notes)
        for suffix in (".json", ".npy"):
            for old in self.files(suffix):
                if old.stem != self._stem:
                    with contextlib.suppress(OSError):  # it may belong to another user
                        old.unlink()
        return result

    def _write_images(self, file: Path) -> dict[str, Any]:
        """Decode all images into a file [N, C, height, width], and return its notes."""
        decoded = np.lib.format.open_memmap(file, "w+", self.images.dtype, self._shape)
        _allocate(file)
        readable = self.images.decode_into(torch.from_numpy(decoded), torch.arange(len(decoded)))
        decoded.flush()
        return {"unreadable": self._unreadable(readable)}

    def _write_whole(self, file: Path) -> dict[str, Any]:
        """Decode all images into a file, one after the other, and return its notes."""
        sizes = torch.zeros(self.images.count, 2, dtype=torch.long)
        readable = torch.zeros(self.images.count, dtype=torch.bool)
        with file.open("wb") as opened:
            self._write_header(opened, 0)
            for number, image in enumerate(self.images.decode_all(torch.arange(self.images.count))):
                if image is not None:
                    opened.write(np.ascontiguousarray(image.numpy()).data)
                    sizes[number], readable[number] = torch.tensor(image.shape[1:]), True
            opened.seek(0)
            self._write_header(opened, int(sizes.prod(1).sum()) * self.images.channels)
        return {"unreadable": self._unreadable(readable), "sizes": sizes.tolist()}

    def _write_header(self, opened: IO[bytes], count: int) -> None:
        """Write NumPy's header for `count` pixels, which leaves room for a larger count."""
        descr = np.lib.format.dtype_to_descr(np.dtype(self.images.dtype))
        header = {"descr": descr, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(opened, header)

    def _unreadable(self, readable: Tensor) -> list[dict[str, Any]]:
        """Return the number, name and reason of each unreadable image."""
        numbers = (~readable).nonzero().flatten().tolist()
        names = [printable(self.images.name(number)) for number in numbers]
        reasons = self.images.unreadable.reasons
        return [
            {"number": number, "name": name, "reason": reasons[name]}
            for number, name in zip(numbers, names, strict=True)
        ]


def _fingerprint(images: ImageFiles, origin: Origin) -> str:
    """Return a hash that changes whenever the decoded images would."""
    form = "" if images.dtype == "uint8" else f"{images.dtype} {257 if images.widen else 1} "
    form += "filled " if images.dtype == "float32" else ""  # before, what is not finite was 0
    form += "whole " if images.whole else ""
    form += f"{origin.division} " if origin.division else ""
    size = write_size(images.size)
    digest = hashlib.sha256(
        f"{FORMAT} {images.count} {size} {images.channels} {form}{PIL.__version__}\n".encode()
    )
    prefix = f"{origin.root}{os.sep}"

    def stamps(start: int) -> bytes:
        return b"".join(_stamp(file, prefix) for file in origin.files[start : start + 1024])

    # On a network file system the threads hide the latency.
    with ThreadPoolExecutor(images.workers) as pool:
        for chunk in pool.map(stamps, range(0, len(origin.files), 1024)):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _stamp(file: str | Path, prefix: str) -> bytes:
    """Return the path of a file without `prefix`, its size and its modification time, as bytes."""
    try:
        status = os.stat(file)  # noqa: PTH116 - faster, which matters for a million files
        stamp = f"{status.st_size} {status.st_mtime_ns}"
    except OSError as error:  # it is recorded as unreadable when it is decoded
        stamp = str(error.errno)
    return os.fsencode(str(file).removeprefix(prefix)) + f"\0{stamp}\n".encode()


def _allocate(file: Path) -> None:
    """Reserve the disk space of a file: a full disk would end a process that writes to mapped memory."""
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
