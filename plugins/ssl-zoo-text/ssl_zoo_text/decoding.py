"""Decoding of files and strings: what is not valid Unicode becomes U+FFFD, and is counted."""

from __future__ import annotations

import codecs
import gzip
import logging
import lzma
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from ssl_zoo.text import printable, quantity

log = logging.getLogger("ssl_zoo.data")

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""The errors of a file that is broken or cannot be read."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # it begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class _Replaced(NamedTuple):
    """The characters of a file that were replaced: the place of the first, a hint, and their number."""

    place: str
    hint: str
    number: int


class Decoder:
    """A decoder that counts what it replaces."""

    def __init__(self) -> None:
        self._replaced: dict[str, _Replaced] = {}  # by the name of the file

    def read(self, path: Path, name: str) -> str:
        """Return the content of a file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

        It may be packed as .gz or .xz. Lines end with a line feed.

        Args:
            path: the file.
            name: its name in the warning.

        Raises:
            OSError, EOFError, zlib.error, lzma.LZMAError: it is broken or cannot be read.
        """
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        elif path.suffix.lower() == ".xz":
            content = lzma.decompress(content)
        coding = next((coding for mark, coding in _MARKS.items() if content.startswith(mark)), "utf-8")
        try:
            text = content.decode(coding)
        except UnicodeDecodeError as error:
            text = content.decode(coding, "replace")
            number = text.count(_REPLACEMENT)
            self._count(name, f"at byte {error.start}", "convert with iconv -t utf-8", number)
        return text.replace("\r\n", "\n")

    def repair(self, text: str, name: str, row: int) -> str:
        """Return the text of a row without lone surrogates, which an escape in JSON may name."""
        repaired, number = replace_surrogates(text)
        if number:
            place = f"in row {row}, a lone surrogate"
            self._count(name, place, "cut texts between characters, not within one", number)
        return repaired

    def warn(self) -> None:
        """Warn once of all files that are not valid UTF-8."""
        if not self._replaced:
            return
        name, first = next(iter(self._replaced.items()))
        total = sum(replaced.number for replaced in self._replaced.values())
        log.warning(
            "%s not valid UTF-8, such as %s %s: %s replaced; %s",
            f"{quantity(len(self._replaced), 'files')} {'is' if len(self._replaced) == 1 else 'are'}",
            printable(name), first.place, quantity(total, "characters"), first.hint,
        )  # fmt: skip

    def _count(self, name: str, place: str, hint: str, number: int) -> None:
        before = self._replaced.get(name, _Replaced(place, hint, 0))
        self._replaced[name] = before._replace(number=before.number + number)


def replace_surrogates(text: str) -> tuple[str, int]:
    """Return a text with U+FFFD in place of lone surrogates, which no encoding has, and their number."""
    return re.subn("[\ud800-\udfff]", _REPLACEMENT, text)
