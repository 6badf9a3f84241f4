"""A data set of samples in parts of large files: their division into splits."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.assemble import SplitBuilder, assemble
from ssl_zoo.data.computed import ComputedSequence
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.holdout import hold_out
from ssl_zoo.data.lanes.contents import Contents
from ssl_zoo.data.lanes.index import SPLITS, SampleIndex
from ssl_zoo.data.lanes.split import LaneSplit
from ssl_zoo.data.sample_files import Origin
from ssl_zoo.data.splits import Split
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.data.survey import MAX_SURVEYED
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable, quantity

log = logging.getLogger("ssl_zoo.data")


def open_contents(
    name: str,
    config: DataConfig,
    device: torch.device,
    contents: Contents,
    index: SampleIndex,
    *,
    classes: tuple[str, ...] | None,
    root: Path | None,
) -> DataSet:
    """Make a data set of samples in parts.

    Args:
        name: the name of the data.
        config: the ``data`` section.
        device: the device on which samples are stored that fit into its memory.
        contents: the contents of the samples.
        index: their classes and splits.
        classes: the names of the classes, where they are known.
        root: the folder of the files; None where these are not on this machine.

    Raises:
        UserError: there are no samples to train on, or none can be read.
    """
    builder = SplitBuilder(config=config, device=device)
    paths = ComputedSequence(len(index.splits), contents.file)
    origin = None if root is None else Origin(root, paths)
    looked_at = _to_look_at(contents, index, MAX_SURVEYED)
    images = builder.from_contents(contents.open, contents.name, len(paths), origin, looked_at)
    labels = None if config.labels == "none" else index.labels

    def split(numbers: Tensor | None, labels: Tensor | None = labels) -> LaneSplit:
        known = labels if labels is None or numbers is None else labels[numbers]
        known = None if known is not None and bool((known < 0).any()) else known
        return LaneSplit(images, contents, known, numbers)

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
        name,
        config,
        device,
        size=None,
        train=train,
        test=test,
        bank=bank,
        classes=classes,
        widen=builder.form.widen,
        facts=facts,
    )


def _to_look_at(contents: Contents, index: SampleIndex, limit: int) -> list[int]:
    """Return the numbers of at most `limit` images of parts that do not end with the test split."""
    of_test = index.splits[contents.ends - 1] == SPLITS.index("test")
    counts = contents.counts.masked_fill(of_test, 0)
    ends = counts.cumsum(0)  # of each part in the samples of these parts, [P]
    indices = contents.sample(counts, limit)
    shifts = (contents.ends - ends)[torch.searchsorted(ends, indices, right=True)]
    return (indices + shifts).tolist()


@dataclass(frozen=True)
class _Division:
    """The division of samples, by their numbers, each int64 and rising.

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


def _divide(index: SampleIndex, labels: Tensor | None, config: DataConfig) -> _Division:
    """Divide samples by the splits that they name, and hold some out where none is to evaluate on.

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
