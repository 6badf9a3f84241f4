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


def estimate_command(
    samples: Annotated[str, typer.Option("--images", help="Number of images, such as 100_000_000.")],
    epochs: Annotated[str, typer.Option(help="Passes over them.")] = "100",
    source: Annotated[str, typer.Option(help="folder, index, shards or cache.")] = "folder",
    nodes: Annotated[str, typer.Option(help="Machines.")] = "1",
    gpus: Annotated[str, typer.Option(help="GPUs in each machine.")] = "8",
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another figure, such as views_per_s=1800."),
    ] = None,
    json: Json = False,
) -> None:
    """Estimate time, memory, disk and network of a long run, and name the bottleneck."""
    from ssl_zoo.cli import console
    from ssl_zoo.config.load import parse_sets
    from ssl_zoo.tools.estimate import estimate, parse

    given = {"samples": samples, "epochs": epochs, "source": source, "nodes": nodes, "gpus": gpus}
    job, cluster = parse(given | {name: str(value) for name, value in parse_sets(sets or ()).items()})
    found = estimate(job, cluster)
    if json:
        console.print_results({**asdict(found), "verdict": found.verdict})
    else:
        console.print_estimate(found)
