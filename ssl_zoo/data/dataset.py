"""A data set: its splits, and the description of its samples."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property

from ssl_zoo.data.splits import Split
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.errors import UserError
from ssl_zoo.spec import Spec
from ssl_zoo.text import printable


@dataclass(frozen=True)
class DataSet:
    """The samples of a source and their description.

    Attributes:
        name: the name given by the user.
        spec: the shape and meaning of the samples.
        train: the samples trained on, without their labels.
        test: the samples evaluated on; None if there are none.
        bank: the labelled samples that evaluation learns from; for most sources the same as `train`.
        classes: the names of the classes, where they are known.
        facts: the facts about the source that the splits do not show.
    """

    name: str
    spec: Spec
    train: Split
    test: Split | None
    bank: Split
    classes: tuple[str, ...] | None = None
    facts: SourceFacts = NO_FACTS

    @property
    def labelled(self) -> bool:
        """True if the bank has labels of at least two classes and the test split has labels."""
        return not self.no_accuracy

    @cached_property
    def no_accuracy(self) -> str:
        """The reason why no accuracy can be computed, such as "has no labels"; "" if it can."""
        if self.bank.labels is None:
            return f"has no labels{f' ({self.facts.no_labels})' if self.facts.no_labels else ''}"
        if len(labels := self.bank.labels.unique().tolist()) < 2:
            names = [self.classes[i] if self.classes else str(i) for i in labels]
            return f"has only one class ({', '.join(map(printable, names))}), so accuracy means nothing"
        if self.test is None:
            return "has no samples to evaluate on"
        return "has no labels in its test split" if self.test.labels is None else ""

    def check_labels(self) -> None:
        """Raise unless an accuracy can be computed.

        Raises:
            UserError: there are no labels to learn from or to evaluate on, or only one class.
        """
        if self.no_accuracy:
            raise UserError(
                f"{self.name} {self.no_accuracy}; this protocol needs two labelled classes to learn "
                "from and to evaluate on, such as sub-folders, and --protocol health needs none"
            )

    def with_canvas(self, canvas: int | str) -> DataSet:
        """Return the same samples, as training sees them with this ``data.canvas``.

        Samples without one, such as arrays, stay so; at "auto" the one that was chosen stays.
        """

        def changed(split: Split) -> Split:
            if (kept := split.canvas) is None or canvas in ("auto", kept.side):
                return split
            return split.with_canvas(kept.at(canvas) if isinstance(canvas, int) else None)

        train = changed(self.train)
        return replace(self, train=train, bank=train if self.bank is self.train else changed(self.bank))

    def without_labels(self, reason: str) -> DataSet:
        """Return the same samples without their labels.

        Args:
            reason: why they are left out, for `SourceFacts.no_labels`.
        """

        def strip(split: Split) -> Split:
            stripped = copy.copy(split)
            stripped.labels = None
            return stripped

        return replace(
            self,
            spec=self.spec.without_classes(),
            train=(train := strip(self.train)),
            test=None if self.test is None else strip(self.test),
            bank=train if self.bank is self.train else strip(self.bank),
            classes=None,
            facts=replace(self.facts, no_labels=reason),
        )
