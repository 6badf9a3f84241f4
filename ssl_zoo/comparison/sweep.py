"""The work on the cells of a comparison, with its progress reported to observers."""

from __future__ import annotations

import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.comparison.cells import Cell, UntrainedCell, shared_data
from ssl_zoo.comparison.config import Comparison, current_row
from ssl_zoo.comparison.networks import own_backbones
from ssl_zoo.comparison.records import check_records, write_record
from ssl_zoo.comparison.rows import make_cells
from ssl_zoo.errors import Interrupted, SslZooError, Unwritable, UserError
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runtime import signals
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import file_lock, make_output_folder, write_atomic
from ssl_zoo.training import RunSummary

COMPARE_FILE = "compare.yaml"
"""The name of the file with the settings of a comparison, in its folder."""


class Sweep:
    """A comparison in its folder, and the progress of its cells.

    Attributes:
        comparison: the settings.
        out: the folder.
        config: the configuration that all cells have in common.
        cells: all cells, in the order of work.
        record: the folder of the records of the cells; None for none.
        progress: by name of each cell being worked on, the share in [0, 1] that is done.
        resume_command: the arguments of ``ssl-zoo`` that resume the work, if they are not `command`.
    """

    def __init__(self, comparison: Comparison, out: Path, record: Path | None = None) -> None:
        self.comparison = comparison
        self.out = out
        self.record = record
        self.config = comparison.encoder_config(0)
        self.cells = make_cells(comparison, out)
        self.progress: dict[str, float] = {}
        self.resume_command: Sequence[str] | None = None
        self._started: dict[str, float] = {}

    def todo(self) -> list[Cell]:
        """Return the cells that are not done, failed ones included."""
        return [cell for cell in self.cells if cell.status != "done"]

    def write(self) -> None:
        """Write the settings into the folder.

        Raises:
            UserError: they cannot be written, or a cell in the folder, or a record, was made with
                other settings.
        """
        for cell in self.cells:
            cell.check()
        if self.record is not None:
            make_output_folder("--record", self.record)
            check_records(self.record, self.cells)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomic(self.out / COMPARE_FILE, self.comparison.to_yaml().encode())
        except (OSError, SslZooError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--out {self.out}: cannot be made: {reason}") from error

    def command(self, cell: Cell | None = None) -> list[str]:
        """Return the arguments of ``ssl-zoo`` that resume the comparison, or do one cell only."""
        only = ["--only", cell.name] if cell is not None else []
        file = str(self.out / COMPARE_FILE)
        record = ["--record", str(self.record)] if self.record is not None else []
        out = ["--out", str(self.out)]
        return [*registry.arguments(), "compare", "--config", file, *out, *record, *only]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an exclusive lock on the folder.

        Raises:
            UserError: another process holds it, or the folder cannot be made.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {self.out}: cannot be made: {error.strerror}") from error
        try:
            with file_lock(self.out / ".lock", wait=False):
                yield
        except BlockingIOError:
            raise UserError(f"{self.out}: another process works on this comparison") from None

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call a hook of the observers."""
        registry.notify(hook, self.config.train.observers, **arguments)

    def begin(self, cell: Cell) -> None:
        """Record that work on a cell begins."""
        self._started[cell.name] = time.monotonic()
        self.advance(cell, 0.0)

    def advance(self, cell: Cell, progress: float) -> None:
        """Record the share in [0, 1] of a cell that is done."""
        self.progress[cell.name] = progress
        self.notify("ssl_zoo_cell_progressed", sweep=self, cell=cell)

    def end(self, cell: Cell) -> None:
        """Record that work on a cell has ended, and its results."""
        self.progress.pop(cell.name, None)
        self._started.pop(cell.name, None)
        self.write_record(cell)
        self.notify("ssl_zoo_cell_ended", sweep=self, cell=cell)

    def write_record(self, cell: Cell) -> None:
        """Write the record of a cell that is done or has failed, if records are asked for.

        Raises:
            Unwritable: it cannot be written.
        """
        if self.record is not None and cell.status in ("done", "failed"):
            write_record(self.record, cell)

    def seconds_left(self, at_once: int = 1) -> float | None:
        """Return an estimate of the remaining seconds; None if there is nothing to base it on.

        A cell is expected to take as long as the finished cells of its row did on average; without
        any, as long as those of its kind (trained or not). The duration of a cell being worked on
        follows from its progress.

        Args:
            at_once: the number of cells worked on at the same time.
        """
        durations: dict[str, list[float]] = {}
        for cell in self.cells:
            if (seconds := cell.results().get("cell", {}).get("seconds")) is not None:
                durations.setdefault(cell.row, []).append(seconds)
        for cell in self.cells:
            share = self.progress.get(cell.name, 0.0)
            if share > 0.05 and cell.row not in durations:
                durations[cell.row] = [(time.monotonic() - self._started[cell.name]) / share]
        left = 0.0
        for cell in self.todo():
            similar = durations.get(cell.row) or self._durations_of_kind(cell, durations)
            if not similar:
                return None
            left += statistics.mean(similar) * (1 - self.progress.get(cell.name, 0.0))
        return left / at_once

    def _durations_of_kind(self, cell: Cell, durations: Mapping[str, Sequence[float]]) -> list[float]:
        rows = {other.row for other in self.cells if type(other) is type(cell)}
        return [seconds for row in rows for seconds in durations.get(row, ())]


class CellProgress:
    """An observer of a cell's run in this process that passes its progress on to the sweep."""

    def __init__(self, sweep: Sweep, cell: Cell) -> None:
        self.sweep, self.cell = sweep, cell

    @hookimpl
    def ssl_zoo_run_started(self, summary: RunSummary) -> None:
        """Pass on the progress of a run that starts or resumes."""
        self.sweep.advance(self.cell, summary.progress)

    @hookimpl
    def ssl_zoo_step_logged(self, metrics: Mapping[str, float]) -> None:
        """Pass on the progress of the run."""
        self.sweep.advance(self.cell, metrics["progress"])


def preflight(sweep: Sweep) -> None:
    """Load the data and build each backbone once, as an error in them would fail every cell.

    Raises:
        UserError: the device, the data or the backbone is not available, or the data is not what the
            tasks that are named take.
    """
    comparison = sweep.comparison
    modality = comparison.modality
    data = shared_data(sweep.config, Device.choose(sweep.config.train), modality)
    if comparison.tasks != "all" and data.spec.modality != modality:
        raise UserError(
            f"data.source: {sweep.config.data.source_text!r} has {data.spec.modality} data, and the "
            f"tasks take {modality} data ({', '.join(comparison.task_names())}); choose other --data"
        )
    frozen = [c for c in sweep.cells if isinstance(c, UntrainedCell) and c.frozen is not None]
    own = [cell.config.backbone for cell in frozen if cell.status != "done"]
    for backbone in (sweep.config.backbone, *own_backbones(comparison).values(), *own):
        build_encoder(backbone, data.spec, 0)


@contextmanager
def interruptible(sweep: Sweep, cell: Cell | None = None) -> Iterator[None]:
    """Temporarily let stop signals interrupt the work on a comparison, or on one cell of it.

    Raises:
        Interrupted: a signal came; the message has the command that resumes the comparison.
        Unwritable: the disk is full or read-only; likewise.
    """
    resume = shlex.join(["ssl-zoo", *(sweep.resume_command or sweep.command(cell))])
    try:
        with signals.interrupt_on_signal(resume):
            yield
    except Interrupted as error:  # raised by a run, it would name the command that resumes the run
        raise Interrupted(error.signal_number, resume) from error
    except Unwritable as error:
        raise error.with_resume(resume) from error


def run_here(sweep: Sweep) -> None:
    """Work through all cells in this process, one after the other."""
    for cell in sweep.todo():
        sweep.begin(cell)
        with registry.observing(CellProgress(sweep, cell)):
            cell.run()
        sweep.end(cell)


Launcher = Callable[[Sweep], None]
"""Works through the cells of a comparison, in this process or elsewhere."""


def named_cell(sweep: Sweep, name: str) -> Cell:
    """Return a cell by its name.

    Raises:
        UserError: there is no such cell.
    """
    cells = {cell.name: cell for cell in sweep.cells}
    cell = cells.get(current_row(name))
    if cell is None:
        raise UserError(f"--only {name}: there is no such cell; there are: {', '.join(cells)}")
    return cell


@torch_defaults()
def run_cell(sweep: Sweep, name: str) -> None:
    """Do one cell and nothing else, for ``--only``.

    Raises:
        UserError: there is no such cell.
        SslZooError: it failed.
    """
    cell = named_cell(sweep, name)
    cell.check()
    if sweep.record is not None:
        make_output_folder("--record", sweep.record)
        check_records(sweep.record, [cell])
    with interruptible(sweep, cell):
        cell.run()
        sweep.write_record(cell)
    if (reason := cell.failure()) is not None:
        raise SslZooError(f"{name}: {reason}")
