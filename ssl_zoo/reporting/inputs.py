"""The inputs of a report: the runs in a folder, their table, and the features of their networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from ssl_zoo.comparison import COMPARE_FILE, Sweep, Table, open_sweep, tabulate
from ssl_zoo.comparison.cells import Cell, RawCell, Status, TrainedCell, shared_data
from ssl_zoo.comparison.columns import Outcome
from ssl_zoo.comparison.outcomes import sweep_table
from ssl_zoo.config.schema import EncoderConfig, RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.evaluation import Subject
from ssl_zoo.evaluation.scoring import of_encoder
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runs.build import build_data, restore_task
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import Spec
from ssl_zoo.task import Task
from ssl_zoo.text import error_line, locate_error, printable

Kind = Literal["trained", "untrained", "raw"]
T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """A part of the page that cannot be shown.

    Attributes:
        reason: the reason.
    """

    reason: str


def attempt(make: Callable[[], T]) -> T | Missing:
    """Return the result of `make`, or the reason why it fails."""
    try:
        return make()
    except PLUGIN_ERRORS as error:
        return Missing(error_line(error) if isinstance(error, SslZooError) else locate_error(error))


@dataclass(frozen=True)
class Member:
    """One run, or one baseline that is not trained.

    Attributes:
        row: the row of the table that it belongs to.
        seed: the seed; None for a baseline that does not depend on one.
        run: the folder.
        kind: which features it has.
        baseline: whether it is a baseline.
        incomplete: why it has no figures; None if it is done.
        untrained: the configuration of a network before training; None for other kinds.
    """

    row: str
    seed: int | None
    run: Run
    kind: Kind
    baseline: bool = False
    incomplete: str | None = None
    untrained: EncoderConfig | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return printable(self.run.path.resolve().name)


@dataclass(frozen=True)
class ReportInputs:
    """The inputs of a page.

    Attributes:
        folder: the folder of the comparison or the run.
        title: the title of the page.
        summary: a phrase about the content of the folder.
        table: the figures.
        members: all runs and baselines, in the order of the rows of the table.
        config: the configuration that all have in common.
        modality: the kind of data.
    """

    folder: Path
    title: str
    summary: str
    table: Table | Missing
    members: Sequence[Member]
    config: EncoderConfig | Missing
    modality: str = Task.modality

    @property
    def noun(self) -> str:
        """The plural noun for samples."""
        return Spec.noun if isinstance(self.table, Missing) else self.table.noun

    @property
    def rows(self) -> dict[str, list[Member]]:
        """The members by row."""
        rows: dict[str, list[Member]] = {}
        for member in self.members:
            rows.setdefault(member.row, []).append(member)
        return rows


def read_folder(folder: Path) -> ReportInputs:
    """Read the comparison or the run in a folder.

    Raises:
        UserError: there is neither, or its settings cannot be read.
    """
    if file_exists(folder / COMPARE_FILE):
        return _of_sweep(open_sweep(folder / COMPARE_FILE, folder))
    if file_exists(Run(folder).config_file):
        return _of_run(Run(folder))
    missing = f"has neither {COMPARE_FILE} nor config.yaml"
    problem = missing if folder.is_dir() else "is not a directory"
    raise UserError(f"{folder} {problem}; give the folder of a comparison or of a run")


def _of_sweep(sweep: Sweep) -> ReportInputs:
    table = attempt(partial(sweep_table, sweep))
    members = [_member(cell) for cell in sweep.cells]
    rows = [] if isinstance(table, Missing) else table.rows
    order = {row.name: number for number, row in enumerate(rows)}
    members.sort(key=lambda m: (m.baseline, order.get(m.row, len(order))))
    done, seeds = sum(m.incomplete is None for m in members), sweep.comparison.seeds
    tasks = len(sweep.comparison.task_names())
    summary = f"Comparison of {_count(tasks, 'task')} with {_count(seeds, 'seed')} each"
    if sweep.comparison.untrained_only:
        summary = "Comparison of what needs no training"
    if done < len(members):
        summary += f"; {done} of {len(members)} cells are done"
    title = "A comparison of tasks" if isinstance(table, Missing) else table.title
    return ReportInputs(
        sweep.out, title, summary, table, members, sweep.config, sweep.comparison.modality
    )


_INCOMPLETE: Mapping[Status, str | None] = {
    "waiting": "has not started",
    "unfinished": "is not finished",
    "failed": "failed",
    "done": None,
}


def _member(cell: Cell) -> Member:
    kind: Kind = "raw" if isinstance(cell, RawCell) else "untrained"
    if isinstance(cell, TrainedCell):
        kind = "trained"
    status = attempt(lambda: cell.status)
    incomplete = status.reason if isinstance(status, Missing) else _INCOMPLETE[status]
    if status == "failed":
        incomplete = f"failed: {cell.failure()}"
    untrained = cell.config if kind == "untrained" else None
    return Member(cell.title, cell.seed, cell.folder, kind, cell.baseline, incomplete, untrained)


def _of_run(run: Run) -> ReportInputs:
    config = attempt(run.config)
    table = attempt(lambda: tabulate([run.path]))
    title, row, seed = run.path.resolve().name, run.path.resolve().name, 0
    modality = Task.modality
    if not isinstance(config, Missing):
        row, seed = config.task.name, config.train.seed
        modality = registry.load_task(row).modality
        title = f"{row} on {config.data.source_name}"
        config = run.with_inputs(config)
    if not isinstance(table, Missing):
        title = f"{row}: {table.title}"
    incomplete = table.reason if isinstance(table, Missing) else None
    member = Member(row, seed, run, "trained", incomplete=incomplete)
    return ReportInputs(run.path, title, "One run", table, [member], config, modality)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def values_by_row(
    table: Table | Missing, value: Callable[[Outcome], float | None]
) -> dict[str, list[float]]:
    """Return a value for each run that did not fail, by row; without rows that have none.

    Args:
        table: the table.
        value: computes the value from the outcome of a run; returns None where there is none.
    """
    if isinstance(table, Missing):
        return {}
    rows: dict[str, list[float]] = {row.name: [] for row in table.rows}
    for outcome in table.outcomes:
        if outcome.failure is None and (number := value(outcome)) is not None:
            rows[outcome.row].append(number)
    return {row: values for row, values in rows.items() if values}


def representative(members: Sequence[Member]) -> Member:
    """Return the run that represents its row in pictures: the first that is done and has weights."""
    return min(
        members,
        key=lambda m: (
            m.incomplete is not None,
            m.kind == "trained" and not m.run.checkpoints,
        ),
    )


class FeatureExtractor:
    """The data and the device on which networks are rebuilt and compute features.

    Attributes:
        config: the configuration that all runs have in common.
        device: the device, and how to compute on it.
        data: the samples, loaded once.
    """

    def __init__(self, config: EncoderConfig, modality: str = Task.modality) -> None:
        """Load the data.

        Args:
            config: the configuration that all runs have in common.
            modality: the kind of their data.

        Raises:
            UserError: the data is not available.
        """
        self.config = config
        try:
            self.device = Device.choose(config.train)
        except UserError:  # made on another machine, whose device this one lacks
            automatic = {"device": "auto", "precision": "auto"}
            self.device = Device.choose(config.train.model_copy(update=automatic))
        self.data: DataSet = shared_data(config, self.device, modality)

    def subject(self, member: Member) -> tuple[Subject, Task | None]:
        """Return the features of a run or a baseline, and the task if it has one.

        Raises:
            UserError: it is not done, or it can no longer be built.
        """
        if member.incomplete is not None:
            raise UserError(member.incomplete)
        if member.kind == "raw":
            raw = Subject.raw(self.data, self.device)
            if raw is None:
                raise UserError("the raw input makes no sense as features")
            return raw, None
        if member.untrained is not None:
            return of_encoder(member.untrained, self.data, self.device, member.row), None
        own = self._run_config(member.run)
        data = build_data(own, self.device.device, self.data)
        task = self.device.place(restore_task(member.run, data.spec, data))
        return Subject.of_task(task, data, self.device, member.row, seed=own.train.seed), task

    def _run_config(self, run: Run) -> RunConfig:
        """Return the configuration of a run.

        Raises:
            UserError: the run was trained on other data.
        """
        config = run.config()
        if config.data.source != self.config.data.source:
            raise UserError(
                f"it was trained on {config.data.source_text}, not {self.config.data.source_text}"
            )
        return config
