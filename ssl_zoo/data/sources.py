"""The built-in sources, and their selection by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DEFAULT_SIZE, DataConfig
from ssl_zoo.config.source_names import SPLIT_PREFIXES, is_index, split_prefix
from ssl_zoo.data import catalogue, index
from ssl_zoo.data.assemble import (
    SplitBuilder,
    assemble,
    hold_out_test,
    image_size,
)
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.dicom_window import with_window
from ssl_zoo.data.division import divide
from ssl_zoo.data.download import default_root, open_torchvision
from ssl_zoo.data.gather import FileOptions, gather, takes_files
from ssl_zoo.data.holdout import exact_copies, random_split
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.read_ahead import decoding_threads
from ssl_zoo.data.row_groups.options import HubOptions
from ssl_zoo.data.row_groups.source import open_stream
from ssl_zoo.data.shards import source as shards
from ssl_zoo.data.source import Source, choose_source
from ssl_zoo.data.splits import ArraySplit, Split
from ssl_zoo.data.summary import NO_FACTS
from ssl_zoo.data.table import is_list
from ssl_zoo.data.timm_sets import open_timm
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.spec import ImageSpec, Moves
from ssl_zoo.text import did_you_mean, printable

log = logging.getLogger("ssl_zoo.data")

_NO_HOLDOUT = Notice(
    "no-holdout",
    "data.holdout has no effect on a source that has a test split of its own.",
    "leave data.holdout out",
)

DIGITS_FILE = Path(__file__).with_name("digits.npz")
"""1,797 handwritten digits: images uint8 [1797, 8, 8] with values in 0..16, labels uint8 [1797].

Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, doi:10.24432/C50P49; the part, order and values are those of scikit-learn's `load_digits`.
Licence: Creative Commons Attribution 4.0 International (CC BY 4.0).
"""


def known_sources(sources: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Return the built-in sources and further ones by name, which take precedence."""
    return {**BUILT_IN, **{name: Source.of(source) for name, source in (sources or {}).items()}}


def load(
    config: DataConfig,
    device: torch.device,
    sources: Mapping[str, Any] | None = None,
    modality: str = "image",
) -> DataSet:
    """Load the data that a configuration names.

    Args:
        config: the ``data`` section.
        device: the device on which samples are stored that fit into its memory.
        sources: further sources by name, which take precedence over the built-in ones.
        modality: the kind of data that is wanted, which decides how a file or folder is opened.

    Raises:
        UserError: there is no such source, it has no sample, or it cannot be read or downloaded.
    """
    known = known_sources(sources)
    source = _choose(config, known, modality)
    if config.divides_files and source is not BUILT_IN["folder"]:
        path = "data.pages" if config.tile is None else "data.tile"
        raise SettingError(
            path, f"{printable(config.source_text)} has no image files to divide; leave it out"
        )
    data = source(config, device)
    if config.image_size is not None:
        if not isinstance(data.spec, ImageSpec):
            reason = f"{data.name} is {data.spec.modality} data; leave it out"
            raise SettingError("data.image_size", reason)
        data = replace(data, spec=replace(data.spec, size=config.image_size))
    if config.groups is not None and not data.facts.held_out:
        reason = "each class is a single group" if data.test is None else "it has a test split"
        raise SettingError(
            "data.groups", f"nothing is held out of {data.name}, as {reason}; leave it out or change it"
        )
    if config.groups is not None:
        data = replace(data, facts=replace(data.facts, group_rule=config.groups))
    if config.holdout is not None and not data.facts.held_out:
        _NO_HOLDOUT(f"data.holdout={config.holdout:g} has no effect: nothing is held out of {data.name}")
    return data.without_labels("data.labels=none") if config.labels == "none" else data


def _choose(config: DataConfig, known: Mapping[str, Source], modality: str) -> Source:
    """Return the source that opens what the user names.

    Raises:
        UserError: there is none, or none that opens several things of these kinds at once.
    """
    chosen: list[Source] = []
    for name in config.sources:
        source = choose_source(name, known, modality)
        if source is None and modality == "image" and name and is_list(user_path("data.source", name)):
            source = BUILT_IN["folder"]  # which says what is wrong with the list
        if source is None:
            raise UserError(_unknown_source(name, known, modality))
        chosen.append(source)
    if len(chosen) > 1 and (not chosen[0].several or any(source != chosen[0] for source in chosen)):
        raise UserError(
            f"data.source: {printable(config.source_text)} cannot be one data set; several sources are "
            "folders, globs or lists of files of one kind"
        )
    return chosen[0]


def _unknown_source(name: str, known: Mapping[str, Source], modality: str) -> str:
    """Return the message about a name that no source opens."""
    names = [key for key, source in known.items() if source.modality == modality]
    if modality == "image":
        names = ["digits", *catalogue.CATALOGUE, *(key for key in names if key not in BUILT_IN)]
    wanted = "folder of images" if modality == "image" else f"{modality} data that a source opens"
    prefix, colon, rest = name.partition(":")
    splits = [f"{split}:" for split in SPLIT_PREFIXES if split != prefix]
    if rest and prefix not in SPLIT_PREFIXES and (hint := did_you_mean(f"{prefix}:", splits)):
        return (
            f"data.source: {printable(name)!r}: there is no split {printable(prefix + colon)!r}.{hint}"
        )
    path = split_prefix(name)[1]
    exists = bool(path) and user_path("data.source", path).exists()
    is_path = "/" in path or os.sep in path or bool(Path(path).suffix)
    if is_path and not exists and names and (path != name or not colon):
        hint = did_you_mean(name, names)
        return f"data.source: {printable(name)!r} does not exist; correct the path" + (
            hint and f".{hint}"
        )
    if exists and Path(path).suffix.lower() in (".xlsx", ".xls", ".ods"):
        return f"data.source: {printable(name)!r} is a spreadsheet; save it as .csv"
    if exists:
        problem = f"is a file, not a {wanted}" if modality == "image" else f"is no {wanted}"
    else:
        problem = "is neither a folder nor a known data set"
    listed = ", ".join(names) or f"none for {modality} data; install a plugin with one"
    return f"data.source: {printable(name)!r} {problem}.{did_you_mean(name, names)} Known are: {listed}"


def _digits(config: DataConfig, device: torch.device) -> DataSet:
    """Return the bundled digits, a fifth of them held out as the test split."""
    with np.load(DIGITS_FILE) as arrays:
        images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    images = images.double().mul(255 / 16).round().byte().unsqueeze(1)
    whole = ArraySplit(images.to(device), labels.long())
    train, test = (whole.subset(indices) for indices in random_split(len(whole), 0.2))
    classes = tuple("0123456789")
    return assemble(
        "digits",
        config,
        device,
        size=16,
        train=train,
        test=test,
        classes=classes,
        mirror=False,
        moves=Moves(),
    )


def _catalogued(source: str) -> str:
    """Return the name in the catalogue of torchvision's data sets that a user may have meant."""
    return source.removeprefix("timm:torch/").replace("_", "-")


def _is_catalogued(source: str) -> bool:
    return _catalogued(source) in catalogue.CATALOGUE


def _torchvision(config: DataConfig, device: torch.device) -> DataSet:
    """Load one of torchvision's data sets."""
    name = _catalogued(config.sources[0])
    entry = catalogue.CATALOGUE[name]
    root = user_path("data.root", config.root) if config.root else default_root()
    size = None if entry.size == DEFAULT_SIZE else entry.size
    builder = SplitBuilder(config=config, device=device, size=size, channels=entry.channels)
    datasets = {"train": open_torchvision(name, entry.train, root)}
    for split, arguments in (("bank", entry.bank), ("test", entry.test)):
        if arguments is not None:
            datasets[split] = open_torchvision(name, arguments, root)
    splits = {split: builder.from_dataset(dataset, split) for split, dataset in datasets.items()}
    train, test, facts = splits["train"], splits.get("test"), NO_FACTS
    if test is None:
        train, test, facts = hold_out_test(train, config)
    return assemble(
        name,
        config,
        device,
        size=size,
        train=train,
        test=test,
        bank=splits.get("bank"),
        classes=catalogue.classes_of(datasets["train"]),
        mirror=entry.mirror,
        widen=builder.form.widen,
        facts=facts,
    )


def _hub(config: DataConfig, device: torch.device, options: HubOptions) -> DataSet:
    """Load a data set of the Hugging Face hub, downloaded or streamed."""
    if options.stream:
        return open_stream(config, device, options)
    for name in ("subset", "revision", "shuffle", "memory_gb"):
        if getattr(options, name) != HubOptions.model_fields[name].default:
            raise SettingError(
                f"data.options.{name}", "is known only with data.options.stream=true; set that too"
            )
    image = {"input_key": options.image} if options.image else {}
    return _timm(config, device, {**image, "target_key": options.label})


def _timm(config: DataConfig, device: torch.device, columns: Mapping[str, str] | None = None) -> DataSet:
    """Load a data set through timm's factory, or torchvision where it has it."""
    if _is_catalogued(config.sources[0]):
        return _torchvision(config, device)
    train_images, test_images = open_timm(config, columns)
    builder = SplitBuilder(config=config, device=device)
    train = builder.from_dataset(train_images, "train")
    test: Split | None
    facts = NO_FACTS
    if test_images is not None:
        test = builder.from_dataset(test_images, "test")
    else:
        train, test, facts = hold_out_test(train, config)
    return assemble(
        config.source_text,
        config,
        device,
        size=image_size(train),
        train=train,
        test=test,
        classes=catalogue.classes_of(train_images),
        widen=builder.form.widen,
        facts=facts,
    )


def _files(config: DataConfig, device: torch.device, options: FileOptions) -> DataSet:
    """Load image files: those of folders, globs and lists."""
    found = gather(config, options)
    content, root = found.content, found.root
    paths = content.train.paths
    config = with_window(config, paths)
    builder = SplitBuilder(config=config, device=device)
    images, owners = builder.from_files(paths, root, found.folders)
    divided = divide(found, config)
    if divided.groups is not None or config.divides_files:
        of_files, files_of = divided.groups or [str(path) for path in paths], owners.tolist()
        images.group = lambda i: of_files[files_of[i]]

    def split_of(files: Tensor, labels: Tensor | None = divided.labels) -> LazySplit:
        """Return the images in these files."""
        numbers = torch.isin(owners, files).nonzero().flatten()
        return LazySplit(images, None if labels is None else labels[owners[numbers]], numbers)

    test: Split | None = None
    if content.test is not None:
        test_images, test_owners = builder.from_files(content.test.paths, root, found.folders)
        test_labels = content.test.labels
        test = LazySplit(test_images, None if test_labels is None else test_labels[test_owners])
        _warn_of_copies(paths, content.test.paths, decoding_threads(config))
    elif len(divided.held_out):
        test = split_of(divided.held_out)
    bank = train = split_of(divided.bank)
    if len(divided.bank) < len(divided.train):
        train = split_of(divided.train, labels=None)
    return assemble(
        found.name,
        config,
        device,
        size=None,
        train=train,
        test=test,
        bank=bank,
        classes=content.train.classes,
        widen=builder.form.widen,
        facts=divided.facts,
    )


def _warn_of_copies(train: Sequence[Path], test: Sequence[Path], workers: int) -> None:
    """Warn of images to evaluate on that are exact copies of images trained on."""
    copies = exact_copies([*train, *test], workers)
    of_train = [members for members in copies if members[0] < len(train)]  # indices are in order
    number = sum(i >= len(train) for members in of_train for i in members)
    if number:
        log.warning(
            "%d of the %d images to evaluate on are exact copies of images trained on, so accuracies "
            "are too high; remove them from one of the two", number, len(test),
        )  # fmt: skip


BUILT_IN = {
    "digits": Source.of(_digits),
    "torchvision": Source.of(_torchvision, takes=_is_catalogued),
    "timm": Source.of(_timm),
    "hf": Source(_hub, Options=HubOptions),
    "folder": Source(_files, Options=FileOptions, takes=takes_files, several=True),
    index.NAME: Source.of(index.open_index, takes=is_index),
    shards.NAME: shards.SOURCE,
}
"""The sources of images that the core has, by name."""
