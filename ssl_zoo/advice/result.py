"""The result of advice: its rows, the verdict, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_zoo.advice.commands import next_commands
from ssl_zoo.advice.plan import Plan
from ssl_zoo.advice.verdict import Candidate, Kind, Point, Verdict, decide
from ssl_zoo.comparison import Cell, Sweep
from ssl_zoo.comparison.cells import RawCell, UntrainedCell
from ssl_zoo.config.weights import weights_name
from ssl_zoo.data import DataSet
from ssl_zoo.evaluation import known_metrics, warnings
from ssl_zoo.evaluation.correctness import Correctness, read_correctness
from ssl_zoo.evaluation.label_curve import COUNTS, NAME
from ssl_zoo.evaluation.pairing import Interval, accuracy_interval
from ssl_zoo.evaluation.reading import describe_number
from ssl_zoo.runtime.device import Device


@dataclass(frozen=True)
class AdviceRow:
    """A row of the result.

    Attributes:
        row: its name.
        kind: what it is.
        phrase: the same in words.
        minutes: the minutes of training; None if it is not trained.
        passes: the passes over the data; likewise.
        scores: the scores by metric.
        intervals: the accuracies with their intervals, by metric.
        notes: why it failed, or that it has collapsed.
    """

    row: str
    kind: Kind
    phrase: str
    minutes: float | None
    passes: float | None
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Advice:
    """The result of `advise`.

    Attributes:
        folder: the folder with all runs.
        title: the data and the network.
        plan: the plan that was followed.
        rows: the rows in order.
        points: the numbers of labels a class, the last one all of them.
        verdict: the verdict.
        commands: what to do next, as commands with a remark on each.
        interval_note: what the intervals cover.
    """

    folder: Path
    title: str
    plan: Plan
    rows: Sequence[AdviceRow]
    points: Sequence[Point]
    verdict: Verdict
    commands: Sequence[tuple[str, str]] = ()
    interval_note: str = ""


def kind_of(cell: Cell) -> Kind:
    """Return what a row is."""
    if isinstance(cell, RawCell):
        return "raw"
    if isinstance(cell, UntrainedCell):
        return "frozen" if cell.pretrained else "untrained"
    return "continued" if cell.config.backbone.starts_trained else "scratch"


def describe(cell: Cell) -> str:
    """Return what a row is, in words that stand in a sentence."""
    backbone = cell.config.backbone
    network = backbone.name
    if backbone.weights is not None:
        network = f"network of {weights_name(backbone.weights)}"
    variant = cell.row in cell.comparison.variants
    task = cell.row if variant else cell.comparison.task_of(cell.row)
    return {
        "raw": f"the raw {cell.title}" if cell.title != "raw" else "the raw input",
        "untrained": f"the untrained {backbone.name}",
        "frozen": f"the frozen {network}",
        "continued": f"continuing with {task}",
        "scratch": f"training from scratch with {task}",
    }[kind_of(cell)]


def make_advice(
    sweep: Sweep, plan: Plan, request: Mapping[str, Any], data: DataSet, device: Device
) -> Advice:
    """Return the advice that follows from the cells of a comparison that are done.

    Args:
        sweep: the comparison.
        plan: the plan that it followed.
        request: what was asked for, as in `AdviceRecord.request`.
        data: its data.
        device: where networks are built.
    """
    cells = [cell for cell in sweep.cells if cell.status in ("done", "failed")]
    correct = {cell.row: read_correctness(cell.path) for cell in cells}
    rows = [_row(cell, correct[cell.row], len(data.train)) for cell in cells]
    points = [*(_points(correct)), Point("linear", "at all labels", drawn=False)]
    candidates = [
        Candidate(cell.row, kind_of(cell), describe(cell), correct[cell.row])
        for cell in cells
        if cell.failure() is None
    ]
    labels = [split.labels for split in (data.bank, data.test) if split is not None]
    labelled = sum(len(x) for x in labels if x is not None)
    verdict = decide(candidates, points, labelled if data.labelled else 0)
    commands = next_commands(sweep, request, verdict, data, device)
    note = _interval_note(data, correct) if data.labelled else ""
    return Advice(sweep.out, data.name, plan, rows, points, verdict, commands, note)


def _points(correct: Mapping[str, Mapping[str, Correctness]]) -> list[Point]:
    measured = {metric for of_row in correct.values() for metric in of_row}
    points = []
    for count in COUNTS:
        if (metric := NAME.format(count)) in measured:
            points.append(Point(metric, f"at {count} label{'s' if count > 1 else ''} a class"))
    return points


def _row(cell: Cell, correct: Mapping[str, Correctness], samples: int) -> AdviceRow:
    results = cell.results()
    scores: Mapping[str, float] = next(iter(results.get("scores", {}).values()), {})
    seconds, drawn = results.get("seconds"), results.get("samples")
    failure = cell.failure()
    return AdviceRow(
        cell.row,
        kind_of(cell),
        describe(cell),
        None if seconds is None else seconds / 60,
        None if drawn is None else drawn / samples,
        scores,
        {metric: accuracy_interval(c) for metric, c in correct.items()},
        [f"failed: {failure}"] if failure is not None else warnings(scores),
    )


def _interval_note(data: DataSet, correct: Mapping[str, Mapping[str, Correctness]]) -> str:
    assert data.test is not None
    groups = next((c.number_of_groups for of_row in correct.values() for c in of_row.values()), None)
    number = describe_number(len(data.test), data.spec.noun, groups)
    as_one = "" if groups is None else " A group counts as one sample."
    return (
        "± is half of a 95 % interval. It covers other draws of the labels and other test samples "
        f"({number} here), but not other seeds of training; at all labels, other test samples alone. "
        "Rows share draws and samples, so differences are known better than their intervals show."
        + as_one
    )


def as_dict(advice: Advice) -> dict[str, Any]:
    """Return the advice as plain values, for JSON."""
    verdict = advice.verdict

    def plain(interval: Interval) -> dict[str, float]:
        return {"mean": interval.mean, "interval": interval.half_width}

    return {
        "folder": str(advice.folder),
        "title": advice.title,
        "plan": advice.plan.model_dump(mode="json"),
        "points": [{"metric": p.metric, "phrase": p.phrase, "drawn": p.drawn} for p in advice.points],
        "rows": [
            {
                "row": row.row,
                "kind": row.kind,
                "phrase": row.phrase,
                "minutes": row.minutes,
                "passes": row.passes,
                "scores": dict(row.scores),
                "accuracies": {metric: plain(interval) for metric, interval in row.intervals.items()},
                "notes": list(row.notes),
            }
            for row in advice.rows
        ],
        "verdict": {
            "decision": verdict.decision,
            "sentences": list(verdict.sentences),
            "row": verdict.row,
            "reference": verdict.reference,
            "metric": None if verdict.point is None else verdict.point.metric,
            "differences": {row: plain(interval) for row, interval in verdict.differences.items()},
        },
        "commands": [command for command, _ in advice.commands],
        "interval_note": advice.interval_note,
    }


def shown_metrics(advice: Advice) -> dict[str, str]:
    """Return the metrics to show, with short titles.

    They are kNN and the accuracies at each number of labels; without labels those of the health.
    """
    known = known_metrics()
    measured = {metric for row in advice.rows for metric in row.scores}
    titles = {"knn": "kNN %", **{NAME.format(count): f"{count} a class" for count in COUNTS}}
    titles["linear"] = "all labels"
    shown = {metric: title for metric, title in titles.items() if metric in measured}
    return shown or {name: metric.title for name, metric in known.items() if name in measured}
