"""Rows of a table with one row for each sample of a data set, as `embed` and `predict` write them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo.config.source_names import folder_of
from ssl_zoo.data import DataSet, Split
from ssl_zoo.data.sample_files import SkippedSamples
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

UNKNOWN = -1
"""The label of an unlabelled sample."""


@dataclass(frozen=True)
class Rows:
    """The rows of N samples.

    Attributes:
        values: what was computed, [N, D], or [N, d, h, w] of places.
        label: the class of each sample [N], `UNKNOWN` where there is none.
        split: the name of its split [N].
        name: its name [N]: a file's path relative to the folder, else its index in the split.
        group: the name of what it is a part of [N], such as a document; None where all are whole.
    """

    values: NDArray[np.float32]
    label: NDArray[np.int64]
    split: NDArray[np.str_]
    name: NDArray[np.str_]
    group: NDArray[np.str_] | None = None

    def per_split(self) -> dict[str, int]:
        """Return the number of rows of each split."""
        return dict(Counter(self.split.tolist()))


def compute_rows(
    data: DataSet, sources: Sequence[str], compute: Callable[[Split], Tensor]
) -> tuple[Rows, SkippedSamples]:
    """Compute values for the samples of all splits.

    Args:
        data: the samples.
        sources: their source or sources; names of files are relative to the folder of a single one.
        compute: maps a split of N samples to values [N, D].

    Returns:
        The rows of the train split, the test split, and the bank where it differs from the train split,
        without samples that are skipped; and the reason for each of these, by name.
    """
    splits = {"train": data.train}
    if data.test is not None:
        splits["test"] = data.test
    if data.bank is not data.train:
        splits["bank"] = data.bank
    root = folder_of(sources[0]) if len(sources) == 1 else None
    grouped = any(split.groups is not None for split in splits.values())
    parts = [_rows(name, split, root, compute(split), grouped) for name, split in splits.items()]
    skipped = SkippedSamples.join(*(split.skipped for split in splits.values()))
    columns = [name for name, values in vars(parts[0]).items() if values is not None]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    return Rows(**joined), skipped


def pool_parts(rows: Rows) -> Rows:
    """Return one row for all parts of a group in a split, such as the passages of a document.

    Its name is that of the group, the values are the mean over its parts, the label is theirs, or
    `UNKNOWN` if they differ.

    Raises:
        UserError: the samples are not parts of anything.
    """
    if rows.group is None:
        raise UserError("--pool: the samples are not parts of documents or recordings; leave it out")
    keys = zip(rows.split.tolist(), rows.group.tolist(), strict=True)
    numbers: dict[tuple[str, str], int] = {}
    of = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    _, first, count = np.unique(of, return_index=True, return_counts=True)
    sums = np.zeros((len(numbers), rows.values.shape[1]))
    np.add.at(sums, of, rows.values)
    label = rows.label[first]
    label[of[rows.label != label[of]]] = UNKNOWN
    names = np.array([name for _, name in numbers], dtype=np.str_)
    return Rows((sums / count[:, None]).astype(np.float32), label, rows.split[first], names)


def _rows(name: str, split: Split, root: Path | None, computed: Tensor, grouped: bool) -> Rows:
    """Return the rows of a split, with groups or without, except samples that could not be read."""
    values, count = computed.cpu().numpy(), len(split)
    names = [str(number) for number in range(count)] if split.names is None else split.names
    readable = np.array([printable(file) not in split.skipped for file in names])
    label = np.full(count, UNKNOWN) if split.labels is None else split.labels.numpy()
    named, groups = (
        np.array([printable(_below(root, file)) for file in files])[readable]
        for files in (names, names if split.groups is None else split.groups)
    )
    of_split = np.full(readable.sum(), name)
    return Rows(values[readable], label[readable], of_split, named, groups if grouped else None)


def _below(root: Path | None, file: str) -> str:
    """Return a file's path relative to a folder; any other name as it is."""
    return file if root is None else file.removeprefix(f"{root}{os.sep}")
