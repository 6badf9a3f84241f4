"""From the scores of rows to a sentence: whether training is worth it, and what nobody can tell yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ssl_zoo.evaluation.correctness import Correctness
from ssl_zoo.evaluation.pairing import (
    CONFIDENCE,
    MIN_SAMPLES,
    Interval,
    accuracy_interval,
    difference_interval,
)

Kind = Literal["raw", "untrained", "frozen", "continued", "scratch"]
"""What a row is: the raw input; the network with random weights, or with trained ones, as it is; a task
that goes on from trained weights, or starts from random ones."""
Decision = Literal["train", "do not train", "cannot be told"]
"""The decision of an answer."""
TRAINED: tuple[Kind, ...] = ("continued", "scratch")
"""The kinds of rows that cost training, the simpler one first."""
AIM = 2.0
"""The difference, in points, for which the number of labels that would show it is estimated."""
UNCLEAR = 2 * AIM
"""Where training may gain more than these points, it cannot be told that it is not worth it."""


@dataclass(frozen=True)
class Candidate:
    """A row that could be used.

    Attributes:
        row: its name.
        kind: what it is.
        phrase: what it is in words that stand in a sentence, such as "continuing with dino".
        correct: which test samples its classifiers get right, by metric.
    """

    row: str
    kind: Kind
    phrase: str
    correct: Mapping[str, Correctness] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Point:
    """A number of labels at which rows are compared.

    Attributes:
        metric: the metric.
        phrase: such as "at 10 labels a class".
        drawn: whether labels are drawn, so that intervals cover other labels too.
    """

    metric: str
    phrase: str
    drawn: bool = True


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        decision: whether to train, not to, or that it cannot be told.
        sentences: the answer in words, the decisive sentence first.
        row: the row to use; None where no accuracies can be compared.
        reference: the row that training has to beat; None likewise.
        point: the number of labels that decided; None likewise.
        differences: by row, how much more accurate it is than the reference there, in points.
    """

    decision: Decision
    sentences: Sequence[str]
    row: str | None = None
    reference: str | None = None
    point: Point | None = None
    differences: Mapping[str, Interval] = field(default_factory=dict)


def decide(candidates: Sequence[Candidate], points: Sequence[Point], labelled: int) -> Verdict:
    """Return the verdict: the simplest row that no other one beats by more than its interval.

    The reference is the frozen network with trained weights or, where there is none, the better one of
    the raw input and the untrained network; another row without training takes its place if it is
    better beyond the interval. To train is advised only if a trained row beats the reference beyond an
    interval that is widened for the number of trained rows (Bonferroni), so that in one of twenty cases
    at most rows that are equally good make it advise training. What is said of other numbers of labels
    holds beyond intervals that are widened for these too.

    Not to train is advised only if the interval of no trained row reaches above `UNCLEAR`. Otherwise,
    where nothing was trained, and with fewer than `MIN_SAMPLES` independent samples to evaluate on, it
    cannot be told, and the reference is the row to use until then.

    Args:
        candidates: the rows that have scores, in any order.
        points: the numbers of labels, rising; the last one whose labels are drawn decides.
        labelled: the number of labelled samples, to learn from and to evaluate on.
    """
    common = [p for p in points if candidates and all(p.metric in c.correct for c in candidates)]
    idle = [c for c in candidates if c.kind not in TRAINED]
    if not common or not idle:
        return Verdict("cannot be told", [_NO_LABELS if not common else "No row could be measured."])
    point = next((p for p in reversed(common) if p.drawn), common[-1])
    reference = _reference(idle, point)
    trained = sorted((c for c in candidates if c.kind in TRAINED), key=lambda c: TRAINED.index(c.kind))
    level = _corrected(len(trained))
    differences = {
        c.row: difference_interval(c.correct[point.metric], reference.correct[point.metric], level)
        for c in (*idle, *trained)
        if c is not reference
    }
    if trained and (held_out := reference.correct[point.metric]).units < MIN_SAMPLES:
        sentences = [_unknown(reference, point, labelled), _too_few(held_out)]
        row = reference.row
        return Verdict("cannot be told", sentences, row, row, point, differences)
    winner = _simplest_winner(trained, reference, point, level)
    elsewhere = [p for p in common if p is not point]
    strict = _corrected(len(trained) * len(common))
    if winner is None:
        decision, sentences = _without_winner(trained, reference, point, differences, labelled)
        sentences += _with_fewer_labels(trained, reference, elsewhere, strict)
        return Verdict(decision, sentences, reference.row, reference.row, point, differences)
    sentences = _to_train(winner, reference, point, differences[winner.row])
    sentences += [_effect(winner, reference, other, strict) for other in elsewhere]
    return Verdict("train", sentences, winner.row, reference.row, point, differences)


_NO_LABELS = (
    "Without labels accuracy cannot be told: these figures show whether features have collapsed, not "
    "which are better. About 20 labelled samples of each class, half of them to learn from and half to "
    "evaluate on, answer the question."
)


def _corrected(comparisons: int) -> float:
    """Return the confidence of each of several intervals that together are to hold."""
    return 1 - (1 - CONFIDENCE) / max(1, comparisons)


def _reference(idle: Sequence[Candidate], point: Point) -> Candidate:
    """Return the row without training that others have to beat."""
    frozen = [c for c in idle if c.kind == "frozen"]
    best = max(frozen or idle, key=lambda c: c.correct[point.metric].accuracy)
    level = _corrected(len(idle) - 1)
    better = [c for c in idle if c is not best and _gain(c, best, point, level).positive]
    return max(better or [best], key=lambda c: c.correct[point.metric].accuracy)


def _gain(a: Candidate, b: Candidate, point: Point, level: float) -> Interval:
    return difference_interval(a.correct[point.metric], b.correct[point.metric], level)


def _simplest_winner(
    trained: Sequence[Candidate], reference: Candidate, point: Point, level: float
) -> Candidate | None:
    """Return the first row that beats the reference and that the best such row does not beat."""
    winners = [c for c in trained if _gain(c, reference, point, level).positive]
    if not winners:
        return None
    best = max(winners, key=lambda c: c.correct[point.metric].accuracy)
    return next(c for c in winners if c is best or not _gain(best, c, point, level).positive)


def _to_train(winner: Candidate, reference: Candidate, point: Point, gain: Interval) -> list[str]:
    before, after = (c.correct[point.metric].accuracy for c in (reference, winner))
    return [
        f"{_capital(winner.phrase)} adds {gain} points to {reference.phrase} {point.phrase} "
        f"({before:.1f} % → {after:.1f} %)."
    ]


def _effect(row: Candidate, reference: Candidate, point: Point, level: float) -> str:
    """Return what training changes at another number of labels."""
    gain = _gain(row, reference, point, level)
    loss = Interval(-gain.mean, gain.half_width)
    if gain.positive:
        effect = f"it adds {gain} points"
    else:
        effect = (
            f"it costs {loss} points" if loss.positive else f"no difference is seen ({signed(gain)})"
        )
    return f"{_capital(point.phrase)} {effect}."


def _with_fewer_labels(
    trained: Sequence[Candidate], reference: Candidate, points: Sequence[Point], level: float
) -> list[str]:
    """Return at which numbers of labels training helps, though it does not where it is decided."""
    gains = []
    for point in points:
        winner = _simplest_winner(trained, reference, point, level)
        if winner is not None:
            gain = _gain(winner, reference, point, level)
            gains.append(f"{point.phrase} {winner.phrase} adds {gain} points")
    return [f"With other numbers of labels it helps: {'; '.join(gains)}."] if gains else []


def _measured(row: Candidate, point: Point) -> str:
    """Return such as "the frozen net (70.0 ± 2.1 % at 10 labels a class)"."""
    return f"{row.phrase} ({accuracy_interval(row.correct[point.metric])} % {point.phrase})"


def _unknown(reference: Candidate, point: Point, labelled: int) -> str:
    return (
        f"With {labelled:,} labelled samples it cannot be told whether training helps: use "
        f"{_measured(reference, point)} until there are more."
    )


def _too_few(held_out: Correctness) -> str:
    groups = held_out.number_of_groups
    if groups is None:
        number = f"{held_out.correct.shape[1]:,} samples to evaluate on are"
        return f"{number} too few to conclude anything from; {MIN_SAMPLES} are needed."
    return (
        f"The {held_out.correct.shape[1]:,} samples to evaluate on are in {groups:,} groups, which are "
        f"too few to conclude anything from; {MIN_SAMPLES} groups of about equal size are needed."
    )


def _without_winner(
    trained: Sequence[Candidate],
    reference: Candidate,
    point: Point,
    differences: Mapping[str, Interval],
    labelled: int,
) -> tuple[Decision, list[str]]:
    """Return the decision, and the sentences on it, where no trained row beats the reference."""
    own = _measured(reference, point)
    if not trained:
        return "cannot be told", [f"Nothing was trained; of what needs no training, use {own}."]
    highest = max(trained, key=lambda c: differences[c.row].high)
    widest = differences[highest.row]
    if widest.high > UNCLEAR:
        return "cannot be told", [
            _unknown(reference, point, labelled),
            f"{_capital(highest.phrase)} may gain most: it differs by {signed(widest)} points, so by "
            f"anything from {widest.low:+.1f} to {widest.high:+.1f}. A difference of {AIM:g} needs "
            f"about {_needed(labelled, widest):,} labelled samples to be seen.",
        ]
    best = max(trained, key=lambda c: differences[c.row].mean)
    nearest = differences[best.row]
    sentences = [
        f"On your data nothing beats {own}: do not train.",
        f"The nearest, {best.phrase}, differs by {signed(nearest)} points.",
    ]
    if nearest.high > AIM and (needed := _needed(labelled, nearest)) > labelled:
        sentences.append(
            f"With {labelled:,} labelled samples a difference below {nearest.half_width:.1f} points "
            f"cannot be seen; one of {AIM:g} needs about {needed:,}."
        )
    return "do not train", sentences


def _needed(labelled: int, interval: Interval) -> int:
    """Return about how many labelled samples would show a difference of `AIM` points.

    Intervals fall with the root of the number of samples; where hardly any differ, with their number.
    """
    return _rounded(labelled * (interval.half_width / AIM) ** (1 if interval.at_limit else 2))


def signed(interval: Interval) -> str:
    """Return such as "+0.8 ± 2.1"."""
    return f"{interval.mean:+.1f} ± {interval.half_width:.1f}"


def _rounded(number: float) -> int:
    """Return a number with two significant digits."""
    return int(float(f"{number:.1e}"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
