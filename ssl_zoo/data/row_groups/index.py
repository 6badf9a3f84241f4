"""The index of row groups and classes of Parquet files, made from their footers, on the disk."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo.data.lanes import index as lanes
from ssl_zoo.data.lanes.index import SPLITS, SampleIndex
from ssl_zoo.data.row_groups.columns import PATH, Columns, find_classes, find_columns
from ssl_zoo.data.row_groups.files import Damaged, ParquetReader, Unreachable
from ssl_zoo.data.row_groups.hub import DataFiles
from ssl_zoo.data.row_groups.options import HubOptions
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

THREADS = 16
"""The number of files whose footers are read at a time."""


@dataclass(frozen=True, kw_only=True)
class RowGroupIndex(SampleIndex):
    """The rows of Parquet files, by number; a row group is a part.

    Attributes:
        folder: the folder of the index.
        files: the number of the file of each part, int64 [P].
        groups: the number of each part in its file, int64 [P].
        nbytes: the size of its images when they are in memory, in bytes, int64 [P].
        content: what is read of the column of images.
    """

    folder: Path
    files: Tensor
    groups: Tensor
    nbytes: Tensor
    content: str

    def footer(self, file: int) -> Any:
        """Return what the footer of a file says, from its copy in the index."""
        from pyarrow import parquet  # type: ignore[import-untyped]

        return parquet.read_metadata(_footer(self.folder, file))


def provide(
    files: DataFiles, options: HubOptions, labelled: bool, reader: ParquetReader, folder: Path
) -> RowGroupIndex:
    """Return the index of Parquet files from a folder, in which it is made if it is missing.

    Args:
        files: the files.
        options: the options of the source.
        labelled: whether classes are wanted.
        reader: reads files.
        folder: the folder of indexes, which need not exist.

    Raises:
        UserError: a file cannot be read, or has no images.
        Unwritable: the index cannot be written.
    """

    def find(place: Path) -> tuple[dict[str, NDArray[Any]], tuple[str, ...] | None]:
        try:
            return _find(files, options, labelled, reader, place)
        except Unreachable as error:
            raise UserError(f"{error}; start again when it can be read") from error
        except Damaged as error:
            raise UserError(f"data.source: {error}; replace it, or leave it out") from error

    place = lanes.provide(folder, _fingerprint(files, options, labelled), find)
    with lanes.broken_index(place):
        known = lanes.read(place)
        content = (place / "content").read_text(encoding="utf-8")
        return RowGroupIndex(folder=place, content=content, **known)


def _fingerprint(files: DataFiles, options: HubOptions, labelled: bool) -> str:
    """Return a hash that changes if a file does, or what is taken of it."""
    features = None if files.features is None else files.features.to_dict()
    known = [files.names, files.splits, files.states, features, options.image, options.label, labelled]
    text = json.dumps([lanes.FORMAT, *known], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _find(
    files: DataFiles, options: HubOptions, labelled: bool, reader: ParquetReader, place: Path
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...] | None]:
    """Read the footers of files, and their classes; the footers are copied into a folder.

    Raises:
        UserError: there are no images.
        Unreachable: a file cannot be read.
        Damaged: one is no valid Parquet.
    """
    from pyarrow import parquet

    numbers = range(len(files.urls))

    def copy_footer(number: int) -> None:
        footer = reader.read(files.urls[number], parquet.read_metadata)
        footer.write_metadata_file(str(_footer(place, number)))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(copy_footer, numbers))
        schema = parquet.read_schema(_footer(place, 0))
        columns = find_columns(schema, files.features, options, labelled)
        (place / "content").write_text(columns.content, encoding="utf-8")
        look = partial(_look, files, columns, reader, place)
        of_files = list(pool.map(look, numbers))
    counts, groups, nbytes = np.concatenate([parts for parts, _ in of_files], 1)
    file_of = np.repeat(numbers, [parts.shape[1] for parts, _ in of_files])
    splits = np.array([SPLITS.index(split) for split in files.splits], np.uint8)
    arrays = {"counts": counts, "files": file_of, "groups": groups, "nbytes": nbytes}
    arrays["splits"] = np.repeat(splits[file_of], counts)
    if not len(arrays["splits"]):
        raise UserError(f"data.source: {printable(files.urls[0])} and the others have no rows")
    classes = dict(zip(files.urls, (labels for _, labels in of_files), strict=True))
    known = find_classes(classes, columns) if columns.label else None
    if known is None:
        return arrays, None
    return {**arrays, "labels": known[0]}, known[1]


def _look(
    files: DataFiles, columns: Columns, reader: ParquetReader, place: Path, number: int
) -> tuple[NDArray[np.int64], Any]:
    """Return the rows, the number and the size [3, P] of each row group of a file, and its classes.

    Row groups without rows are left out.

    Raises:
        UserError: a column is missing, or has the paths of images alone.
    """
    from pyarrow import parquet

    url, footer, label = files.urls[number], parquet.read_metadata(_footer(place, number)), columns.label
    leaves = [footer.schema.column(i).path for i in range(footer.num_columns)]
    for name in (columns.content, *([label] if label else [])):
        if name not in leaves:
            raise UserError(
                f"data.source: {printable(url)} has no column {printable(name)}, as the other files do"
            )
    column = leaves.index(columns.content)
    groups = [(i, footer.row_group(i)) for i in range(footer.num_row_groups)]
    filled = [(i, group.num_rows, group.column(column)) for i, group in groups if group.num_rows]
    found = [(rows, i, content.total_uncompressed_size) for i, rows, content in filled]
    if f"{columns.image}.{PATH}" in leaves and filled and all(_is_null(*of) for _, *of in filled):
        raise UserError(
            f"data.source: {printable(url)} has no images, as its column {printable(columns.image)} has "
            "only paths, of files outside of it; write them into it, as Dataset.to_parquet does"
        )

    def read_labels(opened: Any) -> Any:
        return parquet.ParquetFile(opened, metadata=footer).read([label], use_threads=False)[label]

    labels = reader.read(url, read_labels) if label else None
    return np.array(found, np.int64).reshape(-1, 3).T, labels


def _is_null(rows: int, content: Any) -> bool:
    """Return whether the statistics of a column in a row group say that it has no value."""
    statistics = content.statistics
    return statistics is not None and statistics.has_null_count and statistics.null_count == rows


def _footer(folder: Path, number: int) -> Path:
    return folder / f"footer-{number:06d}"
