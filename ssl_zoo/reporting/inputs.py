"""What a report is about: the runs of a folder, their table, and their networks built anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from ssl_zoo.comparison import COMPARE_FILE, Sweep, Table, open_sweep, tabulate
from ssl_zoo.comparison.cells import Cell, RawCell, Status, TrainedCell, shared_data
from ssl_zoo.comparison.outcomes import sweep_table
from ssl_zoo.comparison.table import Outcome
from ssl_zoo.config.schema import EncoderConfig, RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.evaluation import Subject
from ssl_zoo.evaluation.scoring import of_encoder
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runs.build import build_data
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Task
from ssl_zoo.text import error_line, locate_error, printable

Kind = Literal["trained", "untrained", "raw"]
T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """A part of the page that there is not.

    Attributes:
        reason: why.
    """

    reason: str


def attempt(make: Callable[[], T]) -> T | Missing:
    """What a function makes; if it fails, why."""
    try:
        return make()
    except PLUGIN_ERRORS as error:
        return Missing(error_line(error) if isinstance(error, SslZooError) else locate_error(error))


@dataclass(frozen=True)
class Member:
    """One run, or one baseline that is none.

    Attributes:
        row: the row of the table that it belongs to.
        seed: its seed; None for what does not depend on any.
        run: its folder.
        kind: what is done to represent samples.
        baseline: whether it is what others are compared with.
        lacking: why it has no figures; None where it is done.
    """

    row: str
    seed: int | None
    run: Run
    kind: Kind
    baseline: bool = False
    lacking: str | None = None

    @property
    def name(self) -> str:
        """What its folder is called."""
        return printable(self.run.path.resolve().name)


@dataclass(frozen=True)
class Material:
    """All that a page is made of.

    Attributes:
        folder: of the comparison or the run.
        title: of the page.
        summary: in a few words, what is in the folder.
        table: the figures.
        members: all runs and baselines, in the order of the table's rows as far as it has them.
        config: the data and the machine, which all have in common.
    """

    folder: Path
    title: str
    summary: str
    table: Table | Missing
    members: Sequence[Member]
    config: EncoderConfig | Missing

    @property
    def rows(self) -> dict[str, list[Member]]:
        """The members of each row."""
        found: dict[str, list[Member]] = {}
        for member in self.members:
            found.setdefault(member.row, []).append(member)
        return found


def gather(folder: Path) -> Material:
    """Find out what is in a folder.

    Raises:
        UserError: there is neither a comparison nor a run, or what it was made with is unreadable.
    """
    if file_exists(folder / COMPARE_FILE):
        return _of_sweep(open_sweep(folder / COMPARE_FILE, folder))
    if file_exists(Run(folder).config_file):
        return _of_run(Run(folder))
    what = "has neither" if folder.is_dir() else "is no folder that has"
    raise UserError(
        f"{folder} {what} {COMPARE_FILE} nor config.yaml; give the folder of a comparison or of a run"
    )


def _of_sweep(sweep: Sweep) -> Material:
    table = attempt(partial(sweep_table, sweep))
    members = [_member(cell) for cell in sweep.cells]
    rows = [] if isinstance(table, Missing) else table.rows
    order = {row.name: number for number, row in enumerate(rows)}
    members.sort(key=lambda m: (m.baseline, order.get(m.row, len(order))))
    done, seeds = sum(m.lacking is None for m in members), sweep.comparison.seeds
    tasks = len(sweep.comparison.task_names())
    summary = f"Comparison of {_count(tasks, 'task')} with {_count(seeds, 'seed')} each"
    if done < len(members):
        summary += f", of which {done} of {len(members)} cells are done"
    config = sweep.config
    title = "A comparison of tasks" if isinstance(table, Missing) else table.title
    return Material(sweep.out, title, summary, table, members, config)


_LACKING: Mapping[Status, str | None] = {
    "waiting": "has not begun",
    "unfinished": "has not ended",
    "failed": "failed",
    "done": None,
}


def _member(cell: Cell) -> Member:
    kind: Kind = "raw" if isinstance(cell, RawCell) else "untrained"
    if isinstance(cell, TrainedCell):
        kind = "trained"
    status = attempt(lambda: cell.status)
    lacking = status.reason if isinstance(status, Missing) else _LACKING[status]
    if status == "failed":
        lacking = f"failed: {cell.failure()}"
    return Member(cell.row, cell.seed, Run(cell.path), kind, cell.baseline, lacking)


def _of_run(run: Run) -> Material:
    config = attempt(run.config)
    table = attempt(lambda: tabulate([run.path]))
    title, row, seed = run.path.resolve().name, run.path.resolve().name, 0
    if not isinstance(config, Missing):
        row, seed = config.task.name, config.train.seed
        title = f"{row} on {Path(config.data.source).name}"
    if not isinstance(table, Missing):
        title = f"{row}: {table.title}"
    lacking = table.reason if isinstance(table, Missing) else None
    member = Member(row, seed, run, "trained", lacking=lacking)
    return Material(run.path, title, "One run", table, [member], config)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def figures(table: Table | Missing, value: Callable[[Outcome], float | None]) -> dict[str, list[float]]:
    """A figure of each row that has it, run by run, of those that are done.

    Args:
        table: what is known.
        value: from what is known of a run to the figure; None where there is none.
    """
    if isinstance(table, Missing):
        return {}
    found: dict[str, list[float]] = {row.name: [] for row in table.rows}
    for outcome in table.outcomes:
        if outcome.failure is None and (its := value(outcome)) is not None:
            found[outcome.row].append(its)
    return {row: its for row, its in found.items() if its}


def representative(members: Sequence[Member]) -> Member:
    """The run that stands for its row in pictures: the first that is done and has its network."""
    return min(
        members,
        key=lambda m: (
            m.lacking is not None,
            m.kind == "trained" and not m.run.checkpoints,
        ),
    )


class Studio:
    """Where samples are represented: the data, loaded once, and the device.

    Attributes:
        config: the data and the machine.
        device: where and how to compute.
        data: the samples.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Load the data.

        Raises:
            UserError: the data cannot be had.
        """
        self.config = config
        try:
            self.device = Device.choose(config.train)
        except UserError:  # that of another machine
            here = {"device": "auto", "precision": "auto"}
            self.device = Device.choose(config.train.model_copy(update=here))
        self.data: DataSet = shared_data(config, self.device)

    def subject(self, member: Member) -> tuple[Subject, Task | None]:
        """What a run, or a baseline, makes of the samples, and the task where it is one.

        Raises:
            UserError: it is not done, or it cannot be built any more.
        """
        if member.lacking is not None:
            raise UserError(member.lacking)
        if member.kind == "raw":
            raw = Subject.raw(self.data, self.device)
            if raw is None:
                raise UserError("the raw input makes no sense as features")
            return raw, None
        if member.kind == "untrained":
            train = self.config.train.model_copy(update={"seed": member.seed})
            config = self.config.model_copy(update={"train": train})
            return of_encoder(config, self.data, self.device, member.row), None
        own = self._own(member.run)
        data = build_data(own, self.device.device, self.data)
        task = self.device.place(member.run.load_task(data.spec))
        return Subject.of_task(task, data, self.device, member.row, seed=own.train.seed), task

    def _own(self, run: Run) -> RunConfig:
        """The configuration of a run.

        Raises:
            UserError: it is of other data.
        """
        config = run.config()
        if config.data.source != self.config.data.source:
            raise UserError(f"it was trained on {config.data.source}, not {self.config.data.source}")
        return config
