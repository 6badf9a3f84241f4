"""Sharing the minutes among the rows that are trained, by what a trial of each has shown."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel

from ssl_zoo.errors import UserError

MIN_PASSES = 1.0
"""A row whose share of the time is shorter than this many passes over the data is left out."""
RESERVE, RESERVED_SECONDS = 0.05, 10.0
"""The share of all minutes that is kept for what cannot be foreseen, and seconds for start and end."""


class Trial(BaseModel):
    """The durations that a short trial of a row has shown.

    Attributes:
        step_seconds: the duration of a step.
        setup_seconds: the duration of all that comes before the first one.
        steps_per_pass: the number of steps in a pass over the data.
    """

    step_seconds: float
    setup_seconds: float
    steps_per_pass: int


class PlannedRow(BaseModel):
    """A row of the plan.

    Attributes:
        row: its name.
        phrase: what it is.
        seconds: the expected duration, evaluation included.
        passes: the expected passes over the data; None for a row that is not trained.
        steps: the expected steps; likewise.
    """

    row: str
    phrase: str
    seconds: float
    passes: float | None = None
    steps: int | None = None


class Plan(BaseModel):
    """The rows that are compared, with the time that each takes.

    Attributes:
        minutes: the minutes for all.
        spent_seconds: the seconds that data and trials took.
        train_minutes: the minutes of training of each row that is trained; 0 if there is none.
        rows: the rows in order.
        left_out: by row, why it is left out.
        unanswered: the questions that cannot be answered here, with the reason.
    """

    minutes: float
    spent_seconds: float
    train_minutes: float
    rows: list[PlannedRow]
    left_out: dict[str, str] = {}
    unanswered: list[str] = []

    @property
    def seconds(self) -> float:
        """The expected seconds of the whole."""
        return self.spent_seconds + sum(row.seconds for row in self.rows)


def make_plan(
    minutes: float,
    spent_seconds: float,
    phrases: Mapping[str, str],
    trials: Mapping[str, Trial],
    evaluation_seconds: float,
    online_seconds: float = 0.0,
    own_seconds: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    """Return the plan: equal minutes for all rows that are trained.

    Rows whose share would be less than `MIN_PASSES` passes over the data are left out, the last first.
    Where none remains, the others are planned, and the plan says how many minutes would do for one.

    Args:
        minutes: the minutes for all.
        spent_seconds: the seconds that are gone.
        phrases: what each row is, by name, in order of importance.
        trials: the trial of each row that is trained, by name.
        evaluation_seconds: the duration of the evaluation of a row.
        online_seconds: the duration of all evaluations during the training of a row.
        own_seconds: the duration of the evaluation of rows with another network, by name.

    Raises:
        UserError: the minutes are too few even for the rows that are not trained.
    """
    untrained = [row for row in phrases if row not in trials]
    seconds_of = {row: own_seconds.get(row, evaluation_seconds) for row in untrained}
    fixed = spent_seconds + RESERVED_SECONDS + sum(seconds_of.values())
    left = 60 * minutes * (1 - RESERVE) - fixed
    rows, left_out = [row for row in phrases if row in trials], dict[str, str]()
    beside = {row: trials[row].setup_seconds + evaluation_seconds + online_seconds for row in rows}
    share = 0.0
    while rows:
        share = (left - sum(beside[row] for row in rows)) / len(rows)
        short = [row for row in rows if _passes(trials[row], share) < MIN_PASSES]
        if not short:
            break
        row = rows.pop() if rows[-1] in short else rows.pop(rows.index(short[-1]))
        passes = max(0.0, _passes(trials[row], share))
        left_out[row] = (
            f"its share of {minutes:g} minutes is {passes:.1f} passes over the data, less than "
            f"{MIN_PASSES:g}"
        )
    if not rows and left < 0:
        raise UserError(
            f"--minutes {minutes:g}: too few even without training; give at least "
            f"{_round_up(fixed / (60 * (1 - RESERVE)))}, a smaller network, or smaller or fewer samples"
        )
    unanswered = []
    if not rows and trials:
        first = next(row for row in phrases if row in trials)
        one_pass = trials[first].step_seconds * trials[first].steps_per_pass
        needed = fixed + beside[first] + MIN_PASSES * one_pass
        unanswered.append(
            f"Whether training helps cannot be answered: no training fits into {minutes:g} minutes; "
            f"give at least {_round_up(needed / (60 * (1 - RESERVE)))}, which one pass over the data by "
            f"{first} takes, a smaller network, or smaller or fewer samples"
        )
    planned = []
    for row, phrase in phrases.items():
        if row not in trials:
            planned.append(PlannedRow(row=row, phrase=phrase, seconds=seconds_of[row]))
        elif row in rows:
            passes = _passes(trials[row], share)
            steps = int(share / trials[row].step_seconds)
            seconds = share + beside[row]
            planned.append(
                PlannedRow(row=row, phrase=phrase, seconds=seconds, passes=passes, steps=steps)
            )
    return Plan(
        minutes=minutes, spent_seconds=spent_seconds,
        train_minutes=round(share / 60, 4) if rows else 0.0, rows=planned, left_out=left_out,
        unanswered=unanswered,
    )  # fmt: skip


def _passes(trial: Trial, seconds: float) -> float:
    return seconds / (trial.step_seconds * trial.steps_per_pass)


def _round_up(minutes: float) -> str:
    """Return a number of minutes with two digits that is not less."""
    return f"{1.05 * minutes:.2g}"
