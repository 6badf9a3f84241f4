"""The samples in one shard, found by the heads of its members alone."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ssl_zoo.errors import UserError
from ssl_zoo.text import error_reason, printable


@dataclass(frozen=True)
class TarSample:
    """A sample of a shard.

    Attributes:
        key: the name that its members have in common.
        offset: where its image begins, in bytes from the beginning of the shard.
        size: the size of its image, in bytes.
        label: the class, a number or a name; None for none.
        split: the name of the split that it belongs to; None where it says nothing.
    """

    key: str
    offset: int
    size: int
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class _Part:
    """A member of a shard, by the place of its content."""

    offset: int
    size: int


class Shard:
    """A shard whose samples can be listed.

    Args:
        file: the file.
        name: its name in messages.
        suffixes: the extensions of images, such as ``{".jpg"}``.
        image: the extension of the member that is the image; "" for the first with one of `suffixes`.
        label: the name of the class in a ``.json`` member.
        split: the name of the split there.

    Attributes:
        cut_off: whether the file ends before its archive does, once it has been listed.
        others: the extensions of members of samples without an image, once it has been listed.
        left_out: the number of these samples.
    """

    def __init__(
        self,
        file: Path,
        name: str,
        suffixes: Container[str],
        image: str = "",
        label: str = "label",
        split: str = "split",
    ) -> None:
        self.file, self.name, self.suffixes, self.image = file, name, suffixes, image
        self.label, self.split = label, split
        self.cut_off = False
        self.others: set[str] = set()
        self.left_out = 0

    def samples(self) -> Iterator[TarSample]:
        """Yield the samples with an image, as far as the file has them whole.

        Raises:
            UserError: the file cannot be read, or is no tar archive.
        """
        try:
            with self.file.open("rb") as opened:
                for key, parts in self._groups(opened):
                    image = self._image(parts)
                    if image is None:
                        self.others |= parts.keys()
                        self.left_out += 1
                        continue
                    label, split = self._label(opened, parts)
                    yield TarSample(key, image.offset, image.size, label, split)
        except (OSError, tarfile.TarError) as error:
            raise UserError(
                f"data.source: {printable(self.name)} is no tar archive that can be read "
                f"({error_reason(error)}); copy it again, or leave it out"
            ) from error

    def _groups(self, opened: IO[bytes]) -> Iterator[tuple[str, dict[str, _Part]]]:
        """Yield the key of each sample and its members, by extension."""
        key, parts = "", dict[str, _Part]()
        for name, part in self._members(opened):
            folder, _, base = name.rpartition("/")
            stem, dot, extension = base.partition(".")
            if not stem or not dot:
                continue
            this = f"{folder}/{stem}" if folder else stem
            if parts and this != key:
                yield key, parts
                parts = {}
            key = this
            parts[extension.lower()] = part
        if parts:
            yield key, parts

    def _members(self, opened: IO[bytes]) -> Iterator[tuple[str, _Part]]:
        """Yield the name and the place of each file in the archive that is there whole."""
        size, end = os.fstat(opened.fileno()).st_size, 0
        with tarfile.open(fileobj=opened, mode="r:") as archive:
            while (member := self._next(archive)) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                end = member.offset_data + member.size
                if end > size or member.size < 0:  # which would lead back
                    break
                if member.isreg():
                    yield member.name, _Part(member.offset_data, member.size)
        opened.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        self.cut_off = opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE)  # which ends it

    def _next(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        """Return the next member, None at the end of the archive or of what there is of it."""
        try:
            return archive.next()
        except tarfile.ReadError:
            return None

    def _image(self, parts: dict[str, _Part]) -> _Part | None:
        """Return the member that is the image, None if there is none."""
        if self.image:
            return parts.get(self.image)
        return next((part for name, part in parts.items() if f".{name}" in self.suffixes), None)

    def _label(self, opened: IO[bytes], parts: dict[str, _Part]) -> tuple[str | None, str | None]:
        """Return the class and the split that members of a sample name."""
        named = {}
        if (part := parts.get("json")) is not None:
            with contextlib.suppress(ValueError):  # then it names neither
                content = json.loads(_read(opened, part))
                named = content if isinstance(content, dict) else {}
        label, split = named.get(self.label), named.get(self.split)
        if (part := parts.get("cls")) is not None:
            label = _read(opened, part).decode("utf-8", "replace").strip()
        return (None if label is None else str(label)), (None if split is None else str(split))


def _read(opened: IO[bytes], part: _Part) -> bytes:
    here = opened.tell()
    opened.seek(part.offset)
    content = opened.read(part.size)
    opened.seek(here)
    return content
