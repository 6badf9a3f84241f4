"""The commands for authors of plugins: check, check-source, new-task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def check_command(
    name: Annotated[str, typer.Argument(help="A task.")],
    data: Annotated[
        str | None, typer.Option(help="Check on samples of this data, not on synthetic ones.")
    ] = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    sets: Sets = None,
    expect: Expect = None,
    json: Json = False,
) -> None:
    """Check that a task meets the contract of all tasks; exit code 1 if it does not."""
    from ssl_zoo import testing
    from ssl_zoo.cli import console

    settings = settings_of(data=data, image_size=image_size, backbone=backbone)
    checks = testing.checks_of(name, settings, sets or (), expected_failures(expect), flags=flag_names())
    if not console.print_checks(testing.run_checks(checks), json):
        raise typer.Exit(1)


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
    from ssl_zoo.cli import console

    settings = settings_of(image_size=image_size)
    checks = testing.source_checks_of(
        name, settings, sets or (), expected_failures(expect), flags=flag_names()
    )
    if not console.print_checks(testing.run_checks(checks), json):
        raise typer.Exit(1)


def new_task_command(
    name: Annotated[str, typer.Argument(help="The task's name, such as colour-guess.")],
    kind: Annotated[
        str, typer.Option(help="Kind of task to start from: joint-embedding, predictive or masked.")
    ] = "joint-embedding",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to write (default ssl-zoo-NAME).")
    ] = None,
) -> None:
    """Write a package with a new task that trains at once, and its tests."""
    from ssl_zoo.cli import console
    from ssl_zoo.tools.new_task import new_task

    console.print_new_task(name, new_task(name, kind, out))
