"""Files that are written: whether they can be, known before the work begins, and whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ssl_zoo.errors import Unwritable, UserError


def check_output_file(option: str, file: Path, formats: Mapping[str, Sequence[str]]) -> str:
    """Make sure that a file can be written, before there is anything to write.

    Args:
        option: the option that names the file, for messages.
        file: the file.
        formats: for each suffix that the file may have the modules that writing it needs; the extra
            of ssl-zoo that brings them is called as the suffix is.

    Returns:
        The suffix, in lower case.

    Raises:
        UserError: it cannot be written, or not in this format.
    """
    suffix = file.suffix.lower()
    if suffix not in formats:
        raise UserError(f"{option} {file}: unknown format; its name must end in {' or '.join(formats)}")
    if any(importlib.util.find_spec(module) is None for module in formats[suffix]):
        raise UserError(f"{option} {file} needs the extra: pip install 'ssl-zoo[{suffix[1:]}]'")
    if file.is_dir():
        raise UserError(f"{option} {file}: is a folder; choose another file")
    if not file.parent.is_dir():
        raise UserError(f"{option} {file}: there is no folder {file.parent}; make it first")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"{option} {file}: {file.parent} cannot be written into; choose another folder")
    return suffix


@contextlib.contextmanager
def write_errors(file: Path) -> Iterator[None]:
    """Within, a file is written.

    Raises:
        Unwritable: the system does not let it be written.
    """
    try:
        yield
    except OSError as error:
        raise Unwritable(f"cannot write {file}: {error.strerror or error}") from error


def open_no_follow(file: Path, mode: str) -> IO[Any]:
    """Open a file to write into it; a link, which would lead that elsewhere, is not followed.

    Raises:
        OSError: it is one, or it cannot be opened.
    """
    return open(file, mode, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o666))


@contextlib.contextmanager
def file_lock(file: Path, wait: bool = True) -> Iterator[None]:
    """Within, no other process has this file locked.

    Args:
        file: the file, made if it is not there.
        wait: whether one that has is waited for.

    Raises:
        BlockingIOError: another process has, and is not waited for.
        Unwritable: the file cannot be opened, or the file system has no locks.
    """
    with write_errors(file):
        opened = open_no_follow(file, "a")
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            raise Unwritable(f"cannot lock {file}: {error.strerror}") from error
        yield


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[IO[bytes]]:
    """An empty file that no other process has under this name until it is renamed.

    Raises:
        OSError: it cannot be opened.
    """
    while True:
        if file.is_symlink():  # which would lead what is written elsewhere
            file.unlink()
        with open_no_follow(file, "ab") as opened:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(opened, fcntl.LOCK_EX)
            if _is_still(file, opened):
                opened.truncate(0)
                yield opened
                return


def _is_still(file: Path, opened: IO[bytes]) -> bool:
    """Whether an open file still has its name, which another process may have changed meanwhile."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def write_atomic(
    path: Path, content: bytes | memoryview, make_room: Callable[[], None] = lambda: None
) -> None:
    """Write a file so that at any moment there is the old one or the new one, whole.

    Args:
        path: the file.
        content: what is to be in it.
        make_room: called when the new one lies on the disk and only lacks its name.

    Raises:
        Unwritable: it cannot be written; the old one is as it was.
    """
    aside = path.with_name(f".{path.name}.part")
    with write_errors(path), _alone(aside) as opened:
        try:
            opened.write(content)
            opened.flush()
            commit_file(aside, path, make_room)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def commit_file(aside: Path, file: Path, make_room: Callable[[], None] = lambda: None) -> None:
    """Give a written file its name; at any moment there is the old one or the new one, whole.

    Raises:
        OSError: it cannot be.
    """
    with aside.open("rb") as opened:
        os.fsync(opened.fileno())
    make_room()
    aside.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not sync folders
            raise
    finally:
        os.close(directory)
