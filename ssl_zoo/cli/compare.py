"""``ssl-zoo compare``. Heavy modules are imported inside the command, so that help is fast."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_zoo.cli.options import (
    MAX_DEVICES,
    Backbone,
    BatchSize,
    ConfigFile,
    Data,
    DeviceName,
    Epochs,
    From,
    Frozen,
    ImageSize,
    Json,
    Launcher,
    LauncherSets,
    Minutes,
    Observe,
    Precision,
    Pretrained,
    Samples,
    Sets,
    names_option,
    settings_of,
    split_names,
)
from ssl_zoo.errors import UserError


def compare_command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...", help="Finished runs, or a folder of records, to tabulate them."
        ),
    ] = None,
    tasks: Annotated[list[str] | None, names_option(help="Tasks, or all.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each task (default 3).")] = None,
    baselines: Annotated[
        list[str] | None, names_option(help="raw, random-init, tasks that use labels; or all.")
    ] = None,
    frozen: Frozen = None,
    protocol: Annotated[
        list[str] | None, names_option(help="Protocols (default knn,linear,health).")
    ] = None,
    data: Data = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    from_: From = None,
    epochs: Epochs = None,
    samples: Samples = None,
    minutes: Minutes = None,
    batch_size: BatchSize = None,
    device: DeviceName = None,
    precision: Precision = None,
    observe: Observe = None,
    config: ConfigFile = None,
    sets: Sets = None,
    columns: Annotated[list[str] | None, names_option(help="Columns of the table.")] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by (default the first).")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder (default: one under runs/, named by the settings).")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder for a record of each run, such as results/NAME.")
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, max=MAX_DEVICES, help="Runs at a time, one on each device.")
    ] = 1,
    launcher: Launcher = None,
    launcher_sets: LauncherSets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command of each run.")] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Tabulate runs that are not comparable, with a mark.")
    ] = False,
    only: Annotated[str | None, typer.Option(metavar="CELL", help="Make this run alone.")] = None,
    json: Json = False,
) -> None:
    """Compare tasks with the same backbone, data, budget and seeds, in one table.

    To continue after a stop, repeat the command. With RUNs, tabulate these runs instead, or the records
    in a folder.
    """
    settings = settings_of(
        data=data,
        image_size=image_size,
        backbone=backbone,
        pretrained=pretrained,
        from_=from_,
        epochs=epochs,
        samples=samples,
        minutes=minutes,
        batch_size=batch_size,
        device=device,
        precision=precision,
        observe=observe,
    )
    lists = {"tasks": tasks, "baselines": baselines, "frozen": frozen, "protocol": protocol}
    lists["columns"] = columns
    names = {name: split_names(texts, f"--{name}") for name, texts in lists.items() if texts}

    from ssl_zoo import comparison
    from ssl_zoo.cli import console
    from ssl_zoo.cli.progress import ComparisonProgress
    from ssl_zoo.config.load import parse_sets
    from ssl_zoo.plugins.registry import registry
    from ssl_zoo.runtime.signals import interrupt_on_signal

    if runs:
        if any(
            (settings, tasks, seeds, baselines, frozen, config, sets, record, only, dry_run, launcher)
        ):
            raise UserError(
                "RUN... tabulates finished runs, and cannot be combined with --tasks or with training "
                "options"
            )
        with interrupt_on_signal(shlex.join(["ssl-zoo", *sys.argv[1:]])):  # scores made so far are kept
            table = comparison.tabulate(
                runs, names.get("protocol", ()), names.get("columns"), sort, mixed=mixed, out=out
            )
        console.print_table(table, out, json)
        return
    fields: dict[str, Any] = {"seeds": seeds, "sort": sort, "protocols": names.pop("protocol", None)}
    fields |= names
    fields["set"] = {**settings, **parse_sets(sets or ())} or None
    for name in ("tasks", "baselines"):
        if names.get(name) == ["all"]:
            fields[name] = "all"
    given = {k: v for k, v in fields.items() if v is not None}
    sweep = comparison.open_sweep(config, out, record=record, **given)
    if dry_run:
        print("\n".join(comparison.commands(sweep, only)))
    elif only is not None:
        comparison.run_cell(sweep, only)
    else:
        run_cells = comparison.launcher(devices, launcher, parse_sets(launcher_sets or ()))
        with (
            closing(ComparisonProgress()) as progress,
            nullcontext() if json else registry.observing(progress),
        ):
            table = comparison.run(sweep, run_cells)
        console.print_table(table, sweep.out, json)
        if table.failed:
            raise typer.Exit(1)
