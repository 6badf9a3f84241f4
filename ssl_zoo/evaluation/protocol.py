"""What a protocol is: one way to judge a representation, in numbers that a table can show."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.text import did_you_mean, locate_error

log = logging.getLogger("ssl_zoo.evaluation")

Scores = Mapping[str, float]
"""The numbers that protocols give, by the metric's name."""


@dataclass(frozen=True)
class Metric:
    """A number that a protocol gives, as tables show it.

    Attributes:
        title: the head of its column, with the unit.
        how: how it is made, in a sentence for the table's foot.
        better: which values are the better ones; None where neither is.
        digits: decimals.
    """

    title: str
    how: str
    better: Literal["higher", "lower"] | None = "higher"
    digits: int = 1


def no_warning(scores: Scores) -> str | None:
    """Warn of nothing."""
    return None


@dataclass(frozen=True)
class Protocol:
    """One way to judge a representation; what the hook `ssl_zoo_register_protocols` registers.

    Attributes:
        measure: what is evaluated to its scores; it leaves out what it cannot measure, such as
            whatever needs a network of the raw input.
        metrics: by the names of the scores what they are.
        labels: whether it needs labels.
        warning: from the scores a sentence on what is alarming in them, None where nothing is.
    """

    measure: Callable[[Subject], Scores]
    metrics: Mapping[str, Metric]
    labels: bool = True
    warning: Callable[[Scores], str | None] = no_warning

    def __call__(self, subject: Subject) -> Scores:
        """Measure.

        Raises:
            UserError: it needs labels, and there are none, or all are the same.
        """
        return self.measure(subject)


def known_protocols() -> dict[str, Protocol]:
    """All protocols by name, as plugins give them."""
    known: dict[str, Protocol] = {}
    metrics: dict[str, str] = {}
    for name, given in registry.collect("ssl_zoo_register_protocols").items():
        if not isinstance(given, Protocol):
            log.warning("protocol %r is no ssl_zoo.evaluation.Protocol and is left out", name)
        elif taken := given.metrics.keys() & metrics.keys():
            metric = min(taken)
            log.warning("protocol %r gives %r, as %r does; left out", name, metric, metrics[metric])
        else:
            known[name] = given
            metrics |= dict.fromkeys(given.metrics, name)
    return known


def known_metrics() -> dict[str, Metric]:
    """What the scores of all protocols are, by name, in the order of tables."""
    return {name: m for protocol in known_protocols().values() for name, m in protocol.metrics.items()}


def protocols(names: Iterable[str], option: str = "--protocol") -> dict[str, Protocol]:
    """The protocols of these names.

    Raises:
        UserError: there is none of that name.
    """
    known, chosen = known_protocols(), dict.fromkeys(names)
    for name in chosen:
        if name not in known:
            raise UserError(
                f"{option}: no protocol {name!r}.{did_you_mean(name, known)} "
                f"There are: {', '.join(sorted(known))}"
            )
    return {name: known[name] for name in chosen}


def warnings(scores: Scores) -> list[str]:
    """What is alarming in the scores of one representation."""
    found = []
    for name, protocol in known_protocols().items():
        try:
            found.append(protocol.warning(scores))
        except PLUGIN_ERRORS as error:
            log.warning("protocol %r: its warning raised %s", name, locate_error(error))
    return [text for text in found if text is not None]
