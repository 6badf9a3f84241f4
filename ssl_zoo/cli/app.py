"""The command line. Heavy modules are imported inside the commands, so that help is fast."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ssl_zoo.cli.advise import advise_command
from ssl_zoo.cli.arguments import Command, Group, prepare
from ssl_zoo.cli.author import check_command, check_source_command, new_source_command, new_task_command
from ssl_zoo.cli.compare import compare_command
from ssl_zoo.cli.config import config_command
from ssl_zoo.cli.errors import fail, fail_with, record
from ssl_zoo.cli.evaluate import eval_command
from ssl_zoo.cli.interrupts import end_on_stop_signal
from ssl_zoo.cli.notices import print_notices
from ssl_zoo.cli.options import (
    Backbone,
    BatchSize,
    ConfigFile,
    Data,
    DeviceName,
    EvalBatchSize,
    From,
    ImageSize,
    Json,
    Precision,
    Seed,
    Sets,
    TaskName,
    Tune,
    load_run_config,
    names_option,
    one_or_several,
    settings_of,
    split_names,
)
from ssl_zoo.cli.prepare import estimate_command, index_command, shard_command
from ssl_zoo.cli.streams import unbroken_streams
from ssl_zoo.cli.train import train_command
from ssl_zoo.errors import UserError

app = typer.Typer(
    cls=Group,
    help="A zoo of self-supervised pretext tasks in which every task is a plugin.",
    epilog="--debug, --quiet, --plugin and --no-plugin may stand anywhere. --debug shows tracebacks; "
    "--quiet hides the notices about what is left out, guessed or taken as a default.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"ssl-zoo {version('ssl-zoo')}")
        raise typer.Exit


@app.callback()
def _global_options(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Python file with a plugin that is not installed."),
    ] = None,
    no_plugin: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Plugin or distribution to disable.")
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


app.command("train")(train_command)


@app.command("bench")
def bench_command(
    task: TaskName = None,
    data: Data = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    from_: From = None,
    batch_size: BatchSize = None,
    precision: Precision = None,
    device: DeviceName = None,
    tune: Tune = None,
    seed: Seed = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seconds: Annotated[float, typer.Option(min=0, help="Approximate duration of the test.")] = 20.0,
    profile: Annotated[bool, typer.Option("--profile", help="Also trace some steps.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the trace (default under runs/).")] = None,
    json: Json = False,
) -> None:
    """Measure training against its ceiling: the same step on views already on the device."""
    if out is not None and not profile:
        raise UserError("--out requires --profile, which writes there")
    settings = settings_of(
        task=task,
        data=data,
        image_size=image_size,
        backbone=backbone,
        from_=from_,
        batch_size=batch_size,
        precision=precision,
        device=device,
        tune=tune,
        seed=seed,
    )
    resolved = load_run_config(config, settings, sets)

    from ssl_zoo.cli import console
    from ssl_zoo.tools.bench import bench

    measured = bench(resolved, seconds=seconds, profile=profile, out=out)
    console.print_throughput(measured, json)


app.command("eval")(eval_command)


app.command("compare")(compare_command)


app.command("advise")(advise_command)


app.command("config")(config_command)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A comparison's folder, or a run's.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The HTML file (default report.html in DIR).")
    ] = None,
    map: Annotated[str, typer.Option("--map", help="auto, pca, tsne, umap or none.")] = "auto",
) -> None:
    """Write one self-contained HTML page: the table, curves, maps, neighbours, pictures."""
    from ssl_zoo.reporting import report

    print(f"wrote {report(folder, out, map=map)}", file=sys.stderr)


@app.command("embed")
def embed_command(
    run: Annotated[Path, typer.Argument(help="Run directory, a snapshot, or a backbone.safetensors.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .npz or .parquet file to write.")],
    data: Annotated[
        list[str] | None, typer.Option(help="Data to embed (default the run's own); may be repeated.")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Features of places, [N, D, h, w], not pooled ones.")
    ] = False,
    device: DeviceName = None,
    batch_size: EvalBatchSize = None,
    pool: Annotated[
        bool,
        typer.Option("--pool", help="One row, the mean, for the samples of a document or recording."),
    ] = False,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Write the features of every sample, or of its places, with names and labels, into a file."""
    from ssl_zoo.cli import console
    from ssl_zoo.config.load import parse_sets
    from ssl_zoo.tools.embed import embed

    source, settings = one_or_several(data), parse_sets(sets or ())
    written = embed(run, source, out, device, batch_size, settings, dense=dense, pool=pool)
    if json:
        console.print_results(asdict(written))
    else:
        console.print_embedded(written)


@app.command("predict")
def predict_command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .csv or .parquet file to write.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Data to classify, with or without labels (default the run's)."),
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="File of a classifier (default the run's own).")
    ] = None,
    device: DeviceName = None,
    precision: Precision = None,
    batch_size: EvalBatchSize = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Write the class of every sample, by the classifier that eval --keep kept in the run."""
    settings = settings_of(device=device, precision=precision)
    if batch_size is not None:
        settings["train.eval_batch_size"] = batch_size

    from ssl_zoo.cli import console
    from ssl_zoo.config.load import parse_sets
    from ssl_zoo.tools.predict import predict

    settings |= parse_sets(sets or ())
    predicted = predict(run, one_or_several(data), out, classifier=classifier, settings=settings)
    if json:
        console.print_results(asdict(predicted))
    else:
        console.print_predicted(predicted)


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(help="Run directory, a snapshot, or a backbone.safetensors.")],
    to: Annotated[
        Path, typer.Option("--to", help="The .safetensors (for timm), .onnx or .pt2 file to write.")
    ],
) -> None:
    """Export the backbone for use without ssl-zoo, and print the Python that loads it."""
    from ssl_zoo.tools.export import export

    print(export(run, to))


@app.command("tasks")
def tasks_command(
    name: Annotated[
        str | None,
        typer.Argument(help="A task, to show its options; or a pattern such as '*clr*', to list some."),
    ] = None,
    family: Annotated[list[str] | None, names_option(help="Families to list, or patterns.")] = None,
    json: Json = False,
) -> None:
    """List the tasks by family, or show one task's options with their defaults."""
    from ssl_zoo.cli.task_list import print_task, print_tasks
    from ssl_zoo.plugins.families import filter_tasks
    from ssl_zoo.plugins.registry import registry

    if name is not None and family is None and not any(sign in name for sign in "*?["):
        print_task(name, registry.load_task(name), json)
    else:
        families = split_names(family, "--family")
        print_tasks(filter_tasks(registry.tasks(), name, families), json)


app.command("index")(index_command)
app.command("shard")(shard_command)
app.command("estimate")(estimate_command)


app.command("check")(check_command)


app.command("check-source")(check_source_command)


app.command("new-task")(new_task_command)


app.command("new-source")(new_source_command)


@app.command("plugins")
def plugins_command(json: Json = False) -> None:
    """List every plugin with its distribution, its contributions and its errors."""
    from ssl_zoo.cli import console
    from ssl_zoo.plugins.registry import registry

    console.print_plugins(registry.plugins(check=True), json)


@app.command("views")
def views_command(
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The .png file of pictures, or .txt (default: print texts)."),
    ] = None,
    task: TaskName = None,
    data: Data = None,
    image_size: ImageSize = None,
    config: ConfigFile = None,
    sets: Sets = None,
    seed: Seed = None,
    run: Annotated[Path | None, typer.Option(help="A trained run, to draw its answers too.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=64, help="Number of samples.")] = 8,
    transforms: Annotated[
        bool, typer.Option("--transforms", help="List the transforms that task.views takes instead.")
    ] = False,
) -> None:
    """Draw the views that a task feeds to its network, or print them where they are texts."""
    if transforms:
        from ssl_zoo.cli.task_list import print_transforms

        print_transforms()
        return
    if run is not None and (task or data or image_size or config or sets):
        raise UserError("--run uses the run's own settings, and can be combined with --seed only")

    from ssl_zoo.tools import views as gallery

    if out is not None:
        gallery.check_file(out)
    settings = settings_of(task=task, data=data, image_size=image_size, seed=seed)
    resolved = load_run_config(config, settings, sets) if run is None else None
    columns = gallery.views(resolved, run, rows, seed)
    if out is not None:
        gallery.save(columns, out)
        print(f"wrote {out}", file=sys.stderr)
    elif (text := gallery.as_text(columns)) is not None:
        print(text, end="")
    else:
        raise UserError("-o FILE.png is required, as these are pictures")


for _command in app.registered_commands:
    _command.cls = Command


def main() -> None:
    """Run the command line; wrong input is one line on standard error, with exit code 2."""
    with unbroken_streams(), end_on_stop_signal():
        _run(sys.argv[1:])


def _run(arguments: list[str]) -> NoReturn:
    try:
        with print_notices(wanted={"--quiet", "--json"}.isdisjoint(arguments)):
            code = app(prepare(arguments) or ["--help"], prog_name="ssl-zoo", standalone_mode=False)
        sys.stdout.flush()  # reports an error of writing as that of the command
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", 130)
    except Exception as error:
        if "--debug" in arguments:
            record(error)
            raise
        fail_with(error)
    sys.exit(code)
