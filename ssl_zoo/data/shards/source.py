"""The source of shards: what a user names, the splits in it, and the data set."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.config.source_names import is_glob, names_shards, shards_in, split_prefix
from ssl_zoo.data.assemble import SplitBuilder, assemble
from ssl_zoo.data.computed import ComputedSequence
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.download import default_root
from ssl_zoo.data.holdout import hold_out
from ssl_zoo.data.sample_files import Origin
from ssl_zoo.data.shards.files import ShardFile, expand, is_remote
from ssl_zoo.data.shards.index import SPLITS, ShardIndex, provide
from ssl_zoo.data.shards.options import ShardOptions
from ssl_zoo.data.shards.split import ShardContents, ShardSplit
from ssl_zoo.data.source import Source
from ssl_zoo.data.splits import Split
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable, quantity

log = logging.getLogger("ssl_zoo.data")

NAME = "webdataset"
"""The name of the source."""
CLASSES = "classes.txt"
"""The file beside shards with the name of a class in each line."""


def takes_shards(source: str) -> bool:
    """Return whether a user's text names tar archives, or a folder of them."""
    return names_shards(source.removeprefix(f"{NAME}:"))


def list_shards(config: DataConfig, options: ShardOptions) -> list[ShardFile]:
    """Return the shards that ``data.source`` names.

    Raises:
        UserError: there are none, or one is named twice.
    """
    folder = default_root() / "shards"
    keep = None if options.keep_gb is None else round(options.keep_gb * 1e9)
    files = []
    for source in config.sources:
        split, text = split_prefix(source.removeprefix(f"{NAME}:"))
        for url in shards_in(text) or expand(text):
            found = [url]
            if not is_remote(url) and is_glob(url):
                found = sorted(glob.glob(str(Path(url).expanduser())))  # noqa: PTH207 - may be absolute
            elif not is_remote(url):
                found = [str(user_path("data.source", url))]
            if not found:
                raise UserError(f"data.source: {printable(url)} matches no shard; correct the path")
            files += [ShardFile(name, split, folder, keep) for name in found]
    seen: set[str] = set()
    for file in files:
        name = file.url if is_remote(file.url) else os.path.realpath(file.url)
        if name in seen:
            raise UserError(
                f"data.source: the shard {printable(file.url)} is named twice; leave one out"
            )
        seen.add(name)
    return files


def open_shards(config: DataConfig, device: torch.device, options: ShardOptions) -> DataSet:
    """Open the data set of which ``data.source`` names the shards.

    Raises:
        UserError: a shard is missing or broken, or webdataset is not installed.
    """
    files = list_shards(config, options)
    index = provide(files, options, files[0].folder / "indexes")
    contents = ShardContents(files, index)
    builder = SplitBuilder(config=config, device=device)
    first = Path(files[0].url).parent
    paths = ComputedSequence(len(index.keys), contents.file)
    origin = None if any(file.remote for file in files) else Origin(first, paths)
    images = builder.from_contents(contents.open, contents.name, len(paths), origin)
    labels = None if config.labels == "none" else index.labels

    def split(numbers: Tensor | None, labels: Tensor | None = labels) -> ShardSplit:
        known = labels if labels is None or numbers is None else labels[numbers]
        known = None if known is not None and bool((known < 0).any()) else known
        return ShardSplit(images, contents, options.shuffle, known, numbers)

    train = bank = split(None)
    test: Split | None = None
    facts = NO_FACTS
    if labels is not None or index.has_test or config.share_to_hold_out(needed=False):
        divided = _divide(index, labels, config)
        train = bank = split(divided.bank)
        if len(divided.bank) < len(divided.train):
            train = split(divided.train, labels=None)
        if len(divided.test):
            test = split(divided.test)
        facts = SourceFacts(held_out=divided.held_out)
    return assemble(
        _name(files),
        config,
        device,
        size=None,
        train=train,
        test=test,
        bank=bank,
        classes=index.classes or _class_names(first, 0 if labels is None else int(labels.max()) + 1),
        widen=builder.form.widen,
        facts=facts,
    )


@dataclass(frozen=True)
class _Division:
    """The division of the samples of shards, by their numbers, each int64 and rising.

    Attributes:
        train: the samples to train on, with a class or without.
        bank: those of them that have a class, where any has one; otherwise all of them.
        test: those to evaluate on.
        held_out: how they were held out; "" if they were not.
    """

    train: Tensor
    bank: Tensor
    test: Tensor
    held_out: str


def _divide(index: ShardIndex, labels: Tensor | None, config: DataConfig) -> _Division:
    """Divide the samples of shards by what shards say, and hold some out where they say nothing.

    Raises:
        UserError: none is left to train on.
    """
    train, test = ((index.splits == SPLITS.index(name)).nonzero().flatten() for name in SPLITS[:2])
    bank, held_out = train if labels is None else train[labels[train] >= 0], ""
    rest = torch.ones(len(index.splits), dtype=torch.bool)
    rest[test] = False
    if not index.has_test:
        parts = hold_out(config, len(bank), None if labels is None else labels[bank])
        bank, test, held_out = bank[parts.train], bank[parts.test], parts.description
        rest[test] = False
    elif labels is not None:
        test = _known(test, labels)
    train = rest.nonzero().flatten()
    if not len(train):
        raise UserError(
            f"data.source: {printable(config.source_text)} has no samples to train on, only some to "
            "evaluate on; add some"
        )
    return _Division(train, bank if len(bank) else train, test, held_out)


def _known(test: Tensor, labels: Tensor) -> Tensor:
    """Return the samples to evaluate on that have a class, with a warning if others have none."""
    known = test[labels[test] >= 0]
    if 0 < len(known) < len(test):
        others = quantity(len(test) - len(known), "samples")
        log.warning("%s to evaluate on have no class, and are left out", others)
    return known if len(known) else test


def _name(files: Sequence[ShardFile]) -> str:
    return printable(Path(files[0].url).parent.name or Path(files[0].url).name)


def _class_names(folder: Path, number: int) -> tuple[str, ...] | None:
    """Return the names of classes that are numbers, from a list beside the shards; None if too short."""
    try:
        names = (folder / CLASSES).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return tuple(names) if len(names) >= number else None


SOURCE = Source(open_shards, Options=ShardOptions, takes=takes_shards, several=True)
