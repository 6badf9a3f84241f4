"""``ssl-zoo train``. Heavy modules are imported inside the command, so that help is fast."""

from __future__ import annotations

import os
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ssl_zoo.cli.options import (
    Backbone,
    BatchSize,
    ConfigFile,
    Data,
    Deterministic,
    DeviceName,
    Devices,
    Epochs,
    From,
    ImageSize,
    Json,
    Launcher,
    LauncherSets,
    Minutes,
    Observe,
    Precision,
    Pretrained,
    Samples,
    Seed,
    Sets,
    StandardProtocols,
    TaskName,
    Tune,
    load_run_config,
    settings_of,
    split_names,
)
from ssl_zoo.errors import UserError
from ssl_zoo.runtime.error_file import RENDEZVOUS


def train_command(
    task: TaskName = None,
    data: Data = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    from_: From = None,
    epochs: Epochs = None,
    samples: Samples = None,
    minutes: Minutes = None,
    batch_size: BatchSize = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, see train.lr_scaling.")] = None,
    precision: Precision = None,
    device: DeviceName = None,
    devices: Devices = 1,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="How often all processes start again when one of them dies.")
    ] = 0,
    launcher: Launcher = None,
    launcher_sets: LauncherSets = None,
    tune: Tune = None,
    deterministic: Deterministic = None,
    seed: Seed = None,
    knn_every: Annotated[float | None, typer.Option(help="Epochs between evaluations.")] = None,
    protocol: StandardProtocols = None,
    observe: Observe = None,
    config: ConfigFile = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (default under runs/).")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Run directory to continue; --epochs, --samples or --minutes change its length, which "
            "stretches what is left of the schedule (of a finished run: begins it anew).",
        ),
    ] = None,
    replan: Annotated[
        bool,
        typer.Option(
            "--replan", help="With another length, follow the schedule as if planned so from the start."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Train a task without labels, then compare its features with the raw input and no training."""
    settings = settings_of(
        task=task,
        data=data,
        image_size=image_size,
        backbone=backbone,
        pretrained=pretrained,
        from_=from_,
        epochs=epochs,
        samples=samples,
        minutes=minutes,
        batch_size=batch_size,
        lr=lr,
        precision=precision,
        device=device,
        tune=tune,
        deterministic=deterministic,
        seed=seed,
        knn_every=knn_every,
        observe=observe,
    )
    from ssl_zoo.config.load import parse_sets
    from ssl_zoo.runs.restarts import RUN_FOLDER, has_begun, restarted_folder
    from ssl_zoo.runs.run import Run

    resolved = None
    if resume is not None:
        if config or out:
            raise UserError("--resume uses the run's own settings and folder; leave --config and --out")
        settings |= parse_sets(sets or ())
        Run.open(resume).config(settings)  # reports errors before data are downloaded
    else:
        if replan:
            raise UserError("--replan is for --resume with another length")
        folder = restarted_folder(out)
        if folder is not None and has_begun(folder):
            resume, out, settings = folder, None, {}
        else:
            resolved = load_run_config(config, settings, sets)
            out = folder or out
            if out is not None and os.environ.get("RANK", "0") == "0":
                Run(out).check_free()
    parameters = parse_sets(launcher_sets or ())
    if launcher is not None or parameters:
        from ssl_zoo.runtime.jobs import check_cluster

        check_cluster(launcher, parameters)
    if launcher is not None and RUN_FOLDER not in os.environ:
        from ssl_zoo.cli.processes import submit

        submit(resume or out or resolved, launcher, parameters, json)
        return
    if (devices > 1 or max_restarts > 0 or RENDEZVOUS in os.environ) and "WORLD_SIZE" not in os.environ:
        from ssl_zoo.cli.processes import launch

        launch(resume or out or resolved, devices, max_restarts)
        return

    from ssl_zoo.cli import console
    from ssl_zoo.cli.progress import TrainingProgress
    from ssl_zoo.plugins.registry import registry
    from ssl_zoo.training import train

    with (
        closing(TrainingProgress()) as progress,
        nullcontext() if json else registry.observing(progress),
    ):
        run = train(
            resolved,
            out=out,
            resume=resume,
            settings=settings if resume is not None else None,
            replan=replan,
            protocol=split_names(protocol, "--protocol") or None,
        )
    if os.environ.get("RANK", "0") == "0":
        if json:
            console.print_results({"run": str(run.path), **run.results()})
        else:
            console.print_run(run)
