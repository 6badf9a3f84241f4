"""Opening torchvision's data sets, and having them: whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
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
from ssl_zoo.text import error_reason

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist keeps its files."""
ARCHIVES = (".gz", ".tgz", ".tar", ".zip", ".bz2", ".mat")
"""The suffixes of what torchvision downloads before it unpacks it."""


def default_root() -> Path:
    """Where data sets are kept: $SSL_ZOO_DATA, else ~/.cache/ssl-zoo."""
    return Path(os.environ.get("SSL_ZOO_DATA") or Path.home() / ".cache" / "ssl-zoo")


def open_torchvision(name: str, arguments: Mapping[str, Any], root: Path) -> Any:
    """Open one split of a data set: from `root`, or else after putting it there.

    What is unpacked or downloaded is put together aside and then renamed, under a lock, so that
    neither a process that is killed nor two at once leave half a data set in `root`.

    Raises:
        UserError: it is not there and cannot be downloaded.
    """
    kind = getattr(torchvision.datasets, CATALOGUE[name].kind)

    def opened() -> Any:
        try:
            return kind(str(root), download=False, **arguments)
        except Exception:
            with contextlib.suppress(OSError):  # Caltech's make their folder before they look in it
                (root / kind.__name__.lower()).rmdir()
            raise

    if root.is_dir():
        with contextlib.suppress(Exception):  # what the missing or broken files of a set raise
            return opened()
    try:
        with _aside(root) as aside:
            with contextlib.suppress(Exception):  # another process may have put it there meanwhile
                return opened()
            if name == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir():
                _unpack_debian(aside)
            else:
                _link_archives(root, aside)
                with _unpacked_within():
                    kind(str(aside), download=True, **arguments)
            _merge(aside, root)
            return opened()
    except Exception as error:  # what a download, an archive or a missing library can raise
        raise UserError(
            f"data.source: {name} cannot be read from {root}, nor downloaded ({error_reason(error)}); "
            "put torchvision's files there, or name another folder with data.root"
        ) from error


@contextlib.contextmanager
def _aside(root: Path) -> Iterator[Path]:
    """A folder inside `root` that is gone afterwards, as is `root` where nothing came into it.

    Only one process at a time has one.
    """
    made = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    lock = os.open(root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in root.glob(".part-*"):  # by a process that was killed
                shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=root, ignore_cleanup_errors=True) as aside:
            yield Path(aside)
    finally:
        os.close(lock)
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                root.rmdir()


@contextlib.contextmanager
def _unpacked_within() -> Iterator[None]:
    """Within, no file of a tar archive comes to lie outside of the folder that it is unpacked into.

    From Python 3.14 on that is always so. torchvision knows the checksums of most archives, not of all.
    """
    before = getattr(tarfile.TarFile, "extraction_filter", None)
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _unpack_debian(aside: Path) -> None:
    raw = aside / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in DEBIAN_FASHION_MNIST.glob("*-ubyte.gz"):
        with gzip.open(packed) as source, (raw / packed.stem).open("wb") as file:
            shutil.copyfileobj(source, file)


def _link_archives(root: Path, aside: Path) -> None:
    """Show torchvision the archives that the user has downloaded already."""
    for depth in ("*", "*/*", "*/*/*"):
        for file in root.glob(depth):
            if file.suffix in ARCHIVES and file.is_file() and aside not in file.parents:
                there = aside / file.relative_to(root)
                there.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):  # a file system without links
                    os.link(file, there)


def _merge(source: Path, target: Path) -> None:
    """Move all that is in one folder into another, folders that are new there as a whole."""
    for item in source.iterdir():
        there = target / item.name
        if item.is_dir() and there.is_dir():
            _merge(item, there)
        else:
            item.replace(there)
