"""Where in which shard each sample is: measured once, kept in files that processes map."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_zoo.config.source_names import SPLIT_PREFIXES
from ssl_zoo.data.folder import image_suffixes, split_role
from ssl_zoo.data.mapped import ArrayFile
from ssl_zoo.data.mapped_texts import open_texts, write_texts
from ssl_zoo.data.shards.files import ShardFile
from ssl_zoo.data.shards.options import ShardOptions
from ssl_zoo.data.shards.tar import Shard, TarSample
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.files import file_lock, write_atomic, write_errors
from ssl_zoo.text import error_reason, printable, quantity

log = logging.getLogger("ssl_zoo.data")

FILE = "shards.json"
FORMAT = 1
SPLITS = SPLIT_PREFIXES
"""The splits of samples, by number."""


@dataclass(frozen=True)
class ShardIndex:
    """The samples of shards, by number: those of the first shard, in their order, then of the next.

    Attributes:
        counts: the number of samples in each shard, int64 [S].
        keys: the key of each of the N samples.
        offsets: where its image begins in its shard, int64 [N].
        sizes: the size of its image in bytes, int64 [N].
        labels: its class, int64 [N], -1 for none; None if no sample has one.
        splits: the number of its split in `SPLITS`, uint8 [N].
        classes: the names of the classes, None where they are numbers.
        has_test: whether any sample is one to evaluate on.
    """

    counts: Tensor
    keys: Sequence[str]
    offsets: Tensor
    sizes: Tensor
    labels: Tensor | None
    splits: Tensor
    classes: tuple[str, ...] | None
    has_test: bool


def provide(files: Sequence[ShardFile], options: ShardOptions, folder: Path) -> ShardIndex:
    """Return the index of shards from a folder, in which it is made if it is missing or out of date.

    Of several processes one makes it, and the others wait.

    Args:
        files: the shards.
        options: the options of the source.
        folder: the folder of indexes, which need not exist.

    Raises:
        UserError: a shard cannot be read, or has no samples with an image.
        Unwritable: the index cannot be written.
    """
    place = folder / fingerprint(files, options)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / "lock", required=False):
        if not (place / FILE).exists():
            shutil.rmtree(place, ignore_errors=True)
            _write(_measured(files, options), place)
    return read(place)


def fingerprint(files: Sequence[ShardFile], options: ShardOptions) -> str:
    """Return a hash that changes if a shard does, or what is taken of it."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.url}\0{file.split}\0{file.state()}\0".encode("utf-8", "surrogateescape"))
    digest.update(options.model_dump_json().encode())
    return digest.hexdigest()


def _measured(files: Sequence[ShardFile], options: ShardOptions) -> ShardIndex:
    """Return the index of shards, of which each is looked at.

    Raises:
        UserError: one cannot be read, or has no samples with an image.
    """
    suffixes = image_suffixes()
    samples: list[TarSample] = []
    splits: list[int] = []
    counts: list[int] = []
    for file in files:
        shard = Shard(file.local(), suffixes, options.image, options.label, options.split)
        found = list(shard.samples())
        if shard.cut_off:
            log.warning(
                "%s is cut off; its first %s are used, copy it again for the others",
                printable(file.url), quantity(len(found), "samples"),
            )  # fmt: skip
        if not found:
            wanted = options.image or "jpg, png or another image"
            has = ", ".join(sorted(shard.others)[:6])
            problem = f"has samples with {has}, but none with {wanted}" if has else "has no samples"
            hint = "; data.options.image names the extension" if has else ""
            raise UserError(f"data.source: {printable(file.url)} {problem}{hint}")
        counts.append(len(found))
        samples += found
        splits += [_split(sample, file) for sample in found]
    labels, classes = _classes([sample.label for sample in samples])
    return ShardIndex(
        torch.tensor(counts),
        [sample.key for sample in samples],
        torch.tensor([sample.offset for sample in samples]),
        torch.tensor([sample.size for sample in samples]),
        labels,
        torch.tensor(splits, dtype=torch.uint8),
        classes,
        SPLITS.index("test") in splits,
    )


def _split(sample: TarSample, file: ShardFile) -> int:
    """Return the number of a sample's split in `SPLITS`: as the user, it or the shard's name says."""
    name = file.split
    if name is None and sample.split is not None:
        role = split_role(sample.split)
        name = None if role is None else role[0]
    return SPLITS.index(name or file.named_split())


def _classes(labels: Sequence[str | None]) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Return the class of each sample as a number, and the names of the classes if they are names."""
    known = {label for label in labels if label is not None}
    if not known:
        return None, None
    numbers = all(label.isdecimal() for label in known)
    names = sorted(known)
    number = {name: int(name) if numbers else i for i, name in enumerate(names)}
    of_each = torch.tensor([-1 if label is None else number[label] for label in labels])
    return of_each, None if numbers else tuple(names)


def _write(index: ShardIndex, folder: Path) -> None:
    """Write an index into a new folder; `FILE` last, which makes it one.

    Raises:
        Unwritable: a file cannot be written.
    """
    with write_errors(folder):
        folder.mkdir(parents=True)
        arrays = {name: getattr(index, name) for name in ("counts", "offsets", "sizes", "splits")}
        if index.labels is not None:
            arrays["labels"] = index.labels
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values.numpy())
        write_texts(folder / "keys", index.keys)
    described = {
        "format": FORMAT,
        "classes": index.classes,
        "labelled": index.labels is not None,
        "has_test": index.has_test,
    }
    write_atomic(folder / FILE, json.dumps(described).encode())


def read(folder: Path) -> ShardIndex:
    """Map the index in a folder.

    Raises:
        UserError: it is broken.
    """
    try:
        described = json.loads((folder / FILE).read_text())
        names = ["counts", "offsets", "sizes", "splits", *(["labels"] if described["labelled"] else [])]
        arrays = {name: ArrayFile(folder / f"{name}.npy").whole for name in names}
        keys = open_texts(folder / "keys")
        if {len(arrays[name]) for name in names if name != "counts"} != {len(keys)}:
            raise ValueError("its files do not fit together")
        classes, has_test = described["classes"], bool(described["has_test"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"data.source: {printable(folder)} is a broken index of shards ({error_reason(error)}); "
            "remove it, and it is made again"
        ) from error
    labels = arrays.pop("labels", None)
    classes = None if classes is None else tuple(classes)
    return ShardIndex(keys=keys, labels=labels, classes=classes, has_test=has_test, **arrays)
