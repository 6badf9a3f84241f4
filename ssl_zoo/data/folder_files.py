"""Folders of files of any kind: the split and the class that each file has by the folders it is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ssl_zoo.data.folder import find_splits, innermost, split_role, warn_of_split_names
from ssl_zoo.data.listing import is_visible, list_kinds, suffix_of, walk
from ssl_zoo.data.summary import SourceFacts


class FolderFile(NamedTuple):
    """A file in a folder.

    Attributes:
        path: the file.
        label: the folder that names its class, None if there is none.
        split: ``"train"``, ``"test"`` or ``"unlabelled"`` (to train on without a label); None where the
            folder has no splits, and a part may be held out.
    """

    path: Path
    label: str | None
    split: str | None


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder that are used, and what is not.

    Attributes:
        files: the files in the order of their names.
        others: the number of other files by suffix.
        facts: the folders of the splits, the files of other kinds, and those that are not used.
    """

    files: list[FolderFile]
    others: Counter[str]
    facts: SourceFacts


def read_folder_files(root: Path, is_sample: Callable[[Path], bool]) -> FolderFiles:
    """Find the files below `root`, their splits and their classes, by the rules for images.

    - Sub-folders named by a word for a split, such as ``train`` and ``test``, are the splits, as
      `find_splits` says. Of several to evaluate on, the first one with classes is used.
    - Sub-folders, below the splits if there are some, are the classes.
    - Files in a folder such as ``unsup``, in place of a split or of a class, have no label and are
      trained on.
    - Where there are splits, files in no split, and files beside the classes of one, are not used.
    - A folder that has nothing but one folder with sub-folders counts as the inner one.
    - Hidden files and folders are not read. Links to folders are followed.

    Args:
        root: the folder.
        is_sample: whether a file is of the wanted kind, by its name.

    Raises:
        UserError: a folder cannot be read, or several folders could be the train split.
    """
    paths, others = _list_files(root, is_sample)
    if not paths:
        return FolderFiles([], others, SourceFacts(other_files=dict(others.most_common())))
    top = innermost(root, paths)
    folders: dict[str, list[Path]] = {}
    for path in paths:
        folders.setdefault(_folder(path, top), []).append(path)
    train, tests, unlabelled = find_splits(top, list(folders), [])
    unused: Counter[str] = Counter()
    if train is None:
        files = [_labelled(path, _folder(path, top), None) for path in paths]
        labels = {file.label for file in files if file.label is not None}
        warn_of_split_names(sorted(labels), paths, top)
        used: dict[str, list[str]] = {}
    else:
        of_tests = {name: _of_split(folders[name], top / name, "test") for name in tests}
        with_classes = (name for name in tests if any(file.label for file in of_tests[name]))
        test = next(with_classes, next(iter(tests), None))
        files = [FolderFile(path, None, "unlabelled") for name in unlabelled for path in folders[name]]
        for found in (_of_split(folders[train], top / train, "train"), of_tests.get(test or "", [])):
            classes = any(file.label for file in found)
            used_files = [f for f in found if f.label or f.split == "unlabelled" or not classes]
            unused[""] += len(found) - len(used_files)
            files += used_files
        files.sort()
        used = {"train": [train, *unlabelled], "test": [] if test is None else [test]}
        for name, members in folders.items():
            if name not in (*used["train"], *used["test"]):
                unused[name] += len(members)
    facts = SourceFacts(
        folders=used,
        other_files=dict(others.most_common()),
        unused=dict(+unused),  # without zeros; a Counter does not survive `dataclasses.asdict`
    )
    return FolderFiles(files, others, facts)


def describe_others(others: Counter[str]) -> str:
    """Return what a folder has in place of the wanted files, such as "it has 5 .mp4"."""
    return f"it has {kinds}" if (kinds := list_kinds(others)) else "it is empty"


def _of_split(paths: Sequence[Path], folder: Path, split: str) -> list[FolderFile]:
    """Return the files in a split's folder, with the folders in it as classes."""
    at = innermost(folder, paths, named=folder.name)
    return [_labelled(path, _folder(path, at), split) for path in paths]


def _labelled(path: Path, folder: str, split: str | None) -> FolderFile:
    """Return a file with a folder's name as label; one in a folder such as ``unsup`` has none."""
    if folder and split_role(folder) == ("unlabelled", frozenset()):
        return FolderFile(path, None, "unlabelled")
    return FolderFile(path, folder or None, split)


def _folder(path: Path, root: Path) -> str:
    """Return the name of the folder in `root` that a file is in, "" for none."""
    below: Sequence[str] = path.parts[len(root.parts) : -1]
    return below[0] if below else ""


def _list_files(root: Path, is_sample: Callable[[Path], bool]) -> tuple[list[Path], Counter[str]]:
    """Return the visible files of the wanted kind, sorted, and the number of others by suffix.

    Raises:
        UserError: a folder cannot be read.
    """
    files: list[Path] = []
    others: Counter[str] = Counter()
    for path in walk(root, set()):
        if is_sample(path) and is_visible(path.name):
            files.append(path)
        elif is_visible(path.name):
            others[suffix_of(path)] += 1
    return sorted(files), others
