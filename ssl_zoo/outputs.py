"""Files that are written: whether they can be, known before the work begins, and whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ssl_zoo.errors import Unwritable, UserError


def check_output(option: str, file: Path, formats: Mapping[str, Sequence[str]]) -> str:
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
def writing(file: Path) -> Iterator[None]:
    """Within, a file is written.

    Raises:
        Unwritable: the system does not let it be written.
    """
    try:
        yield
    except OSError as error:
        raise Unwritable(f"cannot write {file}: {error.strerror or error}") from error


def open_own(file: Path, mode: str) -> IO[Any]:
    """Open a file to write into it; a link, which would lead that elsewhere, is not followed.

    Raises:
        OSError: it is one, or it cannot be opened.
    """
    return open(file, mode, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o666))


def replace_file(path: Path, content: bytes, make_room: Callable[[], None] = lambda: None) -> None:
    """Write a file so that at any moment there is the old one or the new one, whole.

    Args:
        path: the file.
        content: what is to be in it.
        make_room: called when the new one lies on the disk and only lacks its name.

    Raises:
        Unwritable: it cannot be written; the old one is as it was.
    """
    aside = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            if aside.is_symlink():  # which would lead what is written elsewhere
                aside.unlink()
            aside.write_bytes(content)
            put_in_place(aside, path, make_room)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def put_in_place(aside: Path, file: Path, make_room: Callable[[], None] = lambda: None) -> None:
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
    finally:
        os.close(directory)
