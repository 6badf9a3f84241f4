"""The command line. Heavy modules are imported inside the commands, so that help is quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_zoo.errors import SslZooError, UserError

app = typer.Typer(
    help="A zoo of self-supervised pretext tasks in which every task is a plugin.",
    epilog="--debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

FLAGS = {
    "task": "task.name",
    "data": "data.source",
    "image_size": "data.image_size",
    "backbone": "backbone.name",
    "pretrained": "backbone.pretrained",
    "epochs": "train.epochs",
    "images": "train.images",
    "minutes": "train.minutes",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "precision": "train.precision",
    "device": "train.device",
    "seed": "train.seed",
    "knn_every": "train.knn_every",
}
"""Which field of the configuration a flag sets."""

TaskName = Annotated[str | None, typer.Option("--task", help="Name of a task (ssl-zoo tasks).")]
Data = Annotated[
    str | None,
    typer.Option(help="digits, fashion-mnist, cifar10, …, a folder, timm:NAME or hf:NAME."),
]
ImageSize = Annotated[int | None, typer.Option(help="Side of the network's input, in pixels.")]
Backbone = Annotated[str | None, typer.Option(help="Any timm model.")]
BatchSize = Annotated[int | None, typer.Option(help="Images in a batch, over all processes.")]
Seed = Annotated[int | None, typer.Option(help="All randomness follows from it.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, mps, …")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings; flags override it.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, e.g. task.temperature=0.1."),
]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]


@app.callback()
def _global(
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file with a plugin that is not installed.")
    ] = None,
    no_plugin: Annotated[
        list[str] | None, typer.Option(help="Plugin or distribution to leave out.")
    ] = None,
) -> None:
    from ssl_zoo import plugins

    plugins.disable(no_plugin or ())
    for file in plugin or ():
        plugins.load_file(file)


@app.command()
def train(
    task: TaskName = None,
    data: Data = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    pretrained: Annotated[
        bool | None, typer.Option("--pretrained", help="Start from timm's pretrained weights.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Budget in epochs (default 100).")] = None,
    images: Annotated[int | None, typer.Option(help="Budget in images drawn.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes.")] = None,
    batch_size: BatchSize = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, see train.lr_scaling.")] = None,
    precision: Precision = None,
    device: DeviceName = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes, one on each device.")] = 1,
    seed: Seed = None,
    knn_every: Annotated[float | None, typer.Option(help="Epochs between evaluations.")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (default under runs/).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run directory to go on with.")] = None,
    json: Json = False,
) -> None:
    """Train a task without labels, then compare its features with raw pixels and no training."""
    given = {
        "task": task,
        "data": data,
        "image_size": image_size,
        "backbone": backbone,
        "pretrained": pretrained,
        "epochs": epochs,
        "images": images,
        "minutes": minutes,
        "batch_size": batch_size,
        "lr": lr,
        "precision": precision,
        "device": device,
        "seed": seed,
        "knn_every": knn_every,
    }
    settings = {FLAGS[flag]: value for flag, value in given.items() if value is not None}
    resolved = None
    if resume is None:
        resolved = _configuration(config, settings, sets)
    elif settings or config or sets or out:
        raise UserError("--resume goes on with the run's own settings; give no others")
    if devices > 1 and "WORLD_SIZE" not in os.environ:
        _start_processes(devices)

    from ssl_zoo import console
    from ssl_zoo.train import train

    reporter = console.TrainingReporter()
    try:
        run = train(resolved, out=out, resume=resume, reporter=None if json else reporter)
    finally:
        reporter.stop()
    if json and int(os.environ.get("RANK", "0")) == 0:
        console.print_json({"run": str(run.path), **run.results()})


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    protocol: Annotated[str, typer.Option(help="Comma-separated protocols.")] = "knn,linear",
    json: Json = False,
) -> None:
    """Evaluate the frozen features of a run beside raw pixels and the untrained network."""
    from ssl_zoo import console
    from ssl_zoo.evaluate import evaluate

    rows = evaluate(run, [p.strip() for p in protocol.split(",")])
    if json:
        console.print_json({"run": str(run), "scores": rows})
    else:
        console.out.print(console.scores_table(rows, f"frozen features of {run}"))


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="A task, to show its options.")] = None,
    json: Json = False,
) -> None:
    """List the tasks, or show one task's options with their defaults."""
    from rich.table import Table

    from ssl_zoo import console, plugins

    if name is not None:
        _show_task(name, json)
        return
    entries = plugins.tasks()
    if json:
        listed = [
            {"name": e.name, "summary": e.summary, "paper": e.paper,
             "distribution": e.distribution, "version": e.version}
            for e in entries.values()
        ]  # fmt: skip
        console.print_json(listed)
        return
    if not entries:
        console.out.print("There are no tasks: no installed distribution brings any.")
        return
    table = Table("task", "what it does", "from")
    for entry in entries.values():
        table.add_row(entry.name, entry.summary, f"{entry.distribution} {entry.version}")
    console.out.print(table)


@app.command()
def plugins(json: Json = False) -> None:
    """List every plugin with its distribution, what it contributes, and what is wrong with it."""
    from rich.table import Table

    from ssl_zoo import console, plugins

    entries = plugins.plugins()
    if json:
        from dataclasses import asdict

        console.print_json([asdict(entry) for entry in entries])
        return
    table = Table("plugin", "distribution", "contributes", "fault")
    for entry in entries:
        origin = f"{entry.distribution} {entry.version}"
        table.add_row(entry.name, origin, entry.contributes, entry.fault or "")
    console.out.print(table)


@app.command()
def views(
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG file to write.")],
    task: TaskName = None,
    data: Data = None,
    image_size: ImageSize = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    run: Annotated[
        Path | None, typer.Option(help="A trained run, whose reconstructions are drawn too.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=64, help="Number of images.")] = 8,
) -> None:
    """Draw what a task feeds its network."""
    from ssl_zoo import console
    from ssl_zoo.gallery import picture

    resolved = None
    if run is None:
        given = {"task": task, "data": data, "image_size": image_size, "seed": seed}
        settings = {FLAGS[flag]: value for flag, value in given.items() if value is not None}
        resolved = _configuration(config, settings, sets)
    picture(resolved, run, rows).save(out)
    console.err.print(f"wrote {out}")


def _configuration(file: Path | None, settings: dict[str, Any], sets: list[str] | None) -> Any:
    from ssl_zoo.settings import load_config

    return load_config(file, settings, sets or ())


def _show_task(name: str, json: bool) -> None:
    from rich.table import Table

    from ssl_zoo import console, plugins

    cls = plugins.load_task(name)
    fields = cls.Options.model_fields
    if json:
        schema = cls.Options.model_json_schema()
        console.print_json(
            {"name": name, "paper": cls.paper, "recipe": dict(cls.recipe), "options": schema}
        )
        return
    console.out.print(f"[bold]{name}[/]: {(cls.__doc__ or '').strip().splitlines()[0]}")
    console.out.print(cls.paper)
    table = Table("option", "default", "what it is", title="--set task.OPTION=VALUE")
    for option, field in fields.items():
        limits = ", ".join(map(str, field.metadata))
        what = f"{field.description or ''} {f'({limits})' if limits else ''}"
        table.add_row(option, str(field.default), what)
    console.out.print(table)
    for key, value in cls.recipe.items():
        console.out.print(f"  train.{key}={value}")


def _start_processes(number: int) -> None:
    """Start this command again in so many processes, and never return."""
    arguments = sys.argv[1:]
    for i, argument in enumerate(arguments):
        if argument == "--devices":
            del arguments[i : i + 2]
            break
        if argument.startswith("--devices="):
            del arguments[i]
            break
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={number}", "-m", "ssl_zoo", *arguments]
    os.execv(sys.executable, command)


def main() -> None:
    """Run the command line; a user's mistake is one line, and exit code 2."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except SslZooError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(code)
