"""Working through the cells of a comparison, and showing how far it has got."""

from __future__ import annotations

import os
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ssl_zoo.comparison.cells import Cell, cells, shared_data
from ssl_zoo.comparison.config import Comparison
from ssl_zoo.errors import Interrupted, SslZooError, Unwritable, UserError
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.build import build_encoder
from ssl_zoo.runtime import signals
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import file_lock, write_atomic
from ssl_zoo.training import RunSummary

FILE = "compare.yaml"
"""The comparison's own file, in its folder."""


class Watcher(Protocol):
    """Who is told how a comparison goes: a progress display, or nobody."""

    def began(self, sweep: Sweep) -> None:
        """It begins, or goes on."""

    def moved(self, sweep: Sweep) -> None:
        """Something has got further, or the time has come to look again."""

    def ended(self, sweep: Sweep, cell: Cell) -> None:
        """A cell is done, or has failed."""


class Sweep:
    """A comparison in its folder, and how far its cells have got.

    Attributes:
        comparison: what is compared.
        out: the folder.
        cells: all cells, in order.
        progress: the share that is done of the cells that are being worked on, by name.
    """

    def __init__(self, comparison: Comparison, out: Path) -> None:
        self.comparison = comparison
        self.out = out
        self.cells = cells(comparison, out)
        self.progress: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def todo(self) -> list[Cell]:
        """The cells that are not done; those that failed are tried again."""
        return [cell for cell in self.cells if cell.status != "done"]

    def write(self) -> None:
        """Write the comparison's own file.

        Raises:
            UserError: it cannot be written, or a cell in the folder was made with other settings.
        """
        for cell in self.cells:
            cell.check()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomic(self.out / FILE, self.comparison.dump().encode())
        except (OSError, SslZooError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--out {self.out}: cannot be made: {reason}") from error

    def command(self, cell: Cell | None = None) -> list[str]:
        """The arguments of ``ssl-zoo`` that go on with the whole, or do one cell and nothing else."""
        only = ["--only", cell.name] if cell is not None else []
        return [
            *registry.arguments(),
            "compare",
            "--config",
            f"{self.out / FILE}",
            "--out",
            f"{self.out}",
            *only,
        ]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep another process from working through the same folder.

        Raises:
            UserError: one does.
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

    def begin(self, cell: Cell) -> None:
        """A cell is being worked on from now on."""
        self.progress[cell.name] = 0.0
        self._began[cell.name] = time.monotonic()

    def end(self, cell: Cell) -> None:
        """A cell is no longer worked on."""
        self.progress.pop(cell.name, None)
        self._began.pop(cell.name, None)

    def seconds_left(self, at_once: int = 1) -> float | None:
        """An estimate of the time that is left; None before anything is known.

        A cell takes as long as the others of its row did, else as the other trained, or untrained,
        cells on average; one that is being worked on tells by how far it has got.

        Args:
            at_once: how many cells are worked on at the same time.
        """
        took: dict[str, list[float]] = {}
        for cell in self.cells:
            if (seconds := cell.results().get("cell", {}).get("seconds")) is not None:
                took.setdefault(cell.row, []).append(seconds)
        for cell in self.cells:
            share = self.progress.get(cell.name, 0.0)
            if share > 0.05 and cell.row not in took:
                took[cell.row] = [(time.monotonic() - self._began[cell.name]) / share]
        left = 0.0
        for cell in self.todo():
            known = took.get(cell.row) or self._alike(cell, took)
            if not known:
                return None
            left += statistics.mean(known) * (1 - self.progress.get(cell.name, 0.0))
        return left / at_once

    def _alike(self, cell: Cell, took: Mapping[str, Sequence[float]]) -> list[float]:
        """The times of cells of the same kind."""
        rows = {other.row for other in self.cells if type(other) is type(cell)}
        return [seconds for row in rows for seconds in took.get(row, ())]


class CellObserver:
    """An observer of a cell's run that passes its progress on to the watcher of the comparison."""

    def __init__(self, sweep: Sweep, cell: Cell, watcher: Watcher) -> None:
        self.sweep, self.cell, self.watcher = sweep, cell, watcher
        self._notified = 0.0

    @hookimpl
    def ssl_zoo_run_started(self, summary: RunSummary) -> None:
        """Pass on the progress of a run that begins or is resumed."""
        self._move(summary.progress)

    @hookimpl
    def ssl_zoo_step_logged(self, metrics: Mapping[str, float]) -> None:
        """Pass on the progress after a step."""
        self._move(metrics["progress"])

    def _move(self, progress: float) -> None:
        """Record the progress, and call the watcher at most once a second."""
        self.sweep.progress[self.cell.name] = progress
        if time.monotonic() - self._notified >= 1:
            self._notified = time.monotonic()
            self.watcher.moved(self.sweep)


def preflight(sweep: Sweep) -> None:
    """Load the data and build the backbone once, as what ails them ails all cells.

    Raises:
        UserError: the device, the data or the backbone cannot be had.
    """
    config = sweep.comparison.encoder_config(0)
    data = shared_data(config, Device.choose(config.train))
    build_encoder(config.backbone, data.spec, 0)


@contextmanager
def stoppable(sweep: Sweep, cell: Cell | None = None) -> Iterator[None]:
    """Within, a signal that asks to stop ends the work on a comparison, or on one cell of it.

    Raises:
        Interrupted: one came; it says how to go on.
        Unwritable: the disk takes no more; likewise.
    """
    again = shlex.join(["ssl-zoo", *sweep.command(cell)])
    try:
        with signals.interrupt_on_signal(again):
            yield
    except Interrupted as error:  # of a cell, it would say how the cell alone goes on
        raise Interrupted(error.signal_number, again) from error
    except Unwritable as error:
        raise Unwritable(error.what, again) from error


def work(sweep: Sweep, watcher: Watcher) -> None:
    """Work through all cells in this process."""
    for cell in sweep.todo():
        sweep.begin(cell)
        watcher.moved(sweep)
        try:
            with registry.observing(CellObserver(sweep, cell, watcher)):
                cell.run()
        finally:
            sweep.end(cell)
        watcher.ended(sweep, cell)


Launcher = Callable[[Sweep, Watcher], None]
"""Works through the cells of a comparison, wherever that may be."""


def only(sweep: Sweep, name: str) -> None:
    """Do one cell, as other machines are told to.

    Raises:
        UserError: there is no such cell.
        SslZooError: it failed.
    """
    known = {cell.name: cell for cell in sweep.cells}
    if name not in known:
        raise UserError(f"--only {name}: there is no such cell; there are: {', '.join(known)}")
    known[name].check()
    with stoppable(sweep, known[name]):
        known[name].run()
    if (reason := known[name].failure()) is not None:
        raise SslZooError(f"{name}: {reason}")


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
