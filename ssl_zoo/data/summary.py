"""A summary of the samples that were found: how many, of which classes, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ssl_zoo.text import printable, quantity

if TYPE_CHECKING:
    from ssl_zoo.data.dataset import DataSet

MAX_LISTED = 6
"""The maximum number of classes, folders or suffixes that a line lists one by one."""


@dataclass(frozen=True)
class SourceFacts:
    """The facts about a source that its splits do not show.

    Attributes:
        folders: the sub-folders that a split was taken from, by ``train`` and ``test``.
        held_out: how a part was held out, such as "10 %, stratified"; "" if nothing was.
        copies: the number of samples that are exact copies of another one.
        other_files: the number of files that are not samples, by suffix.
        unused: the number of samples in each sub-folder that nothing is taken from, "" for those in no
            sub-folder.
        no_labels: why there are no labels, where their absence may surprise.
        mirror_assumed: whether it is unknown that a mirrored image has the same meaning, and assumed.
        group_rule: the setting ``data.groups``, by which samples are held out together.
    """

    folders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held_out: str = ""
    copies: int = 0
    other_files: Mapping[str, int] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)
    no_labels: str = ""
    mirror_assumed: bool = False
    group_rule: str | None = None


NO_FACTS = SourceFacts()


@dataclass(frozen=True)
class DataSummary:
    """The samples of a data set in numbers; its text is one line.

    Attributes:
        name: the data set's name.
        noun: the plural noun for its samples, such as "images".
        train: the number of samples trained on.
        bank: the number of labelled samples that evaluation learns from, where these differ.
        test: the number of samples evaluated on.
        classes: the number of labelled samples of each class, trained on or evaluated on; empty
            without labels.
        no_accuracy: why no accuracy can be computed; "" if it can.
        facts: the facts that the splits do not show.
    """

    name: str
    noun: str
    train: int
    bank: int | None
    test: int
    classes: Mapping[str, int]
    no_accuracy: str
    facts: SourceFacts

    @classmethod
    def of(cls, data: DataSet) -> DataSummary:
        """Summarise a data set."""
        splits = [split for split in (data.bank, data.test) if split is not None]
        return cls(
            name=data.name,
            noun=data.spec.noun,
            train=len(data.train),
            bank=None if data.bank is data.train or data.bank.labels is None else len(data.bank),
            test=0 if data.test is None else len(data.test),
            classes=_count([s.labels for s in splits if s.labels is not None], data.classes),
            no_accuracy=data.no_accuracy,
            facts=data.facts,
        )

    def __str__(self) -> str:
        return self.line()

    def line(self, fitted: bool = True) -> str:
        """Return the summary in one line.

        Args:
            fitted: whether anything is fitted to the samples; otherwise the splits are but parts.
        """
        total = self.train + self.test
        facts = self.facts
        from_train, from_test = (_from(facts.folders.get(split)) for split in ("train", "test"))
        number = f"{self.test:,}" if self.test else "none"
        train, test = f"{self.train:,} to train{from_train}", f"{number} to evaluate on{from_test}"
        if facts.held_out:
            test = f"{number} held out ({facts.held_out})"
        if not fitted:
            train, test = f"{self.train:,} in the train split", f"{number} in the test split"
        bank = "" if self.bank is None else f"{self.bank:,} labelled ones for evaluation to learn from"
        parts = filter(None, [train, bank, test])
        clauses = [f"{self.name}: {quantity(total, self.noun)}: {', '.join(parts)}"]
        clauses.append(self._classes())
        if facts.copies:
            clauses.append(f"{quantity(facts.copies, 'exact copies')}, on the same side as the original")
        if facts.other_files:
            total = sum(facts.other_files.values())
            kinds = _listed([f"{suffix} {n:,}" for suffix, n in facts.other_files.items()])
            clauses.append(f"{quantity(total, 'files')} of other kinds left out ({kinds})")
        if folders := {name: number for name, number in facts.unused.items() if name}:
            places = [f"{printable(n)} ({quantity(number, self.noun)})" for n, number in folders.items()]
            clauses.append(f"{quantity(len(folders), 'folders')} not used: {_listed(places)}")
        if stray := facts.unused.get("", 0):
            clauses.append(f"{quantity(stray, self.noun)} beside the folders not used")
        return "; ".join(clauses)

    def _classes(self) -> str:
        if not self.classes:
            return f"no labels{f' ({self.facts.no_labels})' if self.facts.no_labels else ''}"
        number, counts = len(self.classes), sorted(self.classes.values())
        if number > MAX_LISTED:
            smallest = f"{counts[0]:,} to " if counts[0] < counts[-1] else ""
            return f"{number:,} classes of {smallest}{quantity(counts[-1], self.noun)}"
        listed = ", ".join(f"{printable(name)} {n:,}" for name, n in self.classes.items())
        return f"{quantity(number, 'classes')}: {listed}"


def _count(labels: Sequence[Tensor], names: Sequence[str] | None) -> dict[str, int]:
    """Return the number of samples of each class, also of classes without a sample, by name."""
    counts: Counter[int] = Counter()
    for part in labels:
        counts.update(dict(enumerate(part.bincount().tolist())))
    number = max([*counts, -1]) + 1
    if names is None or len(names) < number:
        names = [str(i) for i in range(number)]
    return {name: counts[i] for i, name in enumerate(names)} if counts else {}


def _from(folders: Sequence[str] | None) -> str:
    return f" ({_listed(list(map(printable, folders)))})" if folders else ""


def _listed(items: Sequence[str]) -> str:
    more = len(items) - MAX_LISTED
    return ", ".join([*items[:MAX_LISTED], *([f"{more} more"] if more > 0 else [])])
