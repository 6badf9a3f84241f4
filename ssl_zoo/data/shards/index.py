"""The index of samples in shards: the place, the class and the split of each."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo.data.folder import split_role
from ssl_zoo.data.lanes import index as lanes
from ssl_zoo.data.lanes.index import MAX_DIGITS, SPLITS, SampleIndex
from ssl_zoo.data.listing import image_suffixes
from ssl_zoo.data.shards.files import ShardFile
from ssl_zoo.data.shards.options import ShardOptions
from ssl_zoo.data.shards.tar import Shard, TarSample
from ssl_zoo.data.text_file import TextWriter, open_texts
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable, quantity

log = logging.getLogger("ssl_zoo.data")

TYPES = {"counts": "int64", "offsets": "int64", "sizes": "int64", "labels": "int64", "splits": "uint8"}
"""The arrays of an index, with the type of their numbers."""
MAX_NAMED = 6
"""The maximum number of extensions that a message lists."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex(SampleIndex):
    """The samples of shards, by number; a shard is a part.

    Attributes:
        keys: the key of each of the N samples.
        offsets: where its image begins in its shard, int64 [N].
        sizes: the size of its image in bytes, int64 [N].
    """

    keys: Sequence[str]
    offsets: Tensor
    sizes: Tensor


def provide(files: Sequence[ShardFile], options: ShardOptions, folder: Path) -> ShardIndex:
    """Return the index of shards from a folder, in which it is made if it is missing or out of date.

    Args:
        files: the shards.
        options: the options of the source.
        folder: the folder of indexes, which need not exist.

    Raises:
        UserError: a shard cannot be read, or has no samples with an image.
        Unwritable: the index cannot be written.
    """
    place = lanes.provide(folder, fingerprint(files, options), partial(_measure, files, options))
    with lanes.broken_index(place):
        keys = open_texts(place / "keys")
        index = ShardIndex(keys=keys, **lanes.read(place))
        if {len(index.splits), len(index.offsets), len(index.sizes)} != {len(keys)}:
            raise ValueError("its files do not fit together")
        return index


def fingerprint(files: Sequence[ShardFile], options: ShardOptions) -> str:
    """Return a hash that changes if a shard does, or what is taken of it."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.url}\0{file.split}\0{file.state()}\0".encode("utf-8", "surrogateescape"))
    digest.update(f"{options.image}\0{options.label}\0{options.split}\0".encode())
    digest.update(" ".join(sorted(image_suffixes())).encode())
    return digest.hexdigest()


def _measure(
    files: Sequence[ShardFile], options: ShardOptions, folder: Path
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...] | None]:
    """Look at shards, one after the other, write the keys of their samples, and return the rest.

    Raises:
        UserError: a shard cannot be read, or has no samples with an image.
        OSError: a file cannot be written.
    """
    suffixes, codes = image_suffixes(), dict[str, int]()  # the number of each class, in this order
    keys = TextWriter(folder / "keys")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in TYPES}
    left_out, others = 0, set[str]()
    for file in files:
        shard = Shard(file.local(), file.url, suffixes, options.image, options.label, options.split)
        try:
            found = list(shard.samples())
        except UserError:
            file.forget()
            raise
        _check(found, shard, options)
        keys.write([sample.key for sample in found])
        values = {
            "counts": [len(found)],
            "offsets": [sample.offset for sample in found],
            "sizes": [sample.size for sample in found],
            "labels": [_code(sample.label, codes) for sample in found],
            "splits": [_split(sample, file) for sample in found],
        }
        for name, of_shard in values.items():
            parts[name].append(np.array(of_shard, TYPES[name]))
        left_out, others = left_out + shard.left_out, others | shard.others
    keys.close()
    if left_out:
        log.warning(
            "%s without an image are left out; they have %s", quantity(left_out, "samples"),
            ", ".join(sorted(others)[:MAX_NAMED]),
        )  # fmt: skip
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    numbers, classes = _classes(codes)
    labels = arrays.pop("labels")
    if codes:
        arrays["labels"] = np.where(labels < 0, -1, numbers[labels])
    return arrays, classes


def _check(found: Sequence[TarSample], shard: Shard, options: ShardOptions) -> None:
    """Warn of a shard that is cut off, and raise for one without samples.

    Raises:
        UserError: it has none with an image.
    """
    if shard.cut_off:
        log.warning(
            "%s is cut off; its first %s are used, copy it again for the others",
            printable(shard.name), quantity(len(found), "samples"),
        )  # fmt: skip
    if not found:
        wanted = options.image or "jpg, png or another image"
        has = ", ".join(sorted(shard.others)[:MAX_NAMED])
        problem = f"has samples with {has}, but none with {wanted}" if has else "has no samples"
        hint = "; data.options.image names the extension" if has else ""
        raise UserError(f"data.source: {printable(shard.name)} {problem}{hint}")


def _code(label: str | None, codes: dict[str, int]) -> int:
    """Return the number of a class in the order in which classes are met, -1 for none."""
    return -1 if label in (None, "-1") else codes.setdefault(str(label), len(codes))


def _split(sample: TarSample, file: ShardFile) -> int:
    """Return the number of a sample's split in `SPLITS`: as the user, it or the shard's name says."""
    name = file.split
    if name is None and sample.split is not None:
        role = split_role(sample.split)
        name = None if role is None else role[0]
    return SPLITS.index(name or file.named_split())


def _classes(codes: Mapping[str, int]) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """Return the number of each class by its code, int64, and the names if these are no numbers.

    Raises:
        UserError: a number is too large for one of a class.
    """
    if not codes or not all(label.isdecimal() for label in codes):
        number = {name: i for i, name in enumerate(sorted(codes))}
        return np.array([number[label] for label in codes], np.int64), tuple(number)
    for label in codes:
        if len(label) > MAX_DIGITS:
            raise UserError(f"data.source: a sample has the class {printable(label)}; correct its .cls")
    return np.array([int(label) for label in codes], np.int64), None
