"""Options that several commands share, and the settings that they set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_zoo.errors import UserError
from ssl_zoo.sizes import parse_size

if TYPE_CHECKING:
    from ssl_zoo.config.schema import RunConfig

FLAGS = {
    "task": "task.name",
    "data": "data.source",
    "image_size": "data.image_size",
    "backbone": "backbone.name",
    "pretrained": "backbone.pretrained",
    "from_": "backbone.weights",
    "epochs": "train.epochs",
    "samples": "train.samples",
    "minutes": "train.minutes",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "precision": "train.precision",
    "device": "train.device",
    "tune": "train.tune",
    "deterministic": "train.deterministic",
    "seed": "train.seed",
    "knn_every": "train.knn_every",
    "observe": "train.observers",
}
"""The dotted path of the setting of each flag."""


NAMES_METAVAR = "NAME,NAME"


def names_option(*names: str, help: str) -> Any:
    """Return an option that takes names separated by commas, and may be repeated."""
    return typer.Option(*names, metavar=NAMES_METAVAR, help=help)


Frozen = Annotated[
    list[str] | None,
    names_option(help="Further trained networks to score as they are: timm:NAME, runs, or files."),
]

MAX_DEVICES = max(16, os.cpu_count() or 1)
"""The maximum number of processes on one machine; more than it has processors would stall it."""


def _complete_task(incomplete: str) -> list[str]:
    """Return the names of tasks with this beginning, for the completion of a shell."""
    from ssl_zoo.plugins.registry import registry

    return [name for name in registry.tasks() if name.startswith(incomplete)]


TaskName = Annotated[
    str | None,
    typer.Option("--task", help="Name of a task (ssl-zoo tasks).", autocompletion=_complete_task),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        help="digits, fashion-mnist, cifar10, …, timm:NAME, hf:NAME; a folder, a glob, or a list of "
        "files (.txt, .csv, .parquet); may be repeated."
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE|HEIGHTxWIDTH", help="Size of the network's input, in pixels, such as 64 or 32x64."
    ),
]
Backbone = Annotated[str | None, typer.Option(help="Any timm model (default resnet10_narrow).")]
Pretrained = Annotated[bool | None, typer.Option("--pretrained", help="Use timm's pretrained weights.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN|FILE",
        help="Start from the weights of a run, a backbone.safetensors, or another tool's checkpoint.",
    ),
]
Epochs = Annotated[float | None, typer.Option(help="Budget in epochs (default 100).")]
Samples = Annotated[
    int | None, typer.Option("--samples", "--images", help="Budget in samples drawn, such as images.")
]
Minutes = Annotated[float | None, typer.Option(help="Budget in minutes.")]
BatchSize = Annotated[int | None, typer.Option(help="Samples in a batch, over all processes.")]
EvalBatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Samples at a time (default: follows training, memory)."),
]
Observe = Annotated[
    list[str] | None, names_option(help="Observers on request: tensorboard, wandb, mlflow, …")
]
StandardProtocols = Annotated[
    list[str] | None,
    names_option("--protocol", help="Protocols (default knn,linear,health, and those for such data)."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of all randomness.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, mps, …")]
Devices = Annotated[int, typer.Option(min=1, max=MAX_DEVICES, help="Processes, one on each device.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")]
Tune = Annotated[
    bool | None,
    typer.Option("--tune/--no-tune", help="Find the fastest settings before a run (default: yes)."),
]
Deterministic = Annotated[
    bool | None,
    typer.Option("--deterministic", help="Refuse nondeterministic operations; implies --no-tune."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file or name (ssl-zoo config); flags override it."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, e.g. task.temperature=0.1."),
]
Expect = Annotated[
    list[str] | None,
    typer.Option(metavar="CHECK=REASON", help="A check that fails for a good reason."),
]
Launcher = Annotated[
    str | None,
    typer.Option(help="slurm: submit as a job, or jobs; local: the same on this machine."),
]
LauncherSets = Annotated[
    list[str] | None,
    typer.Option("--launcher-set", metavar="KEY=VALUE", help="For submitit, e.g. timeout_min=60."),
]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]


def settings_of(**flags: Any) -> dict[str, Any]:
    """Return the settings of the flags that are not None, by dotted path.

    Args:
        flags: values by the names in `FLAGS`.

    Raises:
        UserError: there are no such weights; found before data are loaded.
    """
    if flags.get("from_") is not None:
        from ssl_zoo.config.weights import read_header

        read_header(flags["from_"], "--from")
    with contextlib.suppress(ValueError):  # not set; or wrong, as the configuration says
        flags["image_size"] = parse_size(flags.get("image_size"))
    flags["data"] = one_or_several(flags.get("data"))
    settings = {FLAGS[name]: value for name, value in flags.items() if value is not None}
    if "train.observers" in settings:
        settings["train.observers"] = split_names(settings["train.observers"], "--observe")
    return settings


def one_or_several(data: str | list[str] | None) -> str | list[str] | None:
    """Return the values of ``--data`` as ``data.source``: one as it is; None for none."""
    from ssl_zoo.config.source_names import plain_source

    return plain_source(data) if data else data


def expected_failures(expect: Iterable[str] | None) -> dict[str, str]:
    """Return the reasons of the flags ``--expect CHECK=REASON``, by check."""
    parts = (text.partition("=") for text in expect or ())
    return {check.strip(): reason for check, _, reason in parts}


def split_names(texts: Iterable[str] | None, option: str) -> list[str]:
    """Return the names in comma-separated lists.

    Args:
        texts: the values of an option.
        option: the option, for messages.

    Raises:
        UserError: names are separated by spaces.
    """
    names = [name.strip() for text in texts or () for name in text.split(",") if name.strip()]
    for name in names:
        if len(name.split()) > 1:
            raise UserError(
                f"{option} {name!r}: names are separated by commas: {','.join(name.split())}"
            )
    return names


def load_run_config(file: Path | None, settings: Mapping[str, Any], sets: list[str] | None) -> RunConfig:
    """Return the configuration of ``--config``, flags and ``--set``; errors name the flag."""
    from ssl_zoo.config.load import load_config

    return load_config(file, settings, sets or (), flags=flag_names())


def flag_names() -> dict[str, str]:
    """Return the flag of each setting, by dotted path, for error messages."""
    return {path: f"--{name.strip('_').replace('_', '-')}" for name, path in FLAGS.items()}
