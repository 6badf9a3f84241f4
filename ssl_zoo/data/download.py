"""Opening and downloading of torchvision's data sets, which are stored completely or not at all."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torchvision

from ssl_zoo.data.catalogue import CATALOGUE
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.runtime.files import file_lock
from ssl_zoo.text import error_reason

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package dataset-fashion-mnist."""
ARCHIVES = (".gz", ".tgz", ".tar", ".zip", ".bz2", ".mat")
"""The suffixes of the archives that torchvision downloads and unpacks."""


_DOWNLOAD = Notice(
    "download",
    "A data set of torchvision that is not in its folder is downloaded, or unpacked from its archives.",
    "data.root, or SSL_ZOO_DATA for the default folder",
    at_once=True,  # it takes minutes
)


def default_root() -> Path:
    """Return the folder of downloaded data sets: $SSL_ZOO_DATA, else ~/.cache/ssl-zoo."""
    return Path(os.environ.get("SSL_ZOO_DATA") or Path.home() / ".cache" / "ssl-zoo")


def open_torchvision(name: str, arguments: Mapping[str, Any], root: Path) -> Any:
    """Open one split of a data set in `root`, after downloading or unpacking it if it is not there.

    Files are downloaded and unpacked into a temporary folder and then moved, under a lock, so that no
    incomplete data set is left by a killed process or by two processes at once.

    Raises:
        UserError: the data set is not there and cannot be downloaded.
    """
    kind = getattr(torchvision.datasets, CATALOGUE[name].kind)

    def open_existing() -> Any:
        try:
            return kind(str(root), download=False, **arguments)
        except Exception:
            with contextlib.suppress(OSError):  # Caltech's classes create their folder first
                (root / kind.__name__.lower()).rmdir()
            raise

    if root.is_dir():
        with contextlib.suppress(Exception):  # missing or broken files raise errors of every kind
            return open_existing()
    try:
        with _scratch_folder(root) as aside:
            with contextlib.suppress(Exception):  # another process may have completed it meanwhile
                return open_existing()
            if name == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir():
                _unpack_debian(aside)
            else:
                _DOWNLOAD(f"{name} is not in {root}: it is downloaded; data.root names another folder")
                _link_archives(root, aside)
                with _restrict_tar_extraction():
                    kind(str(aside), download=True, **arguments)
            _merge(aside, root)
            return open_existing()
    except Exception as error:  # downloads, archives and missing libraries raise errors of every kind
        raise UserError(
            f"data.source: {name} cannot be read from {root}, nor downloaded ({error_reason(error)}); "
            "put torchvision's files there, or name another folder with data.root"
        ) from error


@contextlib.contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """Hold an exclusive lock on `root` and yield a temporary folder in it.

    The folder is removed at the end, and so is `root` if it was created here and is empty.
    """
    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    lock_file = root / ".lock"
    try:
        with file_lock(lock_file, required=False):
            try:
                with contextlib.suppress(OSError):
                    for leftover in root.glob(".part-*"):  # by a process that was killed
                        shutil.rmtree(leftover)
                with tempfile.TemporaryDirectory(
                    prefix=".part-", dir=root, ignore_cleanup_errors=True
                ) as aside:
                    yield Path(aside)
            finally:
                with contextlib.suppress(OSError):  # Windows does not remove an open file
                    lock_file.unlink()
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                root.rmdir()


@contextlib.contextmanager
def _restrict_tar_extraction() -> Iterator[None]:
    """Temporarily let tar archives write only into the folder that they are unpacked into.

    This is Python's default from 3.14 on. torchvision checks the checksums of most archives, not all.

    Raises:
        RuntimeError: this Python cannot restrict what is unpacked.
    """
    if not hasattr(tarfile, "data_filter"):
        raise RuntimeError("unpacking archives safely needs Python 3.10.12, 3.11.4 or newer")
    previous = getattr(tarfile.TarFile, "extraction_filter", None)
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = previous


def _unpack_debian(aside: Path) -> None:
    raw = aside / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in DEBIAN_FASHION_MNIST.glob("*-ubyte.gz"):
        with gzip.open(packed) as source, (raw / packed.stem).open("wb") as file:
            shutil.copyfileobj(source, file)


def _link_archives(root: Path, aside: Path) -> None:
    """Link the archives that the user has downloaded already, so that torchvision finds them."""
    for depth in ("*", "*/*", "*/*/*"):
        for file in root.glob(depth):
            if file.suffix in ARCHIVES and file.is_file() and aside not in file.parents:
                link = aside / file.relative_to(root)
                link.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):  # the file system may not support links
                    os.link(file, link)


def _merge(source: Path, target: Path) -> None:
    """Move the content of one folder into another; a folder that does not exist there is moved whole."""
    for item in source.iterdir():
        destination = target / item.name
        if item.is_dir() and destination.is_dir():
            _merge(item, destination)
        else:
            item.replace(destination)
