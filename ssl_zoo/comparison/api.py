"""Comparing, from the request to the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_zoo.comparison.config import load_comparison
from ssl_zoo.comparison.outcomes import run_table, sweep_table
from ssl_zoo.comparison.render import FORMATS
from ssl_zoo.comparison.sweep import FILE, Launcher, Sweep, Watcher, preflight, stoppable, work
from ssl_zoo.comparison.table import Table
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runtime.files import write_atomic


class Unwatched:
    """A watcher who does nothing."""

    def began(self, sweep: Sweep) -> None:
        """Do nothing."""

    def moved(self, sweep: Sweep) -> None:
        """Do nothing."""

    def ended(self, sweep: Sweep, cell: object) -> None:
        """Do nothing."""


def open_sweep(file: str | Path | None = None, out: str | Path | None = None, **given: Any) -> Sweep:
    """A comparison in its folder; nothing is written yet.

    Args:
        file: YAML as in ``configs/compare``.
        out: the folder; None for one under ``runs/`` that is always the same for the same settings.
        given: fields of `ssl_zoo.comparison.Comparison`, which override the file's.

    Raises:
        UserError: anything about them is wrong.
    """
    comparison = load_comparison(file, given)
    return Sweep(comparison, Path(out) if out is not None else comparison.folder())


def compare(
    file: str | Path | None = None,
    *,
    out: str | Path | None = None,
    launcher: Launcher = work,
    watcher: Watcher | None = None,
    **given: Any,
) -> Table:
    """Train and evaluate tasks under one budget, on the same data, backbone and seeds.

    What is done already in the folder is kept, and what is unfinished goes on; so a comparison that
    was stopped or killed is taken up by asking for it again.

    Args:
        file: YAML as in ``configs/compare``.
        out: the folder; None for one under ``runs/`` that is always the same for the same settings.
        launcher: where the cells are worked on; in this process, one after the other, by default.
        watcher: who is told how it goes.
        given: fields of `ssl_zoo.comparison.Comparison`, which override the file's, such as
            ``tasks=["simclr", "byol"], seeds=2, data={"source": "digits"}, train={"epochs": 10}``.

    Returns:
        The table, which is also in the folder, in every format. A task that failed has a row that
        says why.

    Raises:
        UserError: the request is wrong, or another process works in the folder.
        Interrupted: a signal asked to stop.
    """
    return run(open_sweep(file, out, **given), launcher, watcher)


def run(sweep: Sweep, launcher: Launcher = work, watcher: Watcher | None = None) -> Table:
    """Work through what is left of a comparison, and write its table.

    Raises:
        UserError: another process works in the folder, or the data cannot be had.
        Interrupted: a signal asked to stop.
    """
    watcher = watcher or Unwatched()
    with stoppable(sweep):
        if launcher is work:  # elsewhere other machines have the data and the devices
            preflight(sweep)
        with sweep.lock():
            return _work_through(sweep, launcher, watcher)


def _work_through(sweep: Sweep, launcher: Launcher, watcher: Watcher) -> Table:
    """Work through a comparison that no other process works on."""
    sweep.write()
    watcher.began(sweep)
    if sweep.todo():
        launcher(sweep, watcher)
    table = sweep_table(sweep)
    write_table(table, sweep.out)
    return table


def tabulate(
    runs: Sequence[str | Path],
    protocol: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    *,
    mixed: bool = False,
    out: str | Path | None = None,
) -> Table:
    """The table of runs that were made one by one, or of a comparison as far as it has got.

    Args:
        runs: their folders, or the one of a comparison.
        protocol: protocols that all must have been evaluated by; what is missing is evaluated.
        columns: names of columns; None for all that have a figure.
        sort: the column to sort by; None for the first.
        mixed: allow runs that differ in data, backbone or budget, and mark them.
        out: a folder to write the table into, in every format; None to write nothing.

    Raises:
        UserError: one is no finished run, two are the same, or they are not comparable.
    """
    file = Path(runs[0]) / FILE
    if len(runs) == 1 and file_exists(file):
        given = {"columns": columns, "sort": sort}
        table = sweep_table(open_sweep(file, runs[0], **{k: v for k, v in given.items() if v}))
    else:
        table = run_table(runs, protocol, columns, sort, mixed)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_table(table, Path(out))
    return table


def write_table(table: Table, folder: Path) -> None:
    """Write the table into a folder, in every format."""
    for ending, write in FORMATS.items():
        write_atomic(folder / f"table.{ending}", write(table).encode())
