"""Sources of texts: files, folders of these, and data sets of the Hugging Face hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ssl_zoo import Field, Notice, UserError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, rest_of
from ssl_zoo.data.folder import find_splits, split_role
from ssl_zoo.data.listing import is_visible
from ssl_zoo.data.sample_files import UnreadableFiles
from ssl_zoo.data.summary import SourceFacts
from ssl_zoo.data.table import PATH, columns_of, read_list
from ssl_zoo.data.timm_sets import check_datasets
from ssl_zoo.text import one_line, printable, quantity
from ssl_zoo_text.corpus import Document, build
from ssl_zoo_text.reading import (
    KINDS,
    PLAIN,
    ColumnOptions,
    FileOptions,
    FileReader,
    UnreadableFile,
    documents_of_rows,
    kind_of,
)

DOCUMENTS = Notice(
    "text-documents",
    "The documents of a file of plain text: what is between blank lines if it has some, else lines.",
    "data.options.documents",
)


def takes(name: str) -> bool:
    """Return whether a user's text names a file of a known kind, or a folder."""
    if not name:
        return False
    path = user_path("data.source", name)
    return path.is_dir() or (path.is_file() and bool(kind_of(path)))


def open_files(config: DataConfig, device: torch.device, options: FileOptions) -> DataSet:
    """Return the data set of a file or a folder.

    Raises:
        UserError: it cannot be read, or has too little text.
    """
    path = user_path("data.source", config.sources[0].removeprefix("texts:"))
    reader = FileReader(options)
    if path.is_dir():
        content = read_folder(path, options, reader)
    elif path.is_file() and kind_of(path):
        content = FolderContent(list(_documents(path, options, reader)))
        if kind_of(path) in PLAIN:
            number = quantity(len(content.documents), "documents")
            DOCUMENTS(f"{path.name}: {number} (data.options.documents={options.documents})")
    else:
        raise UserError(
            f"data.source: {printable(path)} is not a text file; give a folder, or a file ending in "
            f"{KINDS}"
        )
    reader.warn()
    name = printable(path.resolve().name)
    return build(name, content.documents, config, device, options, content.facts, content.unreadable)


def _documents(path: Path, options: FileOptions, reader: FileReader) -> Iterator[Document]:
    """Yield the documents of a file, or those of the files that it lists, if it has paths but no texts.

    Raises:
        UserError: a file cannot be read.
    """
    columns = columns_of(path) if kind_of(path) in (".csv", ".tsv", ".parquet") else []
    if PATH not in columns or options.text in columns:
        yield from reader.read(path, path.name)
        return
    if options.documents == "auto":
        reader.options = options.model_copy(update={"documents": "file"})
    for listed in read_list(path, label=options.label, split=options.split):
        if not kind_of(listed.path):
            raise UserError(
                f"data.source: {listed.place}: is no text file ({printable(listed.path.name)}); texts "
                f"end in {KINDS}"
            )
        if listed.split == "unused":
            continue
        for document in reader.read(listed.path, str(listed.row[PATH])):
            yield document._replace(label=listed.label or document.label, split=listed.split)


class HubOptions(ColumnOptions):
    """The options of texts of the Hugging Face hub."""

    subset: str | None = Field(
        None, description="name of a subset (configuration), such as wikitext-2-raw-v1"
    )


def is_of_hub(name: str) -> bool:
    """Return whether a user's text names data of the Hugging Face hub."""
    return name.startswith("hf:")


def open_hub(config: DataConfig, device: torch.device, options: HubOptions) -> DataSet:
    """Return the split "train" of a data set on the hub, or in a folder, read by the library datasets.

    Copies are under ``data.root`` if given, else where the library has them.

    Raises:
        UserError: the library is missing, or the data cannot be had.
    """
    check_datasets(config.sources[0])
    from datasets import disable_progress_bars, load_dataset  # type: ignore[import-untyped]

    disable_progress_bars()
    root = str(user_path("data.root", config.root)) if config.root else None
    try:
        rows = load_dataset(rest_of(config), options.subset, split="train", cache_dir=root)
    except Exception as error:  # it raises errors of many libraries
        text = one_line(str(error) or type(error).__name__, 300)
        hint = "; give one by data.options.subset" if "onfig name is missing" in text else ""
        raise UserError(f"data.source: {config.source_text} cannot be loaded: {text}{hint}") from error
    names = getattr(rows.features.get(options.label), "names", None)
    documents = list(documents_of_rows(rows, config.source_text, options))
    if names:  # labels are numbers of classes, -1 where there is none
        known = {str(number): str(name) for number, name in enumerate(names)}
        documents = [d._replace(label=known.get(d.label or "")) for d in documents]
    return build(printable(config.source_text), documents, config, device, options)


@dataclass(frozen=True)
class FolderContent:
    """The content of a folder of texts.

    Attributes:
        documents: the documents of all files.
        facts: the splits, and what is left out.
        unreadable: the reason for each file that cannot be read, by name.
    """

    documents: list[Document]
    facts: SourceFacts = field(default_factory=SourceFacts)
    unreadable: Mapping[str, str] = field(default_factory=dict)


def read_folder(root: Path, options: FileOptions, reader: FileReader) -> FolderContent:
    """Read a folder's files; a file in a sub-folder has its name as label.

    A .txt file is one document unless the options say what is. Sub-folders such as ``train`` and
    ``test`` are splits by the rules for folders of images, with the classes below them; texts in one
    such as ``unsup`` have no label, and texts beside classes are not used. A broken file is left out,
    unless there are many.

    Raises:
        UserError: there is no file of a known kind, or many cannot be read.
    """
    if options.documents == "auto":
        reader.options = options.model_copy(update={"documents": "file"})
    files, others = _list_files(root)
    if not files:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(3))
        content = f"it has {printable(kinds)}" if kinds else "it is empty"
        raise UserError(
            f"data.source: {printable(root)} has no texts ({content}); texts are files ending in {KINDS}"
        )
    folders = Counter(path.parts[0] if len(path.parts) > 1 else "" for path in files)
    train, tests, unlabelled = find_splits(root, list(folders), [])
    split_of = {} if train is None else {train: "train", **dict.fromkeys(unlabelled, "unlabelled")}
    split_of |= dict.fromkeys(tests[:1], "test")
    unreadable = UnreadableFiles("files")
    unreadable.total = len(files)
    documents: list[Document] = []
    unused: Counter[str] = Counter()
    with_classes = {path.parts[0] for path in files if len(path.parts) > 2}
    for path in files:
        *above, _ = path.parts
        top = above[0] if above else ""
        split = split_of.get(top)
        label = next(iter(above[1:] if split_of else above), None)
        beside = label is None and top in with_classes and split != "unlabelled"
        if split_of and (split is None or beside):
            unused["" if split else top] += 1
            continue
        if split == "unlabelled" or (label and split_role(label) == ("unlabelled", frozenset())):
            split, label = "unlabelled", None
        try:
            for document in list(reader.read(root / path, path.as_posix())):
                own = None if split == "unlabelled" else document.label
                documents.append(document._replace(label=own or label, split=split))
        except UnreadableFile as error:
            unreadable.record(path.as_posix(), error.reason)
    used = {"train": [train, *unlabelled] if train else [], "test": tests[:1]}
    facts = SourceFacts(
        folders=used if split_of else {},
        other_files=dict(others.most_common()),
        unused=dict(unused),  # a Counter does not survive `dataclasses.asdict`
    )
    return FolderContent(documents, facts, unreadable.reasons)


def _list_files(root: Path) -> tuple[list[Path], Counter[str]]:
    """Return the visible files of known kinds, relative to `root`, and the number of others by suffix.

    JSON in a folder must be lines (.jsonl), as a .json file beside texts describes them.

    Raises:
        UserError: a folder cannot be read.
    """
    files: list[Path] = []
    others: Counter[str] = Counter()
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = filter(is_visible, subfolders)
        for path in (Path(folder, name) for name in filter(is_visible, names)):
            if kind_of(path) in ("", ".json"):
                others[path.suffix.lower() or "without suffix"] += 1
            else:
                files.append(path.relative_to(root))
    return sorted(files), others


def _raise(error: OSError) -> None:
    raise UserError(f"data.source: cannot read {printable(error.filename)}: {error.strerror}") from error
