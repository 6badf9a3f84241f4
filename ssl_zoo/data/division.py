"""The division of image files: those to train on, those of them with a class, and those held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.gather import Gathered
from ssl_zoo.data.holdout import hold_out
from ssl_zoo.data.splits import select
from ssl_zoo.data.summary import SourceFacts


@dataclass(frozen=True)
class Division:
    """The division of the files of a source, by their indices, each int64 and rising.

    Attributes:
        train: the files to train on, with a class or without.
        bank: those of them that have a class, where any file has one; otherwise all of them.
        held_out: the files held out, if the source has none to evaluate on.
        labels: the class of each file of the source, int64 [N], -1 for none; None if none has one.
        groups: the name of what each file is a part of; None for no parts.
        facts: the facts about the source.
    """

    train: Tensor
    bank: Tensor
    held_out: Tensor
    labels: Tensor | None
    groups: Sequence[str] | None
    facts: SourceFacts


def divide(found: Gathered, config: DataConfig) -> Division:
    """Divide the files that a source has found.

    Raises:
        SettingError: ``data.groups`` is wrong.
    """
    content = found.content
    paths = content.train.paths
    labels = None if config.labels == "none" else content.train.labels
    groups = _groups(paths, content.groups, config.groups)
    known = torch.arange(len(paths)) if labels is None else (labels >= 0).nonzero().flatten()
    bank, held_out = known, known[:0]
    held_out_by, copies = "", 0
    if content.test is None:
        whole = None if labels is None else labels[known]
        files, parts_of = [paths[i] for i in known.tolist()], select(groups, known)
        parts = hold_out(config, len(known), whole, files, found.root, parts_of)
        bank, held_out = known[parts.train], known[parts.test]
        held_out_by, copies = parts.description, parts.copies
    train = bank
    if len(known) < len(paths):  # the others have no class
        rest = torch.ones(len(paths), dtype=torch.bool)
        rest[held_out] = False
        train = rest.nonzero().flatten()
    facts = SourceFacts(
        folders=content.folders,
        held_out=held_out_by,
        copies=copies,
        other_files=dict(content.others.most_common()),
        unused=content.unused,
        no_labels=content.train.no_labels,
    )
    return Division(train, bank, held_out, labels, groups, facts)


def _groups(paths: Sequence[Path], listed: Mapping[Path, str], rule: str | None) -> list[str] | None:
    """Return what each file is a part of: what a list says, or its folder; None for no parts.

    Args:
        paths: the files.
        listed: what lists say.
        rule: ``data.groups``; by a regular expression samples are only held out together.
    """
    if listed:
        return [listed.get(path, str(path)) for path in paths]
    return [str(path.parent) for path in paths] if rule == "folder" else None
