"""From ``data.source`` to image files: folders, globs and lists, and several of these together."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import Field

from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.config.source_names import (
    folder_of,
    is_glob,
    is_index,
    names_shards,
    split_prefix,
)
from ssl_zoo.data.folder import (
    FolderContent,
    LabelledFiles,
    label_by_folder,
    read_folder,
    split_role,
)
from ssl_zoo.data.listing import Listing, is_image, list_files, list_matches
from ssl_zoo.data.source import SourceOptions
from ssl_zoo.data.table import (
    LABEL,
    PATH,
    SPLIT,
    ListedFile,
    absolute,
    class_name,
    first_path,
    is_list,
    read_list,
)
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

log = logging.getLogger("ssl_zoo.data")


class FileOptions(SourceOptions):
    """The options of image files: the names of the columns of lists."""

    path: str = Field(PATH, description="name of the column with the paths of a list")
    label: str = Field(LABEL, description="name of its column with the classes, if there is one")
    split: str = Field(SPLIT, description="name of its column with the splits, if there is one")
    group: str = Field(
        "group", description="name of its column with what files are parts of, such as clips, if any"
    )


@dataclass(frozen=True)
class _Entry:
    """One of the user's sources.

    Attributes:
        text: what the user wrote.
        path: the folder, the glob or the list.
        split: the split that all its files are of; None if its own folders or rows say.
    """

    text: str
    path: str
    split: str | None = None

    @classmethod
    def of(cls, text: str) -> _Entry:
        split, path = split_prefix(text.removeprefix("folder:"))
        return cls(text, path, split)


@dataclass(frozen=True)
class Gathered:
    """The files of a source.

    Attributes:
        name: the name of the data.
        content: the files with their splits and classes.
        root: the folder that contains all of them.
        folders: the folders that the user named, or that contain a list.
    """

    name: str
    content: FolderContent
    root: Path
    folders: tuple[Path, ...] = field(default=())


def takes_files(source: str) -> bool:
    """Return whether a user's text names a folder, a glob, or a list of images."""
    path = _Entry.of(source).path
    if not path or is_index(path) or names_shards(path):
        return False
    if is_glob(path):
        return True
    file = user_path("data.source", path)
    if file.is_dir():
        return True
    return is_list(file) and is_image(file.parent / Path(first_path(file)).expanduser())


def gather(config: DataConfig, options: FileOptions) -> Gathered:
    """Find the image files that ``data.source`` names, their splits and their classes.

    - A folder is read as `read_folder` says. A glob is read like the folder before its first wildcard,
      of which it selects files, and folders with all in them.
    - A list gives the class and the split of each file.
    - Several of these are joined: classes of one name are one class, files without a label are trained
      on without one, and what is a test split in one of them is that of all.
    - Several folders that are named like splits (``a/train``, ``b/val``) are these splits; so is what
      follows ``train:``, ``test:`` or ``unlabelled:``.

    Raises:
        UserError: there are no images, something cannot be read, or a file would count twice.
    """
    entries = _with_roles([_Entry.of(text) for text in config.sources])
    _check_overlap(entries)
    contents = [_read(entry, options) for entry in entries]
    content = contents[0] if len(contents) == 1 else _join(contents, entries)
    if not content.train.paths:
        raise UserError(
            f"data.source: {printable(config.source_text)} has no images to train on, only some to "
            "evaluate on; add some, or leave the split out"
        )
    folders = [folder_of(entry.path) for entry in entries]
    single = len(entries) == 1 and not is_list(Path(entries[0].path).expanduser())
    root = folders[0] if single else _common(content)
    names = [_name(entry) for entry in entries]
    name = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Gathered(name, content, root, () if single else tuple(folders))


def _name(entry: _Entry) -> str:
    path = Path(entry.path).expanduser()
    if is_glob(entry.path):
        folder = folder_of(entry.path)
        return printable(f"{folder.resolve().name}/{path.relative_to(folder)}")
    return printable(path.name if path.is_file() else path.resolve().name)


def _common(content: FolderContent) -> Path:
    """Return the folder that contains all files."""
    paths = [*content.train.paths, *(content.test.paths if content.test else [])]
    parents = {absolute(parent) for parent in {path.parent for path in paths}}
    try:
        return Path(os.path.commonpath(parents))
    except ValueError:  # different drives of Windows
        return paths[0].parent


def _with_roles(entries: list[_Entry]) -> list[_Entry]:
    """Return the sources with their splits, where they are folders that are named like splits."""
    roles = [split_role(Path(entry.path).name) for entry in entries]
    kinds, others = ({role[i] for role in roles if role is not None} for i in range(2))
    named = None not in roles and "train" in kinds and len(kinds) > 1 and len(others) == 1
    if not named or any(entry.split is not None for entry in entries):
        return entries
    return [
        _Entry(entry.text, entry.path, role[0])
        for entry, role in zip(entries, roles, strict=True)
        if role is not None
    ]


def _check_overlap(entries: Sequence[_Entry]) -> None:
    """Raise if one source is named twice, or is a folder in another one.

    Raises:
        UserError: it does.
    """
    paths = [Path(entry.path).expanduser().resolve() for entry in entries]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise UserError(f"data.source: {printable(entries[i].path)} is named twice; leave one out")
        for k, other in enumerate(paths):
            if other in path.parents and path.is_dir():
                raise UserError(
                    f"data.source: {printable(entries[i].path)} lies in {printable(entries[k].path)}, "
                    "all of which is read; leave it out"
                )


def _read(entry: _Entry, options: FileOptions) -> FolderContent:
    """Return the files of one source.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    if is_glob(entry.path):
        return _folder(entry, folder_of(entry.path), list_matches(entry.path))
    path = user_path("data.source", entry.path)
    if path.is_dir():
        return _folder(entry, path)
    if not is_list(path):
        raise UserError(
            f"data.source: {printable(entry.path)} is neither a folder nor a list; correct the path"
        )
    files = read_list(path, options.path, options.label, options.split)
    if entry.split is not None:
        if files[0].split is not None:
            raise UserError(
                f"data.source: {printable(entry.text)}: the list says the splits itself; leave "
                f"{entry.split}: out"
            )
        label = entry.split != "unlabelled"
        files = [f._replace(split=entry.split, label=f.label if label else None) for f in files]
    groups = {f.path: str(name) for f in files if (name := class_name(f.row.get(options.group)))}
    return replace(_content(path, files), groups=groups)


def _folder(entry: _Entry, root: Path, listing: Listing | None = None) -> FolderContent:
    """Return the files of a folder, or those of one split without looking for further ones."""
    if entry.split is None:
        return read_folder(root, listing)
    listing = list_files(root) if listing is None else listing
    files = label_by_folder(listing.images, root)
    if entry.split == "unlabelled":
        files = LabelledFiles(files.paths)
    train, test = (LabelledFiles([]), files) if entry.split == "test" else (files, None)
    name = [Path(entry.path).name]
    folders = {"train": [], "test": name} if test else {"train": name, "test": []}
    return FolderContent(train, test, listing.others, {}, folders)


def _content(file: Path, files: Sequence[ListedFile]) -> FolderContent:
    """Return the files of a list.

    Raises:
        UserError: files to evaluate on have no label, though others have.
    """
    name = printable(file.name)
    train = [listed for listed in files if listed.split in (None, "train", "unlabelled")]
    test = [listed for listed in files if listed.split == "test"]
    if unused := sum(listed.split == "unused" for listed in files):
        log.warning("%s: rows of a second split to evaluate on are not used (%d)", name, unused)
    without = [f for f in train if f.label is None and f.split != "unlabelled"]
    if without and len(without) < sum(f.split != "unlabelled" for f in train):
        log.warning(
            "%s: no label, as in %d of %d rows: such files are trained on, but not evaluated on; give "
            "them labels, or the split unlabelled", without[0].place, len(without), len(files),
        )  # fmt: skip
    unnamed = next((f for f in test if f.label is None), None)
    if unnamed is not None and any(f.label is not None for f in files):
        raise UserError(
            f"data.source: {unnamed.place}: a file to evaluate on has no label, though others have; "
            "give it one, or remove the line"
        )
    names = tuple(sorted({f.label for f in train if f.label is not None}))
    return FolderContent(
        _labelled([f.path for f in train], [f.label for f in train], names),
        _labelled([f.path for f in test], [f.label for f in test], names) if test else None,
        Counter(),
        {},
    )


def _labelled(
    paths: list[Path], labels: Sequence[str | None], classes: tuple[str, ...], no_labels: str = ""
) -> LabelledFiles:
    """Return files with their classes by number.

    Classes that are not among the known ones are those of files to evaluate on.
    """
    names = classes or tuple(sorted({label for label in labels if label is not None}))
    if not any(label is not None for label in labels):
        return LabelledFiles(paths, no_labels=no_labels)
    unknown = sorted({label for label in labels if label is not None} - set(names))
    if unknown:
        log.warning(
            "there are classes to evaluate on that are not trained on (%s), so no accuracy is computed",
            ", ".join(map(printable, unknown[:3])),
        )
        return LabelledFiles(paths)
    number = {name: i for i, name in enumerate(names)}
    numbers = [-1 if label is None else number[label] for label in labels]
    return LabelledFiles(paths, torch.tensor(numbers, dtype=torch.long), names)


def _join(contents: Sequence[FolderContent], entries: Sequence[_Entry]) -> FolderContent:
    """Return the files of several sources as one.

    Raises:
        UserError: a file is in two of them, or only some files to evaluate on have labels.
    """
    owner: dict[str, str] = {}
    for content, entry in zip(contents, entries, strict=True):
        for path in (*content.train.paths, *(content.test.paths if content.test else ())):
            first = owner.setdefault(absolute(path), entry.text)
            if first != entry.text:
                raise UserError(
                    f"data.source: {printable(path)} is in {printable(first)} and in "
                    f"{printable(entry.text)}; name each file once"
                )
    train = [content.train for content in contents if content.train.paths]
    test = [content.test for content in contents if content.test is not None]
    bare = [files for files in test if files.labels is None]
    if bare and len(bare) < len(test):
        raise UserError(
            f"data.source: the files to evaluate on have labels, but not those such as "
            f"{printable(bare[0].paths[0])}; give all of them labels, or none"
        )
    named = [_names(files) for files in train]
    names = tuple(sorted({name for part in named for name in part if name is not None}))
    reason = next((files.no_labels for files in train if files.no_labels), "")
    return FolderContent(
        _labelled(_paths(train), [name for part in named for name in part], names, reason),
        _labelled(_paths(test), [n for f in test for n in _names(f)], names) if test else None,
        sum((content.others for content in contents), Counter[str]()),
        dict(sum((Counter(content.unused) for content in contents), Counter[str]())),
        {
            split: [name for content in contents for name in content.folders.get(split, ())]
            for split in ("train", "test")
        },
        {path: name for content in contents for path, name in content.groups.items()},
    )


def _paths(parts: Sequence[LabelledFiles]) -> list[Path]:
    return [path for files in parts for path in files.paths]


def _names(files: LabelledFiles) -> list[str | None]:
    """Return the name of each file's class, None for a file without one."""
    labels, classes = files.labels, files.classes
    if labels is None or classes is None:
        return [None] * len(files.paths)
    return [None if number < 0 else classes[number] for number in labels.tolist()]
