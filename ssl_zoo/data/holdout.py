"""Holding out a part of the samples for evaluation: by class, with related samples on one side."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePath

import torch
from torch import Tensor

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.read_ahead import decoding_threads
from ssl_zoo.data.splits import Split, select
from ssl_zoo.notices import Notice
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")

MAX_COMPARED_FILES = 200_000
"""Among more files no exact copies are looked for, as that would take minutes."""
_LAST_BYTES = 4096
_COPIES_NOT_SOUGHT = Notice(
    "copies",
    f"Among more than {MAX_COMPARED_FILES:,} files, exact copies are not looked for, so an image can be "
    "trained on and its copy held out.",
    "data.groups, or a test folder of your own",
)


@dataclass(frozen=True)
class HoldOut:
    """A division of samples into those to train on and those held out.

    Attributes:
        train: the indices of the samples to train on, int64 [N], sorted.
        test: the indices of the samples held out, likewise.
        description: the share and how it was chosen, such as "10 %, stratified"; "" for none.
        copies: the number of samples that are exact copies of another one.
    """

    train: Tensor
    test: Tensor
    description: str
    copies: int = 0


def hold_out(
    config: DataConfig,
    count: int,
    labels: Tensor | None,
    paths: Sequence[Path] | None = None,
    root: Path | None = None,
    parts_of: Sequence[str] | None = None,
) -> HoldOut:
    """Divide the samples of a source without a test split, as `stratified_split` does.

    Exact copies of a file lie on one side, and so do parts of one thing and the groups that
    ``data.groups`` defines. Without labels of two classes nothing is held out unless ``data.holdout`` or
    ``data.groups`` asks for it, as no accuracy needs it.

    Args:
        config: the ``data`` section.
        count: the number of samples.
        labels: the class of each sample, int64 [count], or None.
        paths: the file of each sample, where each has one.
        root: the folder of the files; the names in which groups are found begin below it.
        parts_of: the name of what each sample is a part of, as `Split.groups`; None for no parts.

    Raises:
        SettingError: ``data.groups`` is wrong, or the samples have no files.
    """
    share = config.share_to_hold_out(labels is not None and len(labels.unique()) > 1)
    if not share:
        return HoldOut(torch.arange(count), torch.arange(0), "")
    sets = [] if parts_of is None else _members(parts_of)
    if config.groups is not None:
        if paths is None or root is None:
            raise SettingError(
                "data.groups", f"{config.source_text} has no files to group; leave it out"
            )
        sets += group_by_name(
            [Path(os.path.relpath(path, root)).as_posix() for path in paths], config.groups
        )
    copies = exact_copies(paths, decoding_threads(config)) if paths is not None else []
    groups = merge_groups(count, [*sets, *copies])
    classes = torch.zeros(count, dtype=torch.long) if labels is None else labels
    train, test = stratified_split(classes, groups, share)
    parts = [f"{100 * len(test) / count:.2g} %"]
    number, held = (len(classes[indices].unique()) for indices in (torch.arange(count), test))
    parts += ["stratified"] if number > 1 else []
    parts += [f"of {held:,} of the {number:,} classes"] if held < number else []
    if sets:
        parts.append(f"in whole groups, {len(merge_groups(count, sets).unique()):,} in all")
    if mixed := sum(len(classes[torch.tensor(members)].unique()) > 1 for members in copies):
        log.warning("%d images have exact copies in other classes; at most one of them is right", mixed)
    return HoldOut(train, test, ", ".join(parts) if len(test) else "", sum(len(s) - 1 for s in copies))


def random_split(n: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split 0..n-1 at random into indices to train on and indices to hold out, each sorted.

    The same arguments give the same indices. With n ≥ 2 both parts have at least one index; with n = 1
    nothing is held out.

    Args:
        n: the number of samples.
        share: the share to hold out, in (0, 1).
        seed: the seed of the order.
    """
    return stratified_split(torch.zeros(n, dtype=torch.long), torch.arange(n), share, seed)


def stratified_split(
    labels: Tensor, groups: Tensor, share: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Split samples at random into indices to train on and indices to hold out, each sorted.

    The share is held out of every class, rounded so that it is met over all classes. A group is never
    divided: it belongs to the class of its first sample, and is held out where that brings the class
    nearer to its share. Of every class at least one group is trained on; where whole groups are larger
    than the share, the smallest one is held out of each class that has another.

    Args:
        labels: the class of each sample, int64 [N].
        groups: the number of each sample's group, int64 [N], in 0..N-1.
        share: the share to hold out, in (0, 1).
        seed: the seed of the order.
    """
    n = len(labels)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    sizes = groups.bincount(minlength=n).tolist()
    by_class: dict[int, dict[int, int]] = defaultdict(dict)  # the size of each group, in random order
    seen = set()
    for group, label in zip(groups[order].tolist(), labels[order].tolist(), strict=True):
        if group not in seen:
            seen.add(group)
            by_class[label][group] = sizes[group]
    wanted = _shares({label: sum(members.values()) for label, members in by_class.items()}, share)
    held: set[int] = set()
    for label, members in by_class.items():
        held |= _choose(members, wanted[label])
    is_held = torch.tensor([group in held for group in groups.tolist()], dtype=torch.bool)
    return (~is_held).nonzero().flatten(), is_held.nonzero().flatten()


def _shares(sizes: dict[int, int], share: float) -> dict[int, int]:
    """Return the number of samples to hold out of each class, whose sum is the share of all samples.

    The largest remainders are rounded up; of equal ones, those of the classes that come first.
    """
    total = max(1, round(share * sum(sizes.values())))
    numbers = {label: int(share * size) for label, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda label: share * sizes[label] - numbers[label], reverse=True)
    for label in by_remainder[: max(0, total - sum(numbers.values()))]:
        numbers[label] += 1
    return numbers


def _choose(members: dict[int, int], wanted: int) -> set[int]:
    """Return the groups of a class to hold out.

    Args:
        members: the size of each group, in random order.
        wanted: the number of samples to hold out.
    """
    chosen: set[int] = set()
    taken = 0
    for group, size in members.items():
        if len(chosen) == len(members) - 1:
            break
        if abs(taken + size - wanted) < abs(taken - wanted):
            chosen.add(group)
            taken += size
    if not chosen and len(members) > 1 and wanted:
        return {min(members, key=lambda group: members[group])}
    return chosen


def group_by_name(names: Sequence[str], rule: str) -> list[list[int]]:
    """Return the samples of each group, by the names of their files relative to the data's folder.

    Args:
        names: the name of each sample, with ``/`` between folders.
        rule: ``folder`` for the folder that a file is in; otherwise a regular expression, searched for
            in the name. The group is its first parenthesis, or the whole match.

    Raises:
        SettingError: the expression is invalid, or not found in every name.
    """
    if rule == "folder":
        keys = [str(PurePath(name).parent) for name in names]
    else:
        try:
            pattern = re.compile(rule)
        except re.error as error:
            raise SettingError(
                "data.groups", f"is not a regular expression ({error}): {rule}"
            ) from error
        found = [pattern.search(name) for name in names]
        missing = [name for name, match in zip(names, found, strict=True) if match is None]
        if missing:
            raise SettingError(
                "data.groups",
                f"{rule} is not found in the names of {len(missing)} of {len(names)} samples, such as "
                f"{printable(missing[0])}; give an expression that is, or folder",
            )
        keys = [match[min(1, pattern.groups)] or "" for match in found if match is not None]
    return _members(keys)


def related_samples(test: Split, bank: Split, rule: str | None, indices: Tensor) -> Tensor | None:
    """Return the group of samples that are no independent evidence, as they are held out together.

    They are parts of one thing, as `Split.groups` says, or ``data.groups`` finds the same in their
    names. A single thing of which all samples are parts, of both splits, makes no groups.

    Args:
        test: the split that was held out.
        bank: the split that evaluation learns from.
        rule: ``data.groups``; None for none.
        indices: the samples of `test`, int64 [M].

    Returns:
        The group of each, int64 [M] in 0..G-1; None if each sample is in a group of its own.
    """
    sets: list[list[int]] = []
    if (parts := select(test.groups, indices)) is not None:
        single = len(set(parts)) == 1 and bank.groups is not None and parts[0] in bank.groups
        sets += [] if single else _members(parts)
    if rule is not None and (names := select(test.names, indices)) is not None:
        with suppress(SettingError):  # as of samples whose names are indices
            sets += group_by_name(names, rule)
    _, groups = merge_groups(len(indices), sets).unique(return_inverse=True)
    return groups if len(groups) and int(groups.max()) + 1 < len(groups) else None


def merge_groups(count: int, sets: Iterable[Sequence[int]]) -> Tensor:
    """Return the number of each sample's group, int64 [count]: samples that share a set are in one."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for members in sets:
        for member in members[1:]:
            parent[root(member)] = root(members[0])
    return torch.tensor([root(i) for i in range(count)], dtype=torch.long)


def exact_copies(paths: Sequence[Path], workers: int = 2) -> list[list[int]]:
    """Return the sets of files with equal content, as lists of two or more indices.

    Files are compared by size, then by their last 4 KiB, as headers are often equal, and then as a
    whole, so that few files are read. Files that cannot be read are left out.
    """
    if len(paths) > MAX_COMPARED_FILES:
        _COPIES_NOT_SOUGHT(
            f"exact copies are not looked for among {len(paths):,} images; data.groups keeps related "
            "images on one side"
        )
        return []
    sets = [list(range(len(paths)))]
    with ThreadPoolExecutor(workers) as pool:
        for key in (_size, _hash_of_end, _hash):
            candidates = [i for members in sets for i in members]
            keys = dict(zip(candidates, pool.map(key, (paths[i] for i in candidates)), strict=True))
            sets = [
                part
                for members in sets
                for value, part in _by_key((i, keys[i]) for i in members).items()
                if value is not None and len(part) > 1
            ]
    return sets


def _members(keys: Sequence[str]) -> list[list[int]]:
    """Return the indices of each key."""
    return list(_by_key(enumerate(keys)).values())


def _by_key(pairs: Iterable[tuple[int, object]]) -> dict[object, list[int]]:
    groups: dict[object, list[int]] = defaultdict(list)
    for index, key in pairs:
        groups[key].append(index)
    return groups


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size or None  # empty files are broken images, not copies
    except OSError:
        return None


def _hash_of_end(path: Path) -> bytes | None:
    return _hash(path, _LAST_BYTES)


def _hash(path: Path, last: int | None = None) -> bytes | None:
    try:
        with path.open("rb") as file:
            if last is not None:
                file.seek(-min(last, path.stat().st_size), os.SEEK_END)
            return blake2b(file.read(), digest_size=16).digest()
    except OSError:
        return None
