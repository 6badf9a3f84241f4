"""A whole run: its directory, training, evaluation and results."""

from __future__ import annotations

import contextlib
import shlex
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssl_zoo import distributed
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.data.sample_files import SkippedSamples
from ssl_zoo.data.summary import DataSummary
from ssl_zoo.errors import Interrupted, Unwritable, add_note
from ssl_zoo.evaluation import (
    Subject,
    baselines,
    dry_run,
    protocols,
    report_no_scores,
    score,
    scored_protocols,
    standard_protocols,
    unsupported_protocols,
)
from ssl_zoo.evaluation.reading import measure_gains, standard_correctness, write_gains
from ssl_zoo.notices import collect_notices
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.backbone import write_backbone
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime import signals
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.machine import describe_machine
from ssl_zoo.task import Task
from ssl_zoo.training.choices import report_choices
from ssl_zoo.training.finite import NotFinite
from ssl_zoo.training.loop import fit, resume_command, warn_of_chance
from ssl_zoo.training.resume import Resumption
from ssl_zoo.training.snapshots import describe_best, keep_best
from ssl_zoo.training.summary import RunSummary
from ssl_zoo.training.trainer import Trainer
from ssl_zoo.training.tuning import tune_device


@torch_defaults()
def train(
    config: RunConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    replan: bool = False,
    protocol: Iterable[str] | None = None,
    with_baselines: bool = True,
    data: DataSet | None = None,
) -> Run:
    """Train a task on unlabelled data, and evaluate the trained encoder.

    To follow the run, register an observer: ``with registry.observing(observer): train(config)``.

    Args:
        config: the resolved configuration; None with `resume`, which uses the run's own.
        out: the run directory; None makes a new one under ``runs/``.
        resume: a run directory to resume, in place of `config` and `out`.
        settings: with `resume`, changes by dotted path: another budget, such as
            ``{"train.epochs": 200}``, or settings that affect no result, such as ``train.device``.
        replan: with another budget, whether the learning rate and all schedules follow it as if it had
            been planned from the start, which makes them jump. By default what is left of them is
            stretched over what is left of the budget; those of a finished run begin anew.
        protocol: names of evaluation protocols; None for the standard ones, kNN, linear and health, and
            what a plugin adds for such data. Those that need labels are skipped where there are none.
        with_baselines: whether to evaluate the raw input and the untrained network too.
        data: the data set that the configuration's `data` section describes, if it is loaded already.

    Returns:
        The run.

    Raises:
        UserError: the input was wrong; the run directory is not created, or is removed again.
        Interrupted: a signal asked to stop; `resume` continues the run.
        SslZooError: something failed while working, such as a loss that is not finite.
    """
    if (config is None) == (resume is None) or (resume is not None and out is not None):
        raise TypeError("train needs either a config, or a run to resume without config and out")
    if resume is None and (settings or replan):
        raise TypeError("settings and replan are for a run to resume; a new one has its config")
    run = Run.open(resume) if resume is not None else None
    resumption = Resumption(run, settings, replan) if run is not None else None
    if config is None:
        assert run is not None
        assert resumption is not None
        config = resumption.config
        run.results()  # raises now, before the work, where the file is broken
    names = None if protocol is None else list(protocols(protocol))
    registry.check_observers(config.train.observers)
    with (
        collect_notices() as notices,
        distributed.processes(config.train.device),
        _ignore_ddp_warnings(),
    ):
        device = Device.choose(config.train)
        data = build_data(config if run is None else run.with_inputs(config), device.device, data)
        if resumption is not None:
            resumption.check_data(data)
        device = tune_device(config, data, device)
        with device.computing():
            restored = run is not None and bool(run.checkpoints)
            task = build_task(config, data.spec, restored=True) if restored else None
            trainer = Trainer(config, data, device, task)
            with trainer.evaluated_task() as whole:
                dry_run(whole, trainer.data, device)
            device.reset_peak_memory()
            first = distributed.rank() == 0
            if run is None and first:
                run = Run.make(out, trainer.config)
            run = Run(distributed.broadcast_from_rank0(str(run.path) if run is not None else ""))
            with run.lock() if first else contextlib.nullcontext():
                if first and resume is None:
                    run.begin(trainer.config, data.spec)
                _carry_out(trainer, run, names, with_baselines, resumption, notices)
    return run


@contextlib.contextmanager
def _ignore_ddp_warnings() -> Iterator[None]:
    """Temporarily ignore two warnings of torch's that several processes cause."""
    if distributed.world_size() == 1:
        yield
        return
    with warnings.catch_warnings():
        # Deprecated functions and arguments whose replacements are younger than torch 2.4.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"ssl_zoo\.")
        # Channels-last gradients are copied once.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        yield


def _carry_out(
    trainer: Trainer,
    run: Run,
    names: list[str] | None,
    with_baselines: bool,
    resumption: Resumption | None,
    notices: list[dict[str, str]],
) -> None:
    """Train and evaluate in a run's directory, which this process has locked."""
    first = distributed.rank() == 0
    named = names is not None
    if names is None:
        names = standard_protocols(trainer.data.spec.modality)
    unsupported = unsupported_protocols(names, trainer.data)
    supported = [name for name in names if name not in unsupported]
    try:
        with signals.interrupt_on_signal(resume_command(run)):
            if resumption is not None:
                resumption.restore(trainer)
            if first:
                report_choices(trainer, unsupported)
                if named:
                    untrained = Subject.of_task(trainer.task, trainer.data, trainer.device)
                    report_no_scores(untrained, supported)
                summary = RunSummary.of(trainer)
                trainer.notify("ssl_zoo_run_started", run=run, step=trainer.step, summary=summary)
            keep_best(trainer, run)  # of a run that was killed before it was written
            if not trainer.ended():
                if first and run.results_file.is_file():
                    # They are of earlier weights.
                    run.write_results({"scores": {}, "transfer": {}, "gains": []})
                fit(trainer, run)
            with trainer.evaluated_task() as whole:
                with distributed.failing_together():
                    if first:
                        warn_of_chance(whole, run.metrics())
                    run.write_results({"notices": notices, "data": asdict(DataSummary.of(trainer.data))})
                finish(trainer, whole, run, supported, with_baselines)
            with distributed.failing_together():
                run.write_results({"notices": notices})  # with those of the evaluation
                if first:
                    trainer.notify("ssl_zoo_run_ended", run=run, results=run.results())
    except Exception as error:
        if first:
            trainer.notify("ssl_zoo_run_stopped", run=run, error=error)
        if isinstance(error, Interrupted | NotFinite):
            raise
        if first and resumption is None and trainer.step == 0:
            run.discard()
        elif isinstance(error, Unwritable):
            raise error.with_resume(resume_command(run)) from error
        raise


def finish(trainer: Trainer, task: Task, run: Run, names: Iterable[str], with_baselines: bool) -> None:
    """Save the backbone and the facts, and evaluate the task beside its baselines.

    Everything is written as soon as it is there, so that a failure costs only what is missing. Several
    processes evaluate together, and the first writes.
    """
    config, data, device = trainer.config, trainer.data, trainer.device
    skipped = _skipped(trainer)
    with distributed.failing_together():
        if distributed.rank() == 0:
            _write_facts(trainer, task, run, skipped)
    try:
        subject = Subject.of_task(task, data, device, seed=config.train.seed)
        _evaluate(run, subject, names)
        correct = standard_correctness(subject, names)
        if with_baselines:
            others = {}
            for baseline in baselines(config, data, device):
                _evaluate(run, baseline, scored_protocols(names, subject))
                others[baseline.name] = standard_correctness(baseline, names)
            gains = measure_gains(correct, others)
            with distributed.failing_together():
                if gains:
                    run.write_results({"gains": write_gains(gains)})
    except (Interrupted, Unwritable):
        raise
    except Exception as error:
        command = shlex.join(["ssl-zoo", *registry.arguments(), "eval", str(run.path)])
        weights = f"training is done and its weights are good: {run.backbone_file}"
        add_note(error, f"{weights}; evaluate them with: {command}")
        raise
    skipped = _skipped(trainer)  # with files that only evaluation reads
    with distributed.failing_together():
        run.write_results(skipped)


def _write_facts(trainer: Trainer, task: Task, run: Run, skipped: Mapping[str, Any]) -> None:
    """Write the backbone, and the results that need no evaluation."""
    config, device = trainer.config, trainer.device
    encoder = task.exported_encoder
    write_backbone(run.backbone_file, encoder, config.backbone, trainer.data.spec)
    run.write_results(
        {
            "task": config.task.name,
            "steps": trainer.step,
            "samples": trainer.samples,
            "seconds": round(trainer.seconds, 3),
            "samples_per_second": round(trainer.samples / max(trainer.seconds, 1e-9), 1),
            "needs_labels": "labels" in task.needs,
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "passes_per_sample": trainer.passes,
            "peak_memory_bytes": trainer.peak_memory,
            "precision": device.precision,
            "device": str(device.device),
            "machine": describe_machine(device),
            **describe_best(trainer),
            **skipped,
        }
    )


def _skipped(trainer: Trainer) -> dict[str, Any]:
    """Return the samples that cannot be read, and those that a setting excludes, with the reasons.

    They are those that any process has met.
    """
    skipped = SkippedSamples.join(*distributed.exchange(trainer.skipped))
    return {"skipped": skipped.unreadable, "excluded": skipped.excluded}


def _evaluate(run: Run, subject: Subject, names: Iterable[str]) -> None:
    """Add the scores of a subject to a run's results, those of each protocol as soon as they are there.

    Raises:
        Unwritable: they cannot be written; a note has them.
    """
    for name in names:
        scores = score(subject, [name])
        try:
            with distributed.failing_together():
                run.add_scores({subject.name: scores})
        except Unwritable as error:
            values = ", ".join(f"{metric} {value:.4g}" for metric, value in scores.items())
            add_note(error, f"not kept of {subject.name}: {values}")
            raise
