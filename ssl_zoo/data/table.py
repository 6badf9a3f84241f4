"""Lists of files: tables with the path of each, and its class and split where they are known."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ssl_zoo.config.errors import SettingError
from ssl_zoo.data.folder import TEST_WORDS, split_role
from ssl_zoo.errors import UserError
from ssl_zoo.text import error_reason, printable, shorten_repr

LISTS = (".txt", ".csv", ".tsv", ".parquet")
"""The suffixes of lists; a line of a ``.txt`` is a path, the others have columns."""
PATH, LABEL, SPLIT = "path", "label", "split"
"""The usual names of the columns."""
Row = Mapping[str, Any]


class ListedFile(NamedTuple):
    """A file that a list names.

    Attributes:
        path: the file; a relative path of the list is below its folder.
        label: the name of its class, None if unknown.
        split: ``"train"``, ``"test"`` or ``"unlabelled"``; None where the list has no splits.
        place: the list and the line, for messages.
        row: all columns of the row.
    """

    path: Path
    label: str | None
    split: str | None
    place: str
    row: Row


def is_list(path: Path) -> bool:
    """Return whether a path is that of a file with the suffix of a list."""
    return path.suffix.lower() in LISTS and path.is_file()


def absolute(path: Path) -> str:
    """Return an absolute path without ``..``, and without asking the disk about each folder."""
    return os.path.abspath(path)  # noqa: PTH100 - `Path.resolve` takes a system call for each part


def separated_rows(text: str, suffix: str) -> csv.DictReader[str]:
    """Return a reader of the rows of a ``.csv``, with fields quoted as RFC 4180 says, or of a ``.tsv``.

    Where the first line of a ``.csv`` has no comma, semicolons or tabs separate fields, as spreadsheets
    of some languages write it. Fields of a ``.tsv`` have no quotes. Reading raises `csv.Error`.
    """
    csv.field_size_limit(2**31 - 1)
    lines = io.StringIO(text, newline="")
    if suffix == ".tsv":
        return csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    first = text.partition("\n")[0]
    separator = next((mark for mark in ",;\t" if mark in first), ",")
    return csv.DictReader(lines, delimiter=separator, strict=True)


def parquet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a ``.parquet``.

    Raises:
        UserError: pyarrow is not installed.
        ValueError: the file is broken.
        OSError: it cannot be read.
    """
    if find_spec("pyarrow") is None:
        raise UserError(f"data.source: {printable(path)} needs pyarrow: pip install 'ssl-zoo[parquet]'")
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    try:
        yield from parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise ValueError(error_reason(error)) from error


def class_name(value: object) -> str | None:
    """Return the name of a class as a table holds it; None for an empty cell or NaN."""
    return None if value is None or value == "" or value != value else str(value)


def split_of(value: object) -> str:
    """Return the split that a cell names: ``"train"``, ``"test"`` or ``"unlabelled"``.

    Raises:
        ValueError: it names none.
    """
    role = split_role(value) if isinstance(value, str) else None
    if role is None:
        found = "has no split" if class_name(value) is None else f"split: is {shorten_repr(value)}"
        raise ValueError(f"{found}; give train, test (or val) or unlabelled")
    return role[0]


def read_list(
    file: Path,
    path: str = PATH,
    label: str = LABEL,
    split: str = SPLIT,
    parts: Sequence[str] = (),
) -> list[ListedFile]:
    """Read a list of files.

    Of several splits to evaluate on, ``test`` is used before ``val``, as in folders; the files of the
    others have the split ``"unused"``.

    Args:
        file: the list.
        path: the name of the column with the paths.
        label: that of the column with the classes, which may be missing.
        split: likewise.
        parts: the names of further columns that tell parts of a file apart, which may be listed each.

    Raises:
        SettingError: a column that was named is missing.
        UserError: the list cannot be read or is empty, a row has no path or an unknown split, a file is
            missing, or is listed twice.
    """
    name = printable(file.name)
    files: list[ListedFile] = []
    seen: dict[tuple[object, ...], str] = {}
    values: list[str] = []
    for place, row in _rows(file, {path: PATH, label: LABEL, split: SPLIT}):
        where = f"{name}, {place}"
        try:
            files.append(_listed(file.parent, where, row, path, label, split))
        except ValueError as error:
            raise UserError(f"data.source: {where}: {printable(str(error))}") from error
        key = (absolute(files[-1].path), *(row.get(column) for column in parts))
        if key in seen:
            raise UserError(
                f"data.source: {where}: {printable(str(row[path]))} is listed already in {seen[key]}; "
                "remove one of the lines"
            )
        seen[key] = place
        values.append(str(row.get(split, "")))
    if not files:
        raise UserError(f"data.source: {name} is an empty list; write a path in each line")
    _check_files(file, files)
    tests = {
        value.lower() for value, listed in zip(values, files, strict=True) if listed.split == "test"
    }
    first = min(tests, key=_preference, default="")
    return [
        listed._replace(split="unused") if listed.split == "test" and value.lower() != first else listed
        for value, listed in zip(values, files, strict=True)
    ]


def first_path(file: Path) -> str:
    """Return the first path of a list, "" if it is none."""
    try:
        row = next(_rows(file, {PATH: PATH}), None)
    except UserError:
        return ""
    return "" if row is None else str(row[1].get(PATH) or "")


def columns_of(file: Path) -> list[str]:
    """Return the names of the columns of the first row of a list; none if it cannot be read."""
    try:
        row = next(_rows(file, {}), None)
    except UserError:
        return []
    return [] if row is None else list(row[1])


def _preference(value: str) -> int:
    words = [i for i, word in enumerate(TEST_WORDS) if word in value]
    return min(words, default=len(TEST_WORDS))


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, Row]]:
    """Yield the place and the values of each row of a list.

    Args:
        file: the list.
        columns: the usual name of each column, by its name here.

    Raises:
        SettingError: a column with an unusual name is missing.
        UserError: the list cannot be read, or has no column of paths.
    """
    suffix, name = file.suffix.lower(), printable(file.name)
    path = next(iter(columns), PATH)
    try:
        if suffix == ".parquet":
            names: list[str] = []
            for number, row in enumerate(parquet_rows(file), 1):
                if not names:  # all rows have the same
                    names = _matched(list(row), columns)
                    _check_columns(name, columns, names)
                yield f"row {number}", dict(zip(names, row.values(), strict=True))
            return
        text = file.read_text(encoding="utf-8-sig")
        if suffix == ".txt":
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    yield f"line {number}", {path: line.rstrip("\r")}
            return
        rows = separated_rows(text, suffix)
        if rows.fieldnames:
            rows.fieldnames = _matched(rows.fieldnames, columns)
            _check_columns(name, columns, rows.fieldnames)
        for values in rows:
            yield f"line {rows.line_num}", values
    except UnicodeDecodeError as error:
        place = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"data.source: {name}, line {place}: is not valid UTF-8; save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise UserError(f"data.source: {name}: {error}; quote fields as RFC 4180 does") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.source: {printable(file)} cannot be read: {error_reason(error).rstrip('.')}; "
            "write it again"
        ) from error


def _matched(present: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """Return the names of columns, with those that differ from one in `columns` in case alone as there.

    Nothing is changed where several columns of the list would be that one.
    """
    spelled = {}
    for column in set(columns).difference(present):
        same = [p for p in present if str(p).lower() == column.lower() and p not in columns]
        if len(same) == 1:
            spelled[same[0]] = column
    return [spelled.get(p, p) for p in present]


def _check_columns(name: str, columns: Mapping[str, str], present: Sequence[str]) -> None:
    """Raise if the column of paths is missing, or one that was named.

    Raises:
        SettingError: a column with an unusual name is missing.
        UserError: there is no column of paths.
    """
    has = ", ".join(printable(str(column)) for column in present)
    for column, usual in columns.items():
        if column not in present and column != usual:
            raise SettingError(
                f"data.options.{usual}", f"{name} has no column {column!r} (it has {has}); name one"
            )
        if column not in present and usual == PATH:
            hint = "name the column of the paths in the first line"
            if name.lower().endswith(".parquet"):
                hint = (
                    "data.options.path names the column of the paths; where images are in the file, "
                    "give hf:FOLDER and data.options.stream=true"
                )
            raise UserError(f"data.source: {name} has no column {column!r} (it has {has}); {hint}")


def _listed(folder: Path, place: str, row: Row, path: str, label: str, split: str) -> ListedFile:
    """Return the file of a row.

    Raises:
        ValueError: the row is wrong.
    """
    if None in row:
        raise ValueError("has more columns than the first line; put texts with separators in quotes")
    if not isinstance(row[path], str) or not row[path]:
        raise ValueError("has no path; give one, or remove the line")
    role = split_of(row[split]) if split in row else None
    name = None if role == "unlabelled" else class_name(row.get(label))
    return ListedFile(folder / Path(row[path]).expanduser(), name, role, place, row)


def _check_files(file: Path, files: Sequence[ListedFile]) -> None:
    """Raise unless all files of a list exist.

    Raises:
        UserError: some are missing.
    """
    missing = [listed for listed in files if not os.path.lexists(listed.path)]
    if not missing:
        return
    first = missing[0]
    hint = f"relative paths begin in {printable(file.parent.resolve())}"
    if file.suffix.lower() == ".txt" and len(first.path.name.split()) > 1:
        hint = "a line of a .txt is a path alone; give labels in a .csv with the columns path,label"
    raise UserError(
        f"data.source: {first.place}: {printable(first.path)} does not exist "
        f"({len(missing):,} of {len(files):,} files are missing); correct or remove the line; {hint}"
    )
