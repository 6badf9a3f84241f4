"""Figures that depend on the machine, where the runs of a table were made on several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from ssl_zoo.comparison.columns import Column, Outcome


@dataclass(frozen=True)
class Machines:
    """The machines on which runs were made, that of most runs first.

    Attributes:
        names: the machines in plain words.
    """

    names: Sequence[str]

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Machines:
        """Return the machines of some runs, those of trained runs."""
        counts = Counter(m for o in outcomes if o.facts.get("steps") and (m := o.facts.get("machine")))
        return cls(sorted(counts, key=lambda name: (-counts[name], name)))

    def choose(self, outcomes: Sequence[Outcome]) -> tuple[Sequence[Outcome], str]:
        """Return the runs that were made on one machine, the first there is, and its mark."""
        for index, name in enumerate(self.names):
            on_it = [outcome for outcome in outcomes if outcome.facts.get("machine") == name]
            if on_it:
                return on_it, self._mark(index)
        return outcomes, ""

    def notes(self, columns: Iterable[Column]) -> list[str]:
        """Return the note that explains the marks; none for a single machine."""
        titles = [column.title for column in columns if column.of_machine]
        if len(self.names) < 2 or not titles:
            return []
        first, *others = self.names
        marked = ", ".join(f"those with{self._mark(i)} on {n}" for i, n in enumerate(others, 1))
        return [f"{' and '.join(titles)} depend on the machine: measured on {first}; {marked}."]

    @staticmethod
    def _mark(index: int) -> str:
        return f" ({ascii_lowercase[(index - 1) % 26]})" if index else ""
