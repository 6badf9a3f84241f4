"""Documents of files: .txt, .jsonl, .csv, .tsv, .parquet, folders of these, and hf:NAME."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import lzma
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ssl_zoo import Field, Notice, UserError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, rest_of
from ssl_zoo.data.timm_sets import check_datasets
from ssl_zoo.text import one_line, printable
from ssl_zoo_text.corpus import Document, TextOptions, build

log = logging.getLogger("ssl_zoo.data")

PLAIN, TABLES = (".txt", ".txt.gz", ".txt.xz"), (".jsonl", ".csv", ".tsv", ".parquet")
OTHER_FILES = Notice(
    "text-other-files",
    "In a folder of texts, files that are not of a known kind are left out.",
    "convert them to .txt, .jsonl, .csv, .tsv or .parquet",
)
LINES = Notice(
    "text-lines",
    "A .txt file with blank lines has a document between each two of them; in another each line is one.",
    "add or remove blank lines",
)


def suffix_of(path: Path) -> str:
    """Return which known suffix a file has, "" for none."""
    name = path.name.lower()
    return next((suffix for suffix in (*PLAIN, *TABLES) if name.endswith(suffix)), "")


def takes(name: str) -> bool:
    """Return whether a user's text names a file of a known kind, or a folder."""
    if not name:
        return False
    path = user_path("data.source", name)
    return path.is_dir() or (path.is_file() and bool(suffix_of(path)))


def open_files(config: DataConfig, device: torch.device, options: TextOptions) -> DataSet:
    """Return the data set of a file or a folder.

    Raises:
        UserError: it cannot be read, or has too little text.
    """
    path = user_path("data.source", config.source.removeprefix("texts:"))
    if path.is_dir():
        documents = list(read_folder(path))
    elif path.is_file() and suffix_of(path):
        documents = list(read_file(path, path.name))
    else:
        raise UserError(
            f"data.source: {path} is no text; give {', '.join((*PLAIN, *TABLES))} or a folder"
        )
    return build(printable(path.resolve().name), documents, config, device, options)


class HubOptions(TextOptions):
    """The options of texts of the Hugging Face hub."""

    subset: str | None = Field(
        None, description="name of a subset (configuration), such as wikitext-2-raw-v1"
    )


def is_of_hub(name: str) -> bool:
    """Return whether a user's text names data of the Hugging Face hub."""
    return name.startswith("hf:")


def open_hub(config: DataConfig, device: torch.device, options: HubOptions) -> DataSet:
    """Return the split "train" of a data set on the hub, or in a folder, read by the library datasets.

    Copies are under ``data.root`` if given, else where the library has them.

    Raises:
        UserError: the library is missing, or the data cannot be had.
    """
    check_datasets(config.source)
    from datasets import disable_progress_bars, load_dataset  # type: ignore[import-untyped]

    disable_progress_bars()
    root = str(user_path("data.root", config.root)) if config.root else None
    try:
        rows = load_dataset(rest_of(config), options.subset, split="train", cache_dir=root)
    except Exception as error:  # it raises errors of many libraries
        text = one_line(str(error) or type(error).__name__, 300)
        hint = "; give one by data.options.subset" if "onfig name is missing" in text else ""
        raise UserError(f"data.source: {config.source} cannot be loaded: {text}{hint}") from error
    names = getattr(rows.features.get("label"), "names", None)
    documents = list(_rows(rows, config.source))
    if names:  # labels are numbers of classes, -1 where there is none
        known = {str(number): str(name) for number, name in enumerate(names)}
        documents = [d._replace(label=known.get(d.label or "")) for d in documents]
    return build(printable(config.source), documents, config, device, options)


def read_folder(root: Path) -> Iterator[Document]:
    """Yield the documents of a folder's files; a file in a sub-folder has its name as label.

    A .txt file is then one document. Files of other kinds are counted and left out.

    Raises:
        UserError: there is no file of a known kind, or one cannot be read.
    """
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    known = [path for path in files if suffix_of(path)]
    if not known:
        kinds = ", ".join(sorted({p.suffix.lower() or p.name for p in files})[:6]) or "nothing"
        raise UserError(
            f"data.source: {root} has no texts (it has {printable(kinds)}); texts are files ending in "
            f"{', '.join((*PLAIN, *TABLES))}"
        )
    if len(files) > len(known):
        OTHER_FILES(f"{root.name}: {len(files) - len(known):,} files of other kinds left out")
    for path in known:
        relative = path.relative_to(root)
        label = relative.parts[0] if len(relative.parts) > 1 else None
        if suffix_of(path) in PLAIN:
            yield Document(read_text(path), relative.as_posix(), label)
        else:
            for document in read_file(path, relative.as_posix()):
                yield document._replace(label=document.label or label)


def read_file(path: Path, name: str) -> Iterator[Document]:
    """Yield the documents of a file.

    Raises:
        UserError: it cannot be read, or lacks the column ``text``.
    """
    suffix = suffix_of(path)
    if suffix in PLAIN:
        yield from _plain(read_text(path), name)
    elif suffix == ".jsonl":
        yield from _rows(_json_lines(read_text(path), name), name)
    elif suffix == ".parquet":
        yield from _rows(_parquet(path), name)
    else:
        csv.field_size_limit(2**31 - 1)
        delimiter = "," if suffix == ".csv" else "\t"
        yield from _rows(
            csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter), name
        )


def read_text(path: Path) -> str:
    """Return the content of a file in UTF-8, with or without a mark at the beginning.

    Bytes that are not UTF-8 become U+FFFD; a warning tells their number.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = gzip.decompress(content)
        elif path.name.endswith(".xz"):
            content = lzma.decompress(content)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"data.source: {path} cannot be read: {error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = content.decode("utf-8-sig", "replace")
        log.warning(
            "%s is not valid UTF-8 (byte %d): %d characters are replaced; convert it by iconv -t utf-8",
            path, error.start, text.count("\N{REPLACEMENT CHARACTER}"),
        )  # fmt: skip
        return text


def _plain(text: str, name: str) -> Iterator[Document]:
    """Yield the documents of plain text: between blank lines if there are some, else the lines."""
    lines = text.splitlines()
    blank = any(not line.strip() for line in lines[:-1])
    LINES(f"{name}: {'a document between blank lines' if blank else 'each line is a document'}")
    begin = 1
    parts: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip() and blank:
            begin = begin if parts else number
            parts.append(line)
        elif blank and parts:
            yield Document("\n".join(parts), f"{name}:{begin}")
            parts = []
        elif not blank and number <= len(lines):
            yield Document(line, f"{name}:{number}")


def _json_lines(text: str, name: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"data.source: {name}, line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise UserError(f'data.source: {name}, line {number} is not of the form {{"text": ...}}')
            yield row


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    if find_spec("pyarrow") is None:
        raise UserError(f"data.source: {path} needs pyarrow: pip install 'ssl-zoo-text[parquet]'")
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    try:
        yield from parquet.read_table(path).to_pylist()
    except (OSError, ArrowException) as error:
        raise UserError(f"data.source: {path} cannot be read: {str(error).splitlines()[0]}") from error


def _rows(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[Document]:
    """Yield the documents of rows with the column ``text``, and ``label`` if there are labels."""
    for number, row in enumerate(rows, 1):
        if "text" not in row:
            columns = ", ".join(printable(str(column)) for column in row)
            raise UserError(f"data.source: {name} has no column 'text' (it has {columns}); rename one")
        label = row.get("label")
        yield Document(
            str(row["text"] or ""), f"{name}:{number}", None if label in (None, "") else str(label)
        )
