"""Curves of what was logged while tasks were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from ssl_zoo.evaluation import ONLINE_EVAL_SIZES
from ssl_zoo.reporting.inputs import Material, Member, Missing, attempt, figures
from ssl_zoo.reporting.pictures import Look, Panel, drawn, label_ends
from ssl_zoo.runs.run import Run

Values = NDArray[np.float64]

AXES = {"images": "by images seen", "minutes": "by minutes of training"}
FEW_POINTS = 20
"""Up to so many points of a curve have a marker each."""
MOST_POINTS = 150
"""A curve of more points than this is drawn by the means of so many parts of it."""


@dataclass(frozen=True)
class Curve:
    """A logged figure of all runs of a row: at each of P points its mean and range over the runs.

    Attributes:
        images: drawn so far [P], the mean over the runs.
        minutes: of training so far [P], likewise.
        mean: of the figure [P].
        low: the least of the runs [P].
        high: the greatest of the runs [P].
        runs: how many there are.
    """

    images: Values
    minutes: Values
    mean: Values
    low: Values
    high: Values
    runs: int

    def along(self, axis: str) -> Values:
        """The points [P] in images or in minutes."""
        return self.images if axis == "images" else self.minutes


def logged(run: Run, key: str) -> Values:
    """What a run logged under a name: for each line [P, 3] images, minutes and the value."""
    lines = [line for line in run.metrics() if key in line]
    values = [(line["images"], line["seconds"] / 60, line[key]) for line in lines]
    array = np.array(values, dtype=np.float64).reshape(-1, 3)
    return array[np.isfinite(array).all(1)]


def curve(runs: Sequence[Values]) -> Curve | None:
    """The curve of several runs, line by line, as far as all of them have got; None without any line.

    Args:
        runs: of each what `logged` gives.
    """
    length = min(map(len, runs), default=0)
    if not length:
        return None
    stacked = np.stack([run[:length] for run in runs])  # [R, P, 3]
    values = stacked[..., 2]
    columns = [*stacked[..., :2].mean(0).T, values.mean(0), values.min(0), values.max(0)]
    parts = np.array_split(np.arange(length), min(length, MOST_POINTS))
    images, minutes, *rest = (np.array([c[part].mean() for part in parts]) for c in columns)
    mean, low, high = rest
    return Curve(images, minutes, mean, low, high, len(runs))


def curves_of(runs: Mapping[str, Sequence[Run]], key: str) -> dict[str, Curve | Missing]:
    """The curve of each row that logged a figure, or why its log cannot be read."""
    found = {row: attempt(partial(_curve_of, its, key)) for row, its in runs.items()}
    return {row: its for row, its in found.items() if its is not None}


def _curve_of(runs: Sequence[Run], key: str) -> Curve | None:
    return curve([logged(run, key) for run in runs])


def _line(axes: Axes, x: Values, its: Curve, look: Look) -> None:
    marker = look.marker if len(x) <= FEW_POINTS else None
    axes.plot(x, its.mean, color=look.colour, marker=marker)
    if its.runs > 1:
        axes.fill_between(x, its.low, its.high, color=look.colour, alpha=0.18, linewidth=0)


def finish(axes: Axes, axis: str, most: float) -> None:
    """Give the axis of images or minutes its range and its name."""
    axes.set_xlim(0, most * 1.02 or 1.0)
    axes.set_xlabel("images seen" if axis == "images" else "minutes of training")
    _ticks(axes, axis)


def _ticks(axes: Any, axis: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    if axis == "images":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def loss(row: str, its: Curve, look: Look, name: str) -> Markup:
    """The loss of one row by images seen, and on a second axis by minutes of training.

    The second axis is exact where a run was equally fast all the time.
    """

    def paint(axes: Axes) -> None:
        _line(axes, its.images, its, look)
        finish(axes, "images", float(its.images[-1]))
        speed = its.images[-1] / max(its.minutes[-1], 1e-9)
        above = axes.secondary_xaxis("top", functions=(lambda x: x / speed, lambda x: x * speed))
        above.spines["top"].set_visible(True)
        above.set_xlabel("minutes of training")
        _ticks(above, "minutes")
        axes.set_ylabel("loss")

    alt = f"Loss of {row}, from {its.mean[0]:.3g} to {its.mean[-1]:.3g}"
    return drawn(paint, name, alt, (3.4, 2.5))


def together(
    curves: Mapping[str, Curve],
    looks: Mapping[str, Look],
    axis: str,
    what: str,
    name: str,
    levels: Mapping[str, float] | None = None,
) -> Markup:
    """A figure that all rows have in common, in one panel.

    Args:
        curves: of each row its curve.
        looks: of each row.
        axis: ``images`` or ``minutes``.
        what: the figure, with the unit.
        name: of the picture.
        levels: of rows without a curve a value, drawn across the panel.
    """

    def paint(axes: Axes) -> None:
        most = max(float(its.along(axis)[-1]) for its in curves.values())
        ends = []
        for row, its in curves.items():
            x = its.along(axis)
            _line(axes, x, its, looks[row])
            ends.append((row, float(x[-1]), float(its.mean[-1]), looks[row]))
        for row, level in (levels or {}).items():
            axes.axhline(level, color=looks[row].colour, linestyle=looks[row].dash, linewidth=1.2)
            ends.append((row, most, level, looks[row]))
        finish(axes, axis, most)
        axes.set_ylabel(what)
        label_ends(axes, ends)

    said = ", ".join(f"{row} {its.mean[-1]:.3g}" for row, its in curves.items())
    return drawn(paint, name, f"{what} by {axis}, at the end: {said}")


def section(material: Material, looks: Mapping[str, Look]) -> dict[str, Any]:
    """The panels of the loss, of kNN on the way, and of bounds on mutual information."""
    runs = {row: its for row, members in material.rows.items() if (its := logging_runs(members))}
    losses = curves_of(runs, "loss")
    knn, bounds = (_readable(curves_of(runs, key)) for key in ("knn", "mi_bound"))
    final = figures(material.table, lambda outcome: outcome.scores.get("knn"))
    levels = {row: mean(its) for row, its in final.items() if row not in knn}
    return {
        "loss": [
            Panel(
                row,
                its
                if isinstance(its, Missing)
                else attempt(partial(loss, row, its, looks[row], f"loss-{i}")),
                row,
            )
            for i, (row, its) in enumerate(losses.items())
        ],
        "knn": [
            Panel(title, attempt(partial(together, knn, looks, axis, "kNN %", f"knn-{axis}", levels)))
            for axis, title in AXES.items()
            if knn
        ],
        "bound": [
            Panel(title, attempt(partial(together, bounds, looks, axis, "nats", f"bound-{axis}")))
            for axis, title in AXES.items()
            if bounds
        ],
        "midway": ONLINE_EVAL_SIZES,
        "levels": list(levels),
    }


def _readable(found: Mapping[str, Curve | Missing]) -> dict[str, Curve]:
    return {row: its for row, its in found.items() if isinstance(its, Curve)}


def logging_runs(members: Sequence[Member]) -> list[Run]:
    """The runs of a row that its curves are of: those that are done, else the one that got furthest."""
    trained = [m for m in members if m.kind == "trained" and m.run.metrics_file.is_file()]
    done = [m.run for m in trained if m.lacking is None]
    furthest = sorted((m.run for m in trained), key=lambda run: -run.metrics_file.stat().st_size)
    return done or furthest[:1]
