"""Writing files: checks before the work begins, locks, and atomic replacement."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from ssl_zoo.errors import Unwritable, UserError
from ssl_zoo.text import error_reason

LOCK_POLL = 0.01
"""Seconds between attempts to get a lock that another process holds."""


class _State:
    written = False


_state = _State()


def has_written() -> bool:
    """Return whether this process has completed a file."""
    return _state.written


def check_output_file(option: str, file: Path, formats: Mapping[str, Sequence[str]]) -> str:
    """Check that a file can be written, before there is anything to write.

    Args:
        option: the option that names the file, for messages.
        file: the file.
        formats: the modules needed to write the file, by its suffix. The extra of ssl-zoo that
            installs them has the name of the suffix.

    Returns:
        The suffix, in lower case.

    Raises:
        UserError: the file cannot be written, or its format is unknown.
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


def make_output_folder(option: str, folder: Path, *, new: bool = False) -> None:
    """Make a folder, and check that files can be written into it, before there is anything to write.

    Args:
        option: the option that names the folder, for messages.
        folder: the folder; it may exist.
        new: whether it must be empty.

    Raises:
        UserError: it cannot be made, cannot be written into, or has files where it must be empty.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {folder}: cannot be made: {error_reason(error)}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{option} {folder}: cannot be written into; choose another folder")
    if new and any(folder.iterdir()):
        raise UserError(f"{option} {folder}: has files already; choose a new folder")


@contextlib.contextmanager
def write_errors(file: Path) -> Iterator[None]:
    """Raise errors of writing `file` as `Unwritable`.

    Raises:
        Unwritable: the operating system refused to write the file.
    """
    try:
        yield
    except OSError as error:
        raise Unwritable(f"cannot write {file}", path=file, reason=error_reason(error)) from error


def open_no_follow(file: Path, mode: str) -> IO[Any]:
    """Open a file for writing; a symbolic link is refused, since it could lead anywhere.

    Raises:
        OSError: the file is a link, or cannot be opened.
    """
    if not hasattr(os, "O_NOFOLLOW") and file.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(file))
    no_follow = getattr(os, "O_NOFOLLOW", 0)
    return open(file, mode, opener=lambda path, flags: os.open(path, flags | no_follow, 0o666))


@contextlib.contextmanager
def file_lock(file: Path, *, wait: bool = True, required: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `file`, which is created if it does not exist.

    The system releases the lock when the process ends, however that happens; the file stays.

    Args:
        file: the file.
        wait: wait for a process that holds the lock.
        required: whether to raise if the file system has no locks, instead of continuing without one.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
        Unwritable: the file cannot be opened or locked.
    """
    while True:
        with write_errors(file):
            opened = open_no_follow(file, "ab")
        with opened:
            try:
                _lock(opened, wait)
            except BlockingIOError:
                raise
            except OSError as error:
                if required:
                    reason = error_reason(error)
                    raise Unwritable(f"cannot lock {file}", path=file, reason=reason) from error
            if _has_name(opened, file):
                yield
                return


@contextlib.contextmanager
def _open_part(file: Path) -> Iterator[IO[bytes]]:
    """Open an empty file that no other process writes under this name until it is renamed.

    Raises:
        OSError: it cannot be opened.
    """
    while True:
        if file.is_symlink():  # it would lead to another place
            file.unlink()
        with open_no_follow(file, "ab") as opened:
            with contextlib.suppress(OSError):  # a file system without locks
                _lock(opened)
            if _has_name(opened, file):
                opened.truncate(0)
                yield opened
                return


def _lock(opened: IO[bytes], wait: bool = True) -> None:
    """Lock an open file until it is closed.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
        OSError: the file system has no locks.
    """
    if not lock_descriptor(opened.fileno(), blocking=wait, poll_interval=LOCK_POLL):
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))


def _has_name(opened: IO[bytes], file: Path) -> bool:
    """Return whether an open file is still at `file`; another process may have replaced it."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def write_atomic(
    path: Path, content: bytes | memoryview, make_room: Callable[[], None] = lambda: None
) -> None:
    """Write a file atomically: at any moment either the old one or the new one is there, complete.

    Args:
        path: the file.
        content: the new content.
        make_room: called when the new content is on the disk and only has to be renamed.

    Raises:
        Unwritable: it cannot be written; the old file is unchanged.
    """
    part = path.with_name(f".{path.name}.part")
    with write_errors(path), _open_part(part) as opened:
        try:
            opened.write(content)
            opened.flush()
            if os.name == "nt":  # Windows does not rename an open file
                opened.close()
            commit_file(part, path, make_room)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise


def commit_file(part: Path, file: Path, make_room: Callable[[], None] = lambda: None) -> None:
    """Rename a written file to `file`: at any moment the old or the new one is there, complete.

    Raises:
        OSError: it cannot be flushed to the disk, or renamed.
    """
    with part.open("r+b") as opened:
        os.fsync(opened.fileno())
    make_room()
    part.replace(file)
    _state.written = True
    flush_folder(file.parent)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the file system can.

    Raises:
        OSError: the disk fails.
    """
    if os.name == "nt":  # Windows does not open folders
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not sync folders
            raise
    finally:
        os.close(opened)
