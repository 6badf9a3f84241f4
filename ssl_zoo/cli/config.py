"""``ssl-zoo config``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ssl_zoo.cli.options import Json
from ssl_zoo.errors import UserError


def _complete_config(incomplete: str) -> list[str]:
    from ssl_zoo.config.shipped import shipped_configs

    return [name for name in shipped_configs() if name.startswith(incomplete)]


def config_command(
    name: Annotated[
        str | None,
        typer.Argument(help="A configuration, to print it.", autocompletion=_complete_config),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file to write it to, which must be new.")
    ] = None,
    json: Json = False,
) -> None:
    """List the configurations that ship, or print one: ``--config NAME`` reads it too."""
    from ssl_zoo.cli import console
    from ssl_zoo.config.shipped import find_config, shipped_configs

    if name is None:
        if out is not None:
            raise UserError("-o needs the name of a configuration (ssl-zoo config lists them)")
        console.print_configs(shipped_configs(), json)
        return
    try:
        text = find_config(name).read_text(encoding="utf-8")
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if json:
        console.print_json({"name": name, "text": text})
    elif out is None:
        print(text, end="")
    else:
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"-o {out}: cannot be written: {error.strerror}") from error
        print(f"wrote {out}", file=sys.stderr)
