"""A whole run: a directory, training, and what was learnt."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssl_zoo import distributed
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import Interrupted, Unwritable
from ssl_zoo.evaluation import Scores, Subject, baselines, dry_run, protocols, score, supported_protocols
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runs.checkpoints import state_dict_errors
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime import signals
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import open_no_follow, write_errors
from ssl_zoo.training.loop import Reporter, Silent, fit, resume_command
from ssl_zoo.training.trainer import NotFinite, Trainer
from ssl_zoo.training.tuning import tune_device

log = logging.getLogger("ssl_zoo.training")


def train(
    config: RunConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    reporter: Reporter | None = None,
    protocol: Iterable[str] = ("knn", "health"),
    with_baselines: bool = True,
    data: DataSet | None = None,
) -> Run:
    """Train a task on unlabelled data, and evaluate what it has learnt.

    Args:
        config: the resolved configuration; None to take a resumed run's own.
        out: the run directory; None makes a new one under ``runs/``.
        resume: a run directory to go on with, instead.
        reporter: who is told how it goes.
        protocol: how what was learnt is evaluated, as far as the data has labels for it.
        with_baselines: whether to evaluate the raw input and the untrained network too.
        data: what the configuration's `data` section describes, if it is loaded already.

    Returns:
        The run.

    Raises:
        UserError: the input was wrong; nothing was written, or what was is removed.
        Interrupted: a signal asked to stop; `resume` goes on.
        SslZooError: something failed while working, such as a loss that is not finite.
    """
    reporter = reporter or Silent()
    if (config is None) == (resume is None) or (resume is not None and out is not None):
        raise TypeError("train needs a config, or else a run to resume, with its own config and place")
    run = Run.open(resume) if resume is not None else None
    if config is None:
        assert run is not None
        config = run.config()
        run.results()  # what is broken is told before the work
    protocol = list(protocols(protocol))
    registry.check_observers(config.train.observers)
    with distributed.processes(config.train.device) as local_rank:
        device = Device.choose(config.train, local_rank)
        data = build_data(config, device.device, data)
        device = tune_device(config, data, device)
        with device.computing():
            trainer = Trainer(config, data, device)
            dry_run(trainer.task, trainer.data, device)
            device.reset_peak_memory()
            first = distributed.rank() == 0
            if run is None and first:
                run = Run.make(out, trainer.config)
            run = Run(distributed.broadcast_from_rank0(str(run.path) if run is not None else ""))
            with run.lock() if first else contextlib.nullcontext():
                if first and resume is None:
                    run.begin(trainer.config)
                _carry_out(trainer, run, reporter, protocol, with_baselines, resume is not None)
    return run


def _carry_out(
    trainer: Trainer,
    run: Run,
    reporter: Reporter,
    protocol: list[str],
    with_baselines: bool,
    resumed: bool,
) -> None:
    """Train and evaluate in a run's directory, which this process has to itself."""
    first = distributed.rank() == 0
    try:
        with signals.interrupt_on_signal(resume_command(run)):
            if resumed:
                _go_on(trainer, run)
            if first:
                reporter.started(run, trainer)
                trainer.tell("ssl_zoo_run_started", run=run, step=trainer.step)
            if trainer.progress < 1:
                if first and run.results_file.is_file():
                    run.write_results({"scores": {}, "transfer": {}})  # of weights that move on
                fit(trainer, run, reporter)
            if first:
                results = finish(trainer, run, protocol, with_baselines)
                trainer.tell("ssl_zoo_run_ended", run=run, results=results)
                reporter.ended(run, results)
            distributed.barrier()
    except Exception as error:
        if first:
            trainer.tell("ssl_zoo_run_stopped", run=run, error=error)
        if isinstance(error, Interrupted | NotFinite):
            raise
        if first and not resumed and trainer.step == 0:
            run.discard()
        elif isinstance(error, Unwritable):
            raise Unwritable(error.what, resume_command(run)) from error
        raise


def _go_on(trainer: Trainer, run: Run) -> None:
    """Take up a run where its checkpoint stands; from the start where it has none yet."""
    logged = 0
    if run.checkpoints:
        state = run.checkpoints.load()
        with state_dict_errors(run.checkpoints.file):
            logged = state["metrics_bytes"]
            trainer.load_state_dict(state)
    if run.metrics_file.exists() and distributed.rank() == 0:
        # What was logged after the checkpoint will be logged again.
        with write_errors(run.metrics_file), open_no_follow(run.metrics_file, "r+b") as file:
            whole = file.read(logged)
            file.truncate(whole.rfind(b"\n") + 1)
        if len(whole) < logged:
            log.warning("%s lacks the last lines before the checkpoint", run.metrics_file)


def finish(trainer: Trainer, run: Run, protocol: Iterable[str], with_baselines: bool) -> dict[str, Any]:
    """Save the backbone, evaluate what was learnt beside its baselines, and write the results."""
    config, data, device = trainer.config, trainer.data, trainer.device
    peak_memory = trainer.peak_memory
    names = supported_protocols(protocol, data)
    with trainer.averaged_weights():
        run.write_backbone(trainer.task.encoder, config.backbone, data.spec)
        subject = Subject.of_task(trainer.task, data, device, seed=config.train.seed)
        rows: dict[str, Scores] = {config.task.name: score(subject, names)}
    if with_baselines:
        untrained = device.place(build_task(config, data.spec))
        rows |= baselines(untrained, data, device, names, config.backbone.pretrained)
    run.add_scores(rows)
    run.write_results(
        {
            "task": config.task.name,
            "steps": trainer.step,
            "images": trainer.images,
            "seconds": round(trainer.seconds, 1),
            "images_per_second": round(trainer.images / max(trainer.seconds, 1e-9), 1),
            "needs_labels": trainer.task.needs_labels,
            "parameters": sum(p.numel() for p in trainer.task.encoder.parameters()),
            "passes_per_image": trainer.passes,
            "peak_memory_bytes": peak_memory,
            "precision": device.precision,
            "device": str(device.device),
            "skipped": trainer.skipped,
        }
    )
    return run.results()
