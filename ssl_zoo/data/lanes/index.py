"""The index of samples in parts of large files: made once, in files that processes map."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo.config.source_names import SPLIT_PREFIXES
from ssl_zoo.data.mapped import ArrayFile
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.files import file_lock, write_atomic, write_errors
from ssl_zoo.text import error_reason, printable

FILE = "samples.json"
FORMAT = 1
SPLITS = SPLIT_PREFIXES
"""The splits of samples, by number."""
MAX_DIGITS = 6
"""The maximum number of digits in the number of a class."""


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """The samples of parts, by number: those of the first part, in their order, then of the next.

    Attributes:
        counts: the number of samples in each of the P parts, int64 [P].
        labels: the class of each of the N samples, int64 [N], -1 for none; None if no sample has one.
        splits: the number of its split in `SPLITS`, uint8 [N].
        classes: the names of the classes, None where they are numbers.
        has_test: whether any sample is one to evaluate on.
    """

    counts: Tensor
    labels: Tensor | None
    splits: Tensor
    classes: tuple[str, ...] | None
    has_test: bool


def provide(
    folder: Path, fingerprint: str, find: Callable[[Path], tuple[dict[str, NDArray[Any]], Any]]
) -> Path:
    """Return the folder of an index in `folder`, in which it is made if it is missing.

    Of several processes that need the same index one makes it, and the others wait.

    Args:
        folder: the folder of indexes, which need not exist.
        fingerprint: a text that changes if the samples do, for a file name.
        find: returns the arrays of `SampleIndex` and others by name, and ``classes``. It may write
            further files into the folder that it is given.

    Raises:
        UserError: the samples cannot be found.
        Unwritable: the index cannot be written.
    """
    place = folder / fingerprint
    if (place / FILE).exists():
        return place
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / f"{fingerprint}.lock", required=False):
        if not (place / FILE).exists():
            shutil.rmtree(place, ignore_errors=True)
            with write_errors(place):
                place.mkdir()
                arrays, classes = find(place)
                for name, array in arrays.items():
                    np.save(place / f"{name}.npy", array)
            described = {
                "format": FORMAT,
                "classes": classes,
                "has_test": bool((arrays["splits"] == SPLITS.index("test")).any()),
                "arrays": list(arrays),
            }
            write_atomic(place / FILE, json.dumps(described).encode())
    return place


@contextlib.contextmanager
def broken_index(folder: Path) -> Iterator[None]:
    """Turn errors of reading an index into a UserError."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"data.source: {printable(folder)} is a broken index of samples ({error_reason(error)}); "
            "remove it, and it is made again"
        ) from error


def read(folder: Path) -> dict[str, Any]:
    """Map the arrays of an index, and return the attributes of `SampleIndex` and further arrays by name.

    Errors are those that `broken_index` turns into one line.
    """
    described: Mapping[str, Any] = json.loads((folder / FILE).read_text())
    arrays = {name: ArrayFile(folder / f"{name}.npy").whole for name in described["arrays"]}
    labels, classes = arrays.pop("labels", None), described["classes"]
    of_samples = [arrays["splits"], *([] if labels is None else [labels])]
    if any(len(values) != int(arrays["counts"].sum()) for values in of_samples):
        raise ValueError("its files do not fit together")
    return {
        **arrays,
        "labels": labels,
        "classes": None if classes is None else tuple(map(str, classes)),
        "has_test": bool(described["has_test"]),
    }
