"""The commands for authors of plugins: check, check-source, new-task, new-source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_zoo.cli.options import (
    Backbone,
    Expect,
    ImageSize,
    Json,
    Sets,
    expected_failures,
    flag_names,
    settings_of,
)
from ssl_zoo.errors import UserError

if TYPE_CHECKING:
    from ssl_zoo.testing import Check


NewFolder = Annotated[
    Path | None, typer.Option("-o", "--out", help="Folder to write (default ssl-zoo-NAME).")
]


def check_command(
    name: Annotated[str | None, typer.Argument(help="A task; none with --loss.")] = None,
    loss: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="Check this loss class or function of any library."),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(metavar="SHAPES", help='Inputs of --loss, e.g. "BxD, BxD" (default: found).'),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Check on samples of this data, not on synthetic ones.")
    ] = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    sets: Sets = None,
    expect: Expect = None,
    json: Json = False,
) -> None:
    """Check that a task meets the contract of all tasks, or a loss that of losses; else exit code 1.

    With --loss, --set gives arguments: ssl-zoo check --loss lightly.loss:DCLLoss --set temperature=0.2
    """
    from ssl_zoo import testing

    settings = settings_of(data=data, image_size=image_size, backbone=backbone)
    expected = expected_failures(expect)
    if name is not None and loss is None:
        if inputs is not None:
            raise UserError("--inputs: needs --loss; a task is fed by its own views")
        checks = testing.checks_of(name, settings, sets or (), expected, flags=flag_names())
    elif loss is not None and name is None:
        if settings:
            raise UserError(f"{flag_names()[next(iter(settings))]}: cannot be combined with --loss")
        checks = testing.loss_checks_of(loss, sets or (), inputs, expected)
    else:
        raise UserError("check: give either the name of a task or --loss MODULE:NAME")
    _run(checks, json)


def check_source_command(
    name: Annotated[
        str, typer.Argument(metavar="DATA", help="What --data takes: a source, NAME:REST, or a folder.")
    ],
    image_size: ImageSize = None,
    sets: Sets = None,
    expect: Expect = None,
    json: Json = False,
) -> None:
    """Check that a data source meets the contract of all sources; exit code 1 if it does not."""
    from ssl_zoo import testing

    settings = settings_of(image_size=image_size)
    checks = testing.source_checks_of(
        name, settings, sets or (), expected_failures(expect), flags=flag_names()
    )
    _run(checks, json)


def _run(checks: Sequence[Check], json: bool) -> None:
    """Run checks and print their results; exit with 1 if one of them fails."""
    from ssl_zoo.cli import console
    from ssl_zoo.testing import run_checks

    if not console.print_checks(run_checks(checks), json):
        raise typer.Exit(1)


def new_task_command(
    name: Annotated[str, typer.Argument(help="The task's name, such as colour-guess.")],
    kind: Annotated[
        str, typer.Option(help="Kind to start from: joint-embedding, predictive, masked or text.")
    ] = "joint-embedding",
    out: NewFolder = None,
) -> None:
    """Write a package with a new task that trains at once, and its tests."""
    from ssl_zoo.cli import console
    from ssl_zoo.tools.new_task import new_task

    folder = new_task(name, kind, out)
    console.print_new_package(folder, f"ssl-zoo check {name}", f"ssl-zoo train --task {name}")


def new_source_command(
    name: Annotated[str, typer.Argument(help="The source's name, such as microscope.")],
    kind: Annotated[
        str, typer.Option(help="Kind of source to start from: images, stream or table.")
    ] = "images",
    out: NewFolder = None,
) -> None:
    """Write a package with a new data source, and its tests."""
    from ssl_zoo.cli import console
    from ssl_zoo.tools.new_source import KINDS, new_source

    folder = new_source(name, kind, out)
    console.print_new_package(folder, f"ssl-zoo check-source {name}:{KINDS[kind]}")
