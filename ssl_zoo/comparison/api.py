"""A whole comparison: from the request to the table in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_zoo.comparison.load import load_comparison
from ssl_zoo.comparison.outcomes import record_table, run_table, sweep_table
from ssl_zoo.comparison.records import has_records
from ssl_zoo.comparison.render import FORMATS
from ssl_zoo.comparison.sweep import (
    COMPARE_FILE,
    Launcher,
    Sweep,
    interruptible,
    preflight,
    run_here,
)
from ssl_zoo.comparison.table import Table
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import make_output_folder, write_atomic


def open_sweep(
    file: str | Path | None = None,
    out: str | Path | None = None,
    *,
    record: str | Path | None = None,
    **settings: Any,
) -> Sweep:
    """Open a comparison in its folder, without writing anything yet.

    Args:
        file: a YAML file as in ``configs/compare``.
        out: the folder; None for one under ``runs/`` whose name follows from the settings.
        record: the folder into which the record of each cell is written as it ends; None for none.
        settings: fields of `ssl_zoo.comparison.Comparison`, which override those of the file.

    Raises:
        UserError: the settings are invalid.
    """
    comparison = load_comparison(file, settings)
    folder = Path(out) if out is not None else comparison.default_folder()
    return Sweep(comparison, folder, Path(record) if record is not None else None)


def compare(
    file: str | Path | None = None,
    *,
    out: str | Path | None = None,
    record: str | Path | None = None,
    launcher: Launcher = run_here,
    **settings: Any,
) -> Table:
    """Train and evaluate tasks under one budget, on the same data, backbone and seeds.

    Finished cells in the folder are kept and unfinished ones resumed: to resume a comparison that
    was stopped or killed, call this again.

    Args:
        file: a YAML file as in ``configs/compare``.
        out: the folder; None for one under ``runs/`` whose name follows from the settings.
        record: the folder into which the record of each cell is written as it ends; None for none.
        launcher: works through the cells; by default in this process, one after the other.
        settings: fields of `ssl_zoo.comparison.Comparison`, which override those of the file, such as
            ``tasks=["simclr", "byol"], seeds=2, data={"source": "digits"}, train={"epochs": 10}``.

    Returns:
        The table, which is also written into the folder in every format. The row of a task that
        failed has a note with the reason.

    Raises:
        UserError: the request is invalid, or another process works in the folder.
        Interrupted: a signal asked to stop.
    """
    return run(open_sweep(file, out, record=record, **settings), launcher)


@torch_defaults()
def run(sweep: Sweep, launcher: Launcher = run_here) -> Table:
    """Work through the remaining cells of a comparison, and write its table.

    Observers, such as a progress display, are registered with `PluginRegistry.observing`.

    Raises:
        UserError: another process works in the folder, or the data is not available.
        Interrupted: a signal asked to stop.
    """
    sweep.comparison.report_left_out()
    if launcher is run_here:  # other machines may have data and devices that this one lacks
        preflight(sweep)
    with sweep.lock():
        sweep.write()
        with interruptible(sweep):
            sweep.notify("ssl_zoo_comparison_started", sweep=sweep)
            for cell in sweep.cells:  # those of an earlier call
                sweep.write_record(cell)
            if sweep.todo():
                launcher(sweep)
            table = sweep_table(sweep)
            write_table(table, sweep.out)
            return table


@torch_defaults()
def tabulate(
    runs: Sequence[str | Path],
    protocol: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    *,
    mixed: bool = False,
    out: str | Path | None = None,
) -> Table:
    """Return the table of separate runs, of a comparison that need not be finished, or of records.

    Args:
        runs: the folders of the runs, or that of one comparison or of its records.
        protocol: protocols that every run needs scores of; those missing are evaluated.
        columns: names of columns; None for all that have a figure.
        sort: the column to sort by; None for the first.
        mixed: allow runs that differ in data, backbone or budget, and mark them.
        out: a folder to write the table into, in every format; None to write nothing.

    Raises:
        UserError: a run is not finished, two runs are the same, they are not comparable, or `out`
            cannot be written into.
    """
    if out is not None:
        make_output_folder("--out", Path(out))
    file = Path(runs[0]) / COMPARE_FILE
    if len(runs) == 1 and file_exists(file):
        overrides: dict[str, Any] = {name: v for name, v in (("columns", columns), ("sort", sort)) if v}
        table = sweep_table(open_sweep(file, runs[0], **overrides))
    elif len(runs) == 1 and has_records(Path(runs[0])):
        table = record_table(Path(runs[0]), columns, sort)
    else:
        table = run_table(runs, protocol, columns, sort, mixed)
    if out is not None:
        write_table(table, Path(out))
    return table


def write_table(table: Table, folder: Path) -> None:
    """Write the table into a folder, in every format."""
    for extension, write in FORMATS.items():
        write_atomic(folder / f"table.{extension}", write(table).encode())
