"""``ssl-zoo advise``. Heavy modules are imported inside the command, so that help is fast."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ssl_zoo.cli.options import (
    Backbone,
    BatchSize,
    ConfigFile,
    Data,
    DeviceName,
    From,
    Frozen,
    ImageSize,
    Json,
    Precision,
    Seed,
    Sets,
    names_option,
    settings_of,
    split_names,
)
from ssl_zoo.errors import UserError


def advise_command(
    data: Data = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="Labelled samples, such as sub-folders, if not in --data; may be repeated."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Minutes for all together, evaluation included.")
    ] = 60.0,
    tasks: Annotated[
        list[str] | None, names_option(help="Tasks to try (default: those of the configuration).")
    ] = None,
    frozen: Frozen = None,
    image_size: ImageSize = None,
    backbone: Backbone = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--no-pretrained", help="Use timm's weights (default: if it has)."),
    ] = None,
    from_: From = None,
    batch_size: BatchSize = None,
    device: DeviceName = None,
    precision: Precision = None,
    seed: Seed = None,
    config: ConfigFile = None,
    sets: Sets = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder (default: one under runs/, named by the request).")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on in the folder of advice that was stopped.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    json: Json = False,
) -> None:
    """Say whether training pays on your data, or a frozen network suffices.

    Compares, within the given minutes, the raw input, the untrained and the pretrained network, going on
    from the pretrained one, and training from scratch: by accuracy against the number of labels.
    """
    settings = settings_of(
        data=data,
        image_size=image_size,
        backbone=backbone,
        pretrained=pretrained,
        from_=from_,
        batch_size=batch_size,
        device=device,
        precision=precision,
        seed=seed,
    )

    from ssl_zoo.advice import open_advisor, resume_advisor
    from ssl_zoo.cli import console
    from ssl_zoo.cli.advice import print_advice, print_plan
    from ssl_zoo.cli.progress import ComparisonProgress
    from ssl_zoo.config.load import parse_sets
    from ssl_zoo.plugins.registry import registry
    from ssl_zoo.reporting import report

    settings |= parse_sets(sets or ())
    names = split_names(tasks, "--tasks") or None
    others = split_names(frozen, "--frozen") or None
    if resume is not None:
        if any((settings, labels, names, others, config, out)):
            raise UserError("--resume goes on with what was asked for; leave other options out")
        advisor = resume_advisor(resume)
    else:
        advisor = open_advisor(
            config,
            settings,
            labels=labels or (),
            tasks=names,
            frozen=others,
            minutes=minutes,
            out=out,
            progress=lambda text: None if json else console.err.print(f"{text} …", markup=False),
        )
    if not json:
        print_plan(advisor.plan)
    if plan:
        if json:
            console.print_results(advisor.plan.model_dump(mode="json"))
        return
    with (
        closing(ComparisonProgress()) as progress,
        nullcontext() if json else registry.observing(progress),
    ):
        advice = advisor.run()
    page = report(advice.folder, map="none")  # features would take a good share of the time
    print_advice(advice, page, json)
