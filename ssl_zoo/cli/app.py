"""The command line. Heavy modules are imported inside the commands, so that help is quick."""

from __future__ import annotations

import io
import itertools
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.text import escape_control_chars

if TYPE_CHECKING:
    from ssl_zoo.config.schema import RunConfig

app = typer.Typer(
    help="A zoo of self-supervised pretext tasks in which every task is a plugin.",
    epilog="--debug, --plugin and --no-plugin may stand anywhere; --debug shows an error's traceback.",
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
    "tune": "train.tune",
    "deterministic": "train.deterministic",
    "seed": "train.seed",
    "knn_every": "train.knn_every",
    "observe": "train.observers",
}
"""Which field of the configuration a flag sets."""

MOST_DEVICES = max(8, os.cpu_count() or 1)
"""Processes on one machine; more than it has processors would bring it to a standstill."""

TaskName = Annotated[str | None, typer.Option("--task", help="Name of a task (ssl-zoo tasks).")]
Data = Annotated[
    str | None,
    typer.Option(help="digits, fashion-mnist, cifar10, …, a folder, timm:NAME or hf:NAME."),
]
ImageSize = Annotated[int | None, typer.Option(help="Side of the network's input, in pixels.")]
Backbone = Annotated[str | None, typer.Option(help="Any timm model.")]
Pretrained = Annotated[bool | None, typer.Option("--pretrained", help="Use timm's pretrained weights.")]
Epochs = Annotated[float | None, typer.Option(help="Budget in epochs (default 100).")]
Images = Annotated[int | None, typer.Option(help="Budget in images drawn.")]
Minutes = Annotated[float | None, typer.Option(help="Budget in minutes.")]
BatchSize = Annotated[int | None, typer.Option(help="Images in a batch, over all processes.")]
Observe = Annotated[
    str | None, typer.Option(help="Comma-separated observers on request: tensorboard, wandb, …")
]
Seed = Annotated[int | None, typer.Option(help="All randomness follows from it.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, mps, …")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")]
Tune = Annotated[
    bool | None,
    typer.Option("--tune/--no-tune", help="Try what is quickest before a long run (default: yes)."),
]
Deterministic = Annotated[
    bool | None,
    typer.Option("--deterministic", help="Refuse what differs each time; implies --no-tune."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings; flags override it.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, e.g. task.temperature=0.1."),
]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ssl-zoo {version('ssl-zoo')}")
        raise typer.Exit


@app.callback()
def _global(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Python file with a plugin that is not installed."),
    ] = None,
    no_plugin: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Plugin or distribution to leave out.")
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    from ssl_zoo.plugins.registry import registry

    registry.disable(no_plugin or ())
    for file in plugin or ():
        registry.load_file(file)


@app.command()
def train(
    task: TaskName = None,
    data: Data = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    epochs: Epochs = None,
    images: Images = None,
    minutes: Minutes = None,
    batch_size: BatchSize = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, see train.lr_scaling.")] = None,
    precision: Precision = None,
    device: DeviceName = None,
    devices: Annotated[
        int, typer.Option(min=1, max=MOST_DEVICES, help="Processes, one on each device.")
    ] = 1,
    tune: Tune = None,
    deterministic: Deterministic = None,
    seed: Seed = None,
    knn_every: Annotated[float | None, typer.Option(help="Epochs between evaluations.")] = None,
    observe: Observe = None,
    config: ConfigFile = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (default under runs/).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run directory to go on with.")] = None,
    json: Json = False,
) -> None:
    """Train a task without labels, then compare its features with raw pixels and no training."""
    settings = _given(locals())
    if resume is not None and (settings or config or sets or out):
        raise UserError("--resume goes on with the run's own settings; give no others")

    from ssl_zoo.runs.run import Run

    resolved = None
    if resume is not None:
        Run.open(resume).config()  # known before data are fetched
    else:
        resolved = _configuration(config, settings, sets)
        if out is not None and os.environ.get("RANK", "0") == "0":
            Run(out).check_free()
    if devices > 1 and "WORLD_SIZE" not in os.environ:
        from ssl_zoo.runtime.launch import launch

        raise typer.Exit(launch(devices, sys.argv[1:]))

    from ssl_zoo.cli import console
    from ssl_zoo.training import train

    reporter = console.TrainingReporter()
    try:
        run = train(resolved, out=out, resume=resume, reporter=None if json else reporter)
    finally:
        reporter.stop()
    if json and os.environ.get("RANK", "0") == "0":
        console.print_json({"run": str(run.path), **run.results()})


@app.command()
def bench(
    task: TaskName = None,
    data: Data = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    batch_size: BatchSize = None,
    precision: Precision = None,
    device: DeviceName = None,
    tune: Tune = None,
    seed: Seed = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure, about.")] = 20.0,
    profile: Annotated[bool, typer.Option("--profile", help="Write a trace of some steps too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for it (default under runs/).")] = None,
    json: Json = False,
) -> None:
    """Measure training against its ceiling: the same step on views that lie on the device."""
    if out is not None and not profile:
        raise UserError("--out is where --profile writes; give both")
    resolved = _configuration(config, _given(locals()), sets)

    from ssl_zoo.cli import console
    from ssl_zoo.tools.bench import bench

    measured = bench(resolved, seconds=seconds, profile=profile, out=out)
    console.print_throughput(measured, json)


@app.command("eval")
def evaluate(
    subject: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or timm:NAME.")],
    protocol: Annotated[str, typer.Option(help="Comma-separated protocols.")] = "knn,linear",
    data: Annotated[
        str | None, typer.Option(help="Other data than the run's own, which it is transferred to.")
    ] = None,
    image_size: ImageSize = None,
    pretrained: Pretrained = None,
    device: DeviceName = None,
    precision: Precision = None,
    seed: Seed = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Evaluate a run, or any timm model, beside raw pixels and the untrained network."""
    names = _listed(protocol)
    settings = {path: value for path, value in _given(locals()).items() if path != "data.source"}

    from ssl_zoo.cli import console
    from ssl_zoo.config.load import parse_sets
    from ssl_zoo.evaluation import evaluate

    rows = evaluate(subject, names, data=data, settings={**settings, **parse_sets(sets or ())})
    if json:
        console.print_json({"run": subject, "data": data, "scores": rows})
    else:
        on = f" on {data}" if data is not None else ""
        console.print_scores(rows, f"{subject}, evaluated{on}")


@app.command()
def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Finished runs, to tabulate them.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Comma-separated tasks, or all.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each task (default 3).")] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Comma-separated: pixels, random-init, supervised; or all.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Comma-separated protocols (default knn,linear,health).")
    ] = None,
    data: Data = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    epochs: Epochs = None,
    images: Images = None,
    minutes: Minutes = None,
    batch_size: BatchSize = None,
    device: DeviceName = None,
    precision: Precision = None,
    observe: Observe = None,
    config: ConfigFile = None,
    sets: Sets = None,
    columns: Annotated[str | None, typer.Option(help="Comma-separated columns of the table.")] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by (default the first).")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder (default one under runs/ that follows from settings).")
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, max=MOST_DEVICES, help="Runs at a time, one on each device.")
    ] = 1,
    launcher: Annotated[
        str | None, typer.Option(help="slurm: submit the runs as jobs; local: the same here.")
    ] = None,
    launcher_sets: Annotated[
        list[str] | None,
        typer.Option("--launcher-set", metavar="KEY=VALUE", help="submitit's, e.g. timeout_min=60."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command of each run.")] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Tabulate runs that are not comparable, marked.")
    ] = False,
    only: Annotated[str | None, typer.Option(metavar="CELL", help="Do one run of a comparison.")] = None,
    json: Json = False,
) -> None:
    """Compare tasks: the same backbone, data, budget and seeds, and one table.

    Stopped or killed, the same command goes on. Given RUNs, tabulate these instead.
    """
    settings = _given(locals())
    names = {"tasks": tasks, "baselines": baselines, "protocols": protocol, "columns": columns}
    listed = {name: _listed(text) for name, text in names.items() if text is not None}

    from ssl_zoo import comparison
    from ssl_zoo.cli import console
    from ssl_zoo.config.load import parse_sets

    if runs:
        others = (settings, tasks, seeds, baselines, config, sets, only, dry_run, launcher)
        if any(others):
            raise UserError(
                "RUN... tabulates finished runs; --tasks and all that says how to train go without"
            )
        shown = comparison.tabulate(
            runs, listed.get("protocols", ()), listed.get("columns"), sort, mixed=mixed, out=out
        )
        console.print_table(shown, out, json)
        return
    given: dict[str, Any] = {**listed, "seeds": seeds, "sort": sort}
    given["set"] = {**settings, **parse_sets(sets or ())} or None
    for name in ("tasks", "baselines"):
        if listed.get(name) == ["all"]:
            given[name] = "all"
    sweep = comparison.open_sweep(config, out, **{k: v for k, v in given.items() if v is not None})
    if only is not None:
        comparison.only(sweep, only)
    elif dry_run:
        print("\n".join(comparison.commands(sweep)))
    else:
        place = comparison.launcher(devices, launcher, parse_sets(launcher_sets or ()))
        display = console.SweepDisplay()
        try:
            table = comparison.run(sweep, place, None if json else display)
        finally:
            display.stop()
        console.print_table(table, sweep.out, json)
        if table.failed:
            raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A comparison's folder, or a run's.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The HTML file (default report.html in DIR).")
    ] = None,
    map: Annotated[str, typer.Option("--map", help="auto, pca, tsne or umap.")] = "auto",
) -> None:
    """Write one self-contained HTML page: the table, curves, maps, neighbours, pictures."""
    from ssl_zoo.reporting import report

    print(f"wrote {report(folder, out, map=map)}", file=sys.stderr)


@app.command()
def embed(
    run: Annotated[Path, typer.Argument(help="Run directory, or its backbone.safetensors.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .npz or .parquet file to write.")],
    data: Annotated[str | None, typer.Option(help="Whose features (default the run's data).")] = None,
    device: DeviceName = None,
    json: Json = False,
) -> None:
    """Write the features of every sample, with names and labels, into a file."""
    from ssl_zoo.cli import console
    from ssl_zoo.tools.embed import embed

    written = embed(run, data, out, device)
    if json:
        console.print_json(asdict(written))
    else:
        console.print_embedded(written)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run directory, or its backbone.safetensors.")],
    to: Annotated[
        Path, typer.Option("--to", help="The .safetensors (for timm) or .onnx file to write.")
    ],
) -> None:
    """Export the backbone for those who do not have ssl-zoo, and print the Python that loads it."""
    from ssl_zoo.tools.export import export

    print(export(run, to))


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="A task, to show its options.")] = None,
    json: Json = False,
) -> None:
    """List the tasks, or show one task's options with their defaults."""
    from ssl_zoo.cli import console
    from ssl_zoo.plugins.registry import registry

    if name is not None:
        console.print_task(name, registry.load_task(name), json)
    else:
        console.print_tasks(registry.tasks().values(), json)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A task.")],
    data: Annotated[
        str | None, typer.Option(help="Check on samples of this data instead of synthetic ones.")
    ] = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    sets: Sets = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK=REASON", help="A check that the task rightly fails, and why."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a task against the contract that all tasks must fulfil; exit code 1 if it fails."""
    from ssl_zoo import testing
    from ssl_zoo.cli import console

    expected = {check.strip(): reason for check, _, reason in (e.partition("=") for e in expect or ())}
    checks = testing.checks_of(name, _given(locals()), sets or (), expected, flags=_flags())
    if not console.print_checks(testing.run_checks(checks), json):
        raise typer.Exit(1)


@app.command("new-task")
def new_task(
    name: Annotated[str, typer.Argument(help="The task's name, such as colour-guess.")],
    kind: Annotated[
        str, typer.Option(help="What it starts from: joint-embedding, predictive or masked.")
    ] = "joint-embedding",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to write (default ssl-zoo-NAME).")
    ] = None,
) -> None:
    """Write a package with a new task, which trains as it stands and tests itself."""
    from ssl_zoo.cli import console
    from ssl_zoo.tools.new_task import new_task

    console.print_new_task(name, new_task(name, kind, out))


@app.command()
def plugins(json: Json = False) -> None:
    """List every plugin with its distribution, what it contributes, and what is wrong with it."""
    from ssl_zoo.cli import console
    from ssl_zoo.plugins.registry import registry

    console.print_plugins(registry.plugins(check=True), json)


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
    if run is not None and (task or data or image_size or config or sets):
        raise UserError("--run draws with the run's own settings; give no others but --seed")

    from ssl_zoo.tools import views as gallery

    gallery.check_file(out)
    resolved = _configuration(config, _given(locals()), sets) if run is None else None
    gallery.save(gallery.picture(resolved, run, rows, seed), out)
    print(f"wrote {out}", file=sys.stderr)


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the configuration that a command's parameters set."""
    given = {FLAGS[p]: v for p, v in parameters.items() if p in FLAGS and v is not None}
    if "train.observers" in given:
        given["train.observers"] = _listed(given["train.observers"])
    return given


def _listed(text: str) -> list[str]:
    """The names that a comma-separated option gives."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _configuration(file: Path | None, settings: Mapping[str, Any], sets: list[str] | None) -> RunConfig:
    from ssl_zoo.config.load import load_config

    return load_config(file, settings, sets or (), flags=_flags())


def _flags() -> dict[str, str]:
    """What errors call a field that a flag has set."""
    return {path: f"--{parameter.replace('_', '-')}" for parameter, path in FLAGS.items()}


class _Tame(logging.Formatter):
    """What is warned of may quote what others wrote."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, which makes a terminal do nothing."""
        return escape_control_chars(super().format(record))


def main() -> None:
    """Run the command line; a user's mistake is one line, and exit code 2."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Tame())
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may have what it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(_plugins_first(arguments) or ["--help"], prog_name="ssl-zoo", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        _fail(*_explain(error))
    sys.exit(code)


def _plugins_first(arguments: list[str]) -> list[str]:
    """The arguments without ``--debug``; what says which plugins there are stands before the command."""
    first: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument in ("--plugin", "--no-plugin"):
            first += [argument, *itertools.islice(left, 1)]
        elif argument.startswith(("--plugin=", "--no-plugin=")):
            first.append(argument)
        elif argument != "--debug":
            rest.append(argument)
    return first + rest


def _explain(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, SslZooError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # typer's own, from click or from its copy of click
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "ssl-zoo"
        return f"{error.format_message()} (see {command} --help)", 2
    from ssl_zoo.plugins.registry import registry

    said = registry.describe_error(error)
    if said is None and isinstance(error, OSError) and error.strerror is not None:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None), 1
    return f"{said or f'{type(error).__name__}: {error}'} (--debug shows the traceback)", 1


def _fail(message: str, code: int) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    if rank == "0" or code == 1:  # wrong input and signals come to every process
        sys.stderr.write(f"error: {escape_control_chars(' '.join(message.split()))}\n")
    sys.exit(code)
