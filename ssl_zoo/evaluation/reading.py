"""From the scores of a run to a sentence that says what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ssl_zoo import distributed
from ssl_zoo.evaluation.correctness import Correctness
from ssl_zoo.evaluation.pairing import CONFIDENCE, MIN_SAMPLES, difference_interval
from ssl_zoo.evaluation.protocol import known_metrics, protocols
from ssl_zoo.evaluation.subject import Subject


@dataclass(frozen=True)
class Gain:
    """How much more accurate a network is than the best row without its training, by one metric.

    Attributes:
        metric: the name of the metric.
        accuracy: of the network, in percent.
        row: the best row without its training.
        mean: how much more accurate the network is than that row, in points of percent.
        half_width: half of the 95 % interval of `mean`, over samples in pairs; it is widened for the
            number of metrics, so that all of them hold together.
        samples: the number of samples of the test split.
        groups: the number of groups that these are parts of, such as files; None for no groups.
    """

    metric: str
    accuracy: float
    row: str
    mean: float
    half_width: float
    samples: int
    groups: int | None = None

    @property
    def sign(self) -> int:
        """1 if the gain is beyond its interval, -1 if it is a loss beyond it, otherwise 0."""
        return (self.mean > self.half_width) - (-self.mean > self.half_width)

    def __str__(self) -> str:
        """Return such as "kNN 98.9 % (1.7 ± 1.9 points above pixels)"."""
        title = known_metrics()[self.metric].title.removesuffix(" %")
        side = "above" if self.mean >= 0 else "below"
        points = f"{abs(self.mean):.1f} ± {self.half_width:.1f} points {side} {self.row}"
        return f"{title} {self.accuracy:.1f} % ({points})"


def standard_correctness(subject: Subject, names: Iterable[str]) -> dict[str, Correctness]:
    """Return which samples of the test split are classified correctly, by metric.

    Args:
        subject: the representation.
        names: the names of protocols, of which the standard ones that classify count.
    """
    found: dict[str, Correctness] = {}
    for protocol in protocols(names).values():
        if protocol.standard:
            with distributed.alone():
                found |= protocol.correctness_of(subject)
    return found


def measure_gains(
    trained: Mapping[str, Correctness], others: Mapping[str, Mapping[str, Correctness]]
) -> list[Gain]:
    """Return what the training of a network has gained, by metric.

    Args:
        trained: the correctness of the network, by metric.
        others: that of the rows without its training; a metric that one of them lacks does not count.

    Returns:
        The gains; none where the test split has fewer than `MIN_SAMPLES` independent samples.
    """
    common = [m for m in trained if others and all(m in other for other in others.values())]
    metrics = [m for m in common if trained[m].units >= MIN_SAMPLES]
    gains = []
    for metric in metrics:
        row = max(others, key=lambda name: others[name][metric].accuracy)
        confidence = 1 - (1 - CONFIDENCE) / len(metrics)  # Bonferroni
        interval = difference_interval(trained[metric], others[row][metric], confidence)
        own = trained[metric]
        mean, half_width, samples = interval.mean, interval.half_width, own.correct.shape[1]
        gains.append(Gain(metric, own.accuracy, row, mean, half_width, samples, own.number_of_groups))
    return gains


def write_gains(gains: Sequence[Gain]) -> list[dict[str, Any]]:
    """Return gains as plain values, which `read_gains` reads."""
    return [asdict(gain) for gain in gains]


def read_gains(values: Any) -> list[Gain]:
    """Return the gains that a run has recorded; none if an older version did, or a file is damaged."""
    try:
        gains = [Gain(**value) for value in values or ()]
        known = known_metrics()
        return gains if all(g.metric in known and g.samples > 0 and str(g) for g in gains) else []
    except (TypeError, ValueError):
        return []


def describe_number(samples: int, noun: str, groups: int | None) -> str:
    """Return such as "359 images", or "200 images in 10 groups".

    Args:
        samples: the number of samples.
        noun: the plural noun for them.
        groups: the number of groups that they are parts of; None for no groups.
    """
    return f"{samples:,} {noun}" + (f" in {groups:,} groups" if groups is not None else "")


def describe_gains(gains: Sequence[Gain], noun: str) -> str:
    """Return what the accuracies say: whether training has helped, has not, or cannot be told.

    Args:
        gains: by metric; at least one.
        noun: the plural noun for samples.
    """
    number = describe_number(gains[0].samples, noun, gains[0].groups)
    found = f"{', '.join(map(str, gains))}, on {number}"
    signs = {gain.sign for gain in gains}
    if signs >= {1, -1}:
        return f"Training has helped by one measure and not by another: {found}."
    if 1 in signs:
        return f"Training has helped: {found}."
    if -1 in signs:
        return (
            f"Training has not helped so far: {found}. A larger --epochs, another task or network may; "
            "ssl-zoo compare tells."
        )
    return (
        f"Training has made no difference that can be told: {found}. More samples to evaluate on, or "
        "ssl-zoo compare with several seeds, can tell."
    )
