"""Evaluation protocols: functions from a representation to scores that a table can show."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ssl_zoo import distributed
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.classifier import Classifier
from ssl_zoo.evaluation.correctness import Correctness
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.text import did_you_mean, locate_error

log = logging.getLogger("ssl_zoo.evaluation")

Scores = Mapping[str, float]
"""The scores of a representation, by the name of the metric."""


@dataclass(frozen=True)
class Metric:
    """The description of a score for tables.

    Attributes:
        title: the title of its column, with the unit.
        how: how it is computed, in a sentence for the notes below the table.
        better: whether higher or lower values are better; None for neither.
        digits: the number of decimals shown.
        within_run: the same as `better`, for one network during its training, where tables of different
            networks compare neither; None: as `better`.
    """

    title: str
    how: str
    better: Literal["higher", "lower"] | None = "higher"
    digits: int = 1
    within_run: Literal["higher", "lower"] | None = None


def no_warning(scores: Scores) -> str | None:
    """Return no warning."""
    return None


def no_reason(subject: Subject) -> str:
    """Return that nothing prevents scores."""
    return ""


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol, registered by the hook `ssl_zoo_register_protocols`.

    Several processes evaluate together: each calls the same functions of a protocol, in the same order,
    with features of all samples, and the scores of the first process count. See `Subject` for a
    protocol that is made for shares of the samples.

    Attributes:
        measure: maps a `Subject` to its scores; scores that cannot be computed are left out, such as
            those that need a network, for the raw input.
        metrics: the descriptions of the scores, by name.
        labels: whether it needs labels.
        modality: the kind of data that it is for, such as ``"image"``; None for any.
        standard: whether `train` and `eval` measure it unless protocols are named.
        warning: maps the scores to a sentence about a problem, or to None.
        classifier: maps a `Subject` to the classifier that is scored, which ``eval --keep`` keeps for
            ``predict``; None for a protocol that has none. `Subject.once` saves fitting it twice.
        correctness: maps a `Subject` to which samples of the test split are classified correctly, by
            metric, which a comparison keeps so that its rows can be compared in pairs; None for none.
        no_scores: maps a `Subject` to why it can have no scores, in a sentence that says what to do; ""
            if it can. It is said where the protocol is named, and not measured.
    """

    measure: Callable[[Subject], Scores]
    metrics: Mapping[str, Metric]
    labels: bool = True
    warning: Callable[[Scores], str | None] = no_warning
    classifier: Callable[[Subject], Classifier] | None = None
    modality: str | None = None
    standard: bool = False
    correctness: Callable[[Subject], Mapping[str, Correctness]] | None = None
    no_scores: Callable[[Subject], str] = no_reason

    def __call__(self, subject: Subject) -> Scores:
        """Return the scores of a representation, none if it can have none.

        Raises:
            UserError: it needs labels, and there are none, or only one class; or other data.
        """
        self.check(subject.data)
        if self.no_scores(subject):
            return {}
        with distributed.alone():
            return self.measure(subject)

    def correctness_of(self, subject: Subject) -> dict[str, Correctness]:
        """Return which samples are classified correctly, by metric, with their groups; {} for none."""
        if self.correctness is None:
            return {}
        groups = subject.test_groups
        return {name: replace(c, groups=groups) for name, c in self.correctness(subject).items()}

    def check(self, data: DataSet, name: str = "") -> None:
        """Raise unless it can be measured on data.

        Args:
            data: the data.
            name: the name of the protocol, for the message.

        Raises:
            UserError: it needs labels, and there are none, or only one class; or other data.
        """
        if self.labels:
            data.check_labels()
        if reason := self.unsupported(data):
            option = f"--protocol {name}: " if name else ""
            raise UserError(f"{option}{data.name} {reason}; leave the protocol out")

    def unsupported(self, data: DataSet) -> str:
        """Return why it cannot be measured on data, such as "has no labels"; "" if it can."""
        if self.modality not in (None, data.spec.modality):
            return f"is {data.spec.modality} data, not {self.modality} data"
        return data.no_accuracy if self.labels else ""


def known_protocols() -> dict[str, Protocol]:
    """Return all registered protocols by name."""
    known: dict[str, Protocol] = {}
    metrics: dict[str, str] = {}
    for name, protocol in registry.collect("ssl_zoo_register_protocols").items():
        if not isinstance(protocol, Protocol):
            log.warning("protocol %r is not an ssl_zoo.evaluation.Protocol and is left out", name)
        elif taken := protocol.metrics.keys() & metrics.keys():
            metric = min(taken)
            log.warning(
                "protocol %r has a metric %r, which %r has already; it is left out",
                name,
                metric,
                metrics[metric],
            )
        else:
            known[name] = protocol
            metrics |= dict.fromkeys(protocol.metrics, name)
    return known


def standard_protocols(modality: str | None = None) -> list[str]:
    """Return the names of the protocols by which data is evaluated unless some are named.

    Args:
        modality: the kind of data, such as ``"image"``; None for protocols for any data alone.
    """
    known = known_protocols().items()
    return [name for name, p in known if p.standard and p.modality in (None, modality)]


def known_metrics() -> dict[str, Metric]:
    """Return the metrics of all protocols by name, in the order of tables."""
    return {name: m for protocol in known_protocols().values() for name, m in protocol.metrics.items()}


def protocols(names: Iterable[str], option: str = "--protocol") -> dict[str, Protocol]:
    """Return the protocols with these names.

    Raises:
        UserError: there is no protocol with one of them.
    """
    known, chosen = known_protocols(), dict.fromkeys(names)
    for name in chosen:
        if name not in known:
            raise UserError(
                f"{option}: there is no protocol {name!r}.{did_you_mean(name, known)} "
                f"There are: {', '.join(sorted(known))}"
            )
    return {name: known[name] for name in chosen}


def warnings(scores: Scores) -> list[str]:
    """Return the warnings of all protocols about the scores of one representation."""
    texts = []
    for name, protocol in known_protocols().items():
        try:
            texts.append(protocol.warning(scores))
        except PLUGIN_ERRORS as error:
            log.warning("protocol %r: its warning raised %s", name, locate_error(error))
    return [text for text in texts if text is not None]
