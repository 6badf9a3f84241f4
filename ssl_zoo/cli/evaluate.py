"""``ssl-zoo eval``. Heavy modules are imported inside the command, so that help is fast."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ssl_zoo.cli.options import (
    DeviceName,
    Devices,
    EvalBatchSize,
    From,
    ImageSize,
    Json,
    Precision,
    Pretrained,
    Seed,
    Sets,
    StandardProtocols,
    one_or_several,
    settings_of,
    split_names,
)


def eval_command(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE|timm:NAME",
            help="Run directory, a snapshot, a backbone.safetensors, or timm:NAME.",
        ),
    ],
    protocol: StandardProtocols = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Labelled data to transfer to, in place of the run's own; may be repeated."),
    ] = None,
    image_size: ImageSize = None,
    pretrained: Pretrained = None,
    from_: From = None,
    device: DeviceName = None,
    devices: Devices = 1,
    precision: Precision = None,
    batch_size: EvalBatchSize = None,
    seed: Seed = None,
    sets: Sets = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the linear classifier in the run, for predict.")
    ] = False,
    json: Json = False,
) -> None:
    """Evaluate a run, or any timm model, beside the raw input and the untrained network."""
    settings = settings_of(
        image_size=image_size,
        pretrained=pretrained,
        from_=from_,
        device=device,
        precision=precision,
        seed=seed,
    )
    if batch_size is not None:
        settings["train.eval_batch_size"] = batch_size

    from ssl_zoo.config.load import parse_sets

    names = split_names(protocol, "--protocol") or None
    values = {**settings, **parse_sets(sets or ())}
    source = one_or_several(data)
    if devices > 1 and "WORLD_SIZE" not in os.environ:
        from ssl_zoo.cli.processes import run_in_processes

        run_in_processes(devices)
        return

    from ssl_zoo.cli import console
    from ssl_zoo.evaluation import evaluate
    from ssl_zoo.evaluation.reading import describe_gains, write_gains

    rows = evaluate(subject, names, data=source, settings=values, keep=keep)
    if os.environ.get("RANK", "0") != "0":
        return
    if json:
        kept = {} if rows.classifier is None else {"classifier": str(rows.classifier)}
        values = {"run": subject, "source": source, "scores": rows, "scores_kept": rows.kept, **kept}
        values["gains"] = write_gains(rows.gains)
        console.print_results(values)
    else:
        on = f" on {', '.join(data)}" if data else ""
        console.print_scores(rows, f"{subject}, evaluated{on}")
        if rows.gains:
            console.say(describe_gains(rows.gains, rows.noun))
        if rows.classifier is not None:
            console.print_kept(subject, rows.classifier)
