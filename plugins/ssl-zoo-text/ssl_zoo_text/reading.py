"""Documents of single files: plain text, and rows of JSON, CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ssl_zoo import Field, UserError
from ssl_zoo.data.table import class_name, parquet_rows, separated_rows, split_of
from ssl_zoo.text import error_reason, printable, shorten_repr
from ssl_zoo_text.corpus import Document, TextOptions
from ssl_zoo_text.decoding import READ_ERRORS, Decoder

PLAIN = (".txt", ".md")
TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".xz")
"""Suffixes behind those of plain texts and of tables other than .parquet."""
KINDS = f"{', '.join((*PLAIN, *TABLES))} (all but .parquet also with {' or '.join(PACKED)})"


class ColumnOptions(TextOptions):
    """The options of texts in tables."""

    text: str = Field("text", description="name of the column with the texts")
    label: str = Field("label", description="name of the column with the classes, if there is one")
    split: str = Field("split", description="name of the column with the splits, if there is one")


class FileOptions(ColumnOptions):
    """The options of files of texts."""

    documents: Literal["auto", "lines", "paragraphs", "file"] = Field(
        "auto",
        description="what a document of plain text is: a line, what is between blank lines, or the file "
        "(auto: in a folder the file; else paragraphs if the file has blank lines, or lines)",
    )


class UnreadableFile(UserError):
    """A file that is broken or cannot be read.

    Attributes:
        reason: why.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"data.source: {printable(path)} cannot be read: {reason}")
        self.reason = reason


def kind_of(path: Path) -> str:
    """Return the suffix of a file without that of its compression, "" if its kind is unknown."""
    name = path.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    kind = next((s for s in (*PLAIN, *TABLES) if name.removesuffix(packed).endswith(s)), "")
    return "" if packed and kind == ".parquet" else kind


class FileReader:
    """A reader of files that counts what it replaces.

    Args:
        options: the names of columns, and what a document of plain text is.
    """

    def __init__(self, options: FileOptions) -> None:
        self.options = options
        self._decoder = Decoder()

    def read(self, path: Path, name: str) -> Iterator[Document]:
        """Yield the documents of a file.

        Args:
            path: the file.
            name: its name in messages and in the names of documents.

        Raises:
            UnreadableFile: it is broken or cannot be read.
            UserError: it lacks the column of texts, or a text is not a string.
        """
        kind = kind_of(path)
        if kind in PLAIN:
            yield from split_documents(self.text(path, name), name, self.options.documents)
            return
        try:
            yield from documents_of_rows(self._rows(path, name, kind), name, self.options)
        except csv.Error as error:
            raise UnreadableFile(path, f"{error}; quote fields as RFC 4180 does") from error

    def text(self, path: Path, name: str) -> str:
        """Return the content of a file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

        What is not valid becomes U+FFFD, and is counted for `warn`.

        Raises:
            UnreadableFile: it is broken or cannot be read.
        """
        try:
            return self._decoder.read(path, name)
        except READ_ERRORS as error:
            raise UnreadableFile(path, error_reason(error)) from error

    def warn(self) -> None:
        """Warn once of all files that are not valid UTF-8."""
        self._decoder.warn()

    def _rows(self, path: Path, name: str, kind: str) -> Iterable[Mapping[str, Any]]:
        if kind == ".parquet":
            return _parquet(path)
        text = self.text(path, name)
        if kind in (".jsonl", ".json"):
            return (
                {
                    key: self._decoder.repair(value, name, number) if isinstance(value, str) else value
                    for key, value in row.items()
                }
                for number, row in enumerate(_json(text, path), 1)
            )
        return separated_rows(text, kind)


def split_documents(text: str, name: str, rule: str) -> list[Document]:
    """Return the documents of plain text.

    Args:
        text: the content of a file.
        name: its name.
        rule: as `FileOptions.documents`.
    """
    if rule == "file":
        return [Document(text, name)]
    lines = text.split("\n")
    filled = [number for number, line in enumerate(lines) if line.strip()]
    if rule == "auto":
        blank_between = bool(filled) and len(filled) < filled[-1] - filled[0] + 1
        rule = "paragraphs" if blank_between else "lines"
    if rule == "lines":
        return [Document(lines[i], f"{name}:{i + 1}") for i in filled]
    starts = [i for k, i in enumerate(filled) if k == 0 or filled[k - 1] < i - 1]
    ends = [*starts[1:], len(lines)]
    return [
        Document("\n".join(lines[start:end]).strip(), f"{name}:{start + 1}")
        for start, end in zip(starts, ends, strict=True)
    ]


def documents_of_rows(
    rows: Iterable[Mapping[str, Any]], name: str, options: ColumnOptions
) -> Iterator[Document]:
    """Yield the documents of rows; a row without a text gives an empty one.

    Raises:
        UserError: the column of texts is missing, or a value is not of the right type.
    """
    for number, row in enumerate(rows, 1):
        if options.text not in row:
            columns = ", ".join(printable(column) for column in row if column is not None)
            raise UserError(
                f"data.source: {name} has no column {options.text!r} (it has {columns}); "
                "name the column of the texts by data.options.text"
            )
        text, label = row[options.text], row.get(options.label)
        if not isinstance(text, str | None):
            raise _wrong(name, number, options.text, text, "a string")
        if not isinstance(label, str | int | float | None):
            raise _wrong(name, number, options.label, label, "the name or number of a class")
        try:
            split = split_of(row[options.split]) if options.split in row else None
        except ValueError as error:
            raise UserError(
                f"data.source: {name}, row {number}: {error}, or name another column by "
                "data.options.split"
            ) from error
        known = None if split == "unlabelled" else class_name(label)
        yield Document(text or "", f"{name}:{number}", known, split)


def _wrong(name: str, number: int, column: str, value: object, wanted: str) -> UserError:
    return UserError(
        f"data.source: {name}, row {number}: {column!r} is not {wanted} ({shorten_repr(value)}); "
        f"convert it, or name another column by data.options"
    )


def _json(text: str, path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a JSON array, or one of each line.

    Raises:
        UnreadableFile: it is not JSON, or not objects.
    """
    if text.lstrip().startswith("["):
        parts: Iterable[tuple[str, str]] = [("", text)]
    else:
        lines = enumerate(text.split("\n"), 1)
        parts = ((f"line {number} ", line) for number, line in lines if line.strip())
    for place, part in parts:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(path, f"{place}is not JSON: {error_reason(error)}".strip()) from error
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                raise UnreadableFile(path, f'{place}is not of the form {{"text": ...}}')
            yield row


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        yield from parquet_rows(path)
    except (OSError, ValueError) as error:
        raise UnreadableFile(path, error_reason(error)) from error
