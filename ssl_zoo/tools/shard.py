"""``ssl-zoo shard``: image files as shards, in the layout of WebDataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssl_zoo.data.index import Index
from ssl_zoo.data.listing import is_dicom
from ssl_zoo.data.shards.files import webdataset
from ssl_zoo.data.shards.source import CLASSES
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.files import commit_file, make_output_folder, write_atomic, write_errors
from ssl_zoo.text import error_reason, printable
from ssl_zoo.tools.index import Prepared, list_files

MAX_MEGABYTES = 500


@dataclass(frozen=True)
class Sharded(Prepared):
    """Image files as shards.

    Attributes:
        shards: the number of shards.
    """

    shards: int


def shard(
    data: str | Sequence[str],
    out: str | Path,
    sets: Sequence[str] = (),
    *,
    megabytes: float = MAX_MEGABYTES,
    seed: int = 0,
    flags: Mapping[str, str] | None = None,
) -> Sharded:
    """Write the image files of a source as shards, one split after the other, in a random order.

    A sample has the file as it is, the number of its class in ``.cls`` if it has one, and its path and
    the name of its class in ``.json``. Shards get their names when all are written.

    Args:
        data: folders, globs or lists, as ``data.source``.
        out: the folder to write, new or empty.
        sets: texts of the form ``path=value``, such as ``data.holdout=0.1``.
        megabytes: the size of a shard, in 10⁶ bytes.
        seed: the seed of the order.
        flags: the names of settings in error messages.

    Raises:
        UserError: the data are no image files, one cannot be read, or the folder has files already.
        Unwritable: a file cannot be written.
    """
    files = list_files(data, sets, flags)
    folder = Path(out)
    make_output_folder("--out", folder, new=True)
    parts: list[Path] = []
    for name, split in files.splits.items():
        order = torch.randperm(len(split.paths), generator=torch.Generator().manual_seed(seed)).tolist()
        labels = None if split.labels is None else split.labels.tolist()
        samples = (
            _sample(i, files, split.paths[i], None if labels is None else labels[i]) for i in order
        )
        parts += _write(samples, folder, name, round(megabytes * 1e6))
    for part in parts:  # all at last, so that one that is stopped leaves no part of the data
        with write_errors(part):
            commit_file(part, part.with_name(part.name[1:].removesuffix(".part")))
    if files.classes:
        write_atomic(folder / CLASSES, "".join(f"{name}\n" for name in files.classes).encode())
    return Sharded(**Prepared.facts(files, folder), shards=len(parts))


def _sample(number: int, files: Index, name: str, label: int | None) -> dict[str, Any]:
    """Return a sample as webdataset's writer takes it.

    Raises:
        UserError: the file cannot be read.
    """
    path = files.root / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"data.source: cannot read {printable(path)}: {error_reason(error)}; fix or remove it"
        ) from error
    described: dict[str, Any] = {"path": name}
    extension = "dcm" if is_dicom(path) else path.suffix[1:].lower()
    sample: dict[str, Any] = {"__key__": f"{number:09d}", extension: content}
    if label is not None and label >= 0:
        sample["cls"] = str(label).encode()
        described["label"] = files.classes[label] if files.classes else label
    return {**sample, "json": json.dumps(described).encode()}


def _write(samples: Iterator[dict[str, Any]], folder: Path, split: str, max_bytes: int) -> list[Path]:
    """Write samples into hidden shards of about a size, and return their files.

    Raises:
        Unwritable: one cannot be written.
    """
    writer = webdataset("writer").TarWriter
    parts: list[Path] = []
    sample = next(samples, None)
    while sample is not None:
        parts.append(folder / f".{split}-{len(parts):06d}.tar.part")
        with (
            write_errors(parts[-1]),
            parts[-1].open("wb") as opened,
            writer(opened, encoder=False, mtime=0) as tar,
        ):
            while sample is not None and opened.tell() < max_bytes:
                tar.write(sample)
                sample = next(samples, None)
    return parts
