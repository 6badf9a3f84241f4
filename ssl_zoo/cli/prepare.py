"""The commands that prepare large data: index and shard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ssl_zoo.cli.options import Json, Sets, flag_names, one_or_several

Images = Annotated[
    list[str], typer.Option("--data", help="Folder, glob or list of images; may be repeated.")
]


def index_command(
    data: Images,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write, new or empty.")],
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Write a list of image files, with classes and splits, that processes share; --data takes it."""
    from ssl_zoo.cli import console
    from ssl_zoo.tools.index import index

    source = one_or_several(data)
    assert source is not None
    written = index(source, out, sets or (), flags=flag_names())
    if json:
        console.print_results(asdict(written))
    else:
        console.print_prepared(written.folder, written.samples, written.classes)


def shard_command(
    data: Images,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write, new or empty.")],
    megabytes: Annotated[float, typer.Option(min=0.001, help="Size of a shard, in 10⁶ bytes.")] = 500.0,
    seed: Annotated[int, typer.Option(help="Seed of the order of the samples.")] = 0,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Write image files as tar archives in the layout of WebDataset, shuffled; --data takes them."""
    from ssl_zoo.cli import console
    from ssl_zoo.tools.shard import shard

    source = one_or_several(data)
    assert source is not None
    written = shard(source, out, sets or (), megabytes=megabytes, seed=seed, flags=flag_names())
    if json:
        console.print_results(asdict(written))
    else:
        console.print_prepared(written.folder, written.samples, written.classes)
