"""Hashes by which a split is recognised: of its samples' names, and of a sign of their contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from ssl_zoo import tree
from ssl_zoo.data.parts import PART_MARK
from ssl_zoo.data.splits import Split, select

MAX_HASHED_SAMPLES = 256
"""The number of samples without files, evenly spread over a split, whose values are hashed."""
MAX_HASHED_NAMES = 2**20
"""The number of samples up to which all names, and all sizes of files, are hashed."""
SPREAD_NAMES = 4096
"""The number of names, evenly spread over a split, that are hashed of more samples."""
_THREADS = 16
"""The number of threads that ask for sizes; on a network file system they hide its latency."""


def hash_names(split: Split) -> str | None:
    """Return a hash of the names of a split, in order; None where samples have no names.

    A folder that all names have in common does not count, so that data may be moved. Of more than
    `MAX_HASHED_NAMES`, some of them are hashed, evenly spread, and their number.
    """
    names = _some_names(split)
    if names is None or len(names) == 0:
        return None
    first, last = min(names), max(names)
    differ = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common = first.rfind(os.sep, 0, differ) + 1
    digest = hashlib.blake2b(digest_size=16)
    if len(split) > len(names):
        digest.update(f"{len(split)}\0".encode())
    for name in names:
        digest.update(f"{name[common:]}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def hash_contents(split: Split) -> str | None:
    """Return a hash that changes if the samples of a split are replaced, though their names stay.

    It is the split's own, if it has one. Otherwise it covers the sizes of the files whose names
    `hash_names` covers, in order; where samples have no names, some of their values. None where names
    are not those of files: what is decoded from these differs from one library to another.
    """
    if (known := split.contents_hash()) is not None:
        return known
    digest = hashlib.blake2b(digest_size=16)
    names = _some_names(split)
    if names is None:
        for leaf in tree.leaves(split.batch(split.spread(MAX_HASHED_SAMPLES))):
            values = leaf.cpu().contiguous()
            digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
    if len(names) == 0 or _size(names[0]) == "-":
        return None
    chunks = [names[i : i + 1024] for i in range(0, len(names), 1024)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for sizes in pool.map(_sizes, chunks):
            digest.update(sizes)
    return digest.hexdigest()


def _some_names(split: Split) -> Sequence[str] | None:
    """Return the names of a split, evenly spread ones where it has more than `MAX_HASHED_NAMES`."""
    names = split.names
    if names is None or len(names) <= MAX_HASHED_NAMES:
        return names
    return select(names, split.spread(SPREAD_NAMES))


def _sizes(names: Sequence[str]) -> bytes:
    """Return the size of each file as text, "-" for one that is gone."""
    return "".join(f"{_size(name)} " for name in names).encode()


def _size(name: str) -> int | str:
    """Return the size of the file of a sample, which may be a part of that file; "-" if it is gone."""
    for file in (name, name.rpartition(PART_MARK)[0]):
        try:
            return os.stat(file).st_size  # noqa: PTH116 - faster, which matters for a million files
        except OSError:
            continue
    return "-"
