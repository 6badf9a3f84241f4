"""The training loop, from where a trainer stands to the end of its budget."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from ssl_zoo import distributed
from ssl_zoo.errors import Interrupted, Unwritable
from ssl_zoo.evaluation import ONLINE_EVAL_SIZES, Subject, score
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime import signals
from ssl_zoo.runtime.files import open_no_follow, write_errors
from ssl_zoo.training.replay import keep_step
from ssl_zoo.training.trainer import Batch, NotFinite, Trainer

MAX_SHOWN_INDICES = 8
"""So many of a batch's samples are told in an error; its file has all."""

SYNC_EVERY = 10
"""Steps after which several processes ask each other whether to stop, if not before."""


class Reporter(Protocol):
    """Who is told how a run goes: a progress bar, or nobody."""

    def started(self, run: Run, trainer: Trainer) -> None:
        """The run begins, or goes on."""

    def step(self, progress: float, metrics: dict[str, float]) -> None:
        """A step was logged; `progress` is in [0, 1]."""

    def ended(self, run: Run, results: dict[str, Any]) -> None:
        """The run has ended, and was evaluated."""


class Silent:
    """A reporter that says nothing."""

    def started(self, run: Run, trainer: Trainer) -> None:
        """Say nothing."""

    def step(self, progress: float, metrics: dict[str, float]) -> None:
        """Say nothing."""

    def ended(self, run: Run, results: dict[str, Any]) -> None:
        """Say nothing."""


def fit(trainer: Trainer, run: Run, reporter: Reporter) -> None:
    """Train to the end of the budget, logging and saving into `run`.

    Raises:
        Interrupted: a signal asked to stop; all that was done is saved.
        NotFinite: the loss or the gradient is no number; the step is kept, and the last checkpoint.
        Unwritable: the disk does not take what is written; the last checkpoint stays.
    """
    config = trainer.config.train
    first, alone = distributed.rank() == 0, distributed.world_size() == 1
    evaluated = _evaluations(trainer)
    saved = time.monotonic()
    stopped_by = 0

    def save() -> None:
        nonlocal saved
        if log is not None:
            trainer.check_weights()
            with write_errors(run.metrics_file):
                os.fsync(log.fileno())
            state = {**trainer.state_dict(), "metrics_bytes": log.tell()}
            run.checkpoints.save(state)
            trainer.tell(
                "ssl_zoo_checkpoint_saved", run=run, step=trainer.step, path=run.checkpoints.file
            )
        saved = time.monotonic()

    def record(metrics: dict[str, float]) -> None:
        if log is not None:
            with write_errors(run.metrics_file):
                log.write(json.dumps(metrics) + "\n")
                log.flush()
            reporter.step(trainer.progress, metrics)
            trainer.tell("ssl_zoo_step_logged", run=run, step=trainer.step, metrics=metrics)

    trainer.task.train()
    with signals.record_stop_signals() as stop, _appended(run.metrics_file if first else None) as log:
        start = time.monotonic() - trainer.seconds
        while trainer.progress < 1:
            with contextlib.closing(trainer.epoch_batches()) as epoch:
                for step_batches in epoch:
                    with _kept(trainer, run, step_batches):
                        losses = trainer.train_step(step_batches)
                    trainer.seconds = time.monotonic() - start
                    due = trainer.step % config.log_every == 0
                    meeting = trainer.step % min(config.log_every, SYNC_EVERY) == 0
                    if meeting or alone or trainer.budget.seconds is not None or trainer.progress >= 1:
                        # Several processes agree on when to stop every few steps; but at each
                        # where the rate and the end follow from the time, which each would measure
                        # differently.
                        trainer.seconds, stopped_by = _agree(trainer.seconds, stop.number)
                    if due or trainer.progress >= 1:
                        record(trainer.metrics(losses))
                    if (due_evaluations := _evaluations(trainer)) > evaluated:
                        evaluated = due_evaluations
                        record({**trainer.position(), **_evaluate_midway(trainer)})
                        start = time.monotonic() - trainer.seconds
                    if stopped_by:
                        save()
                        distributed.barrier()
                        raise Interrupted(stopped_by, resume_command(run))
                    if trainer.progress >= 1:
                        break
                    if time.monotonic() - saved >= config.checkpoint_seconds:
                        save()
            if first and trainer.step % trainer.budget.steps_per_epoch == 0:
                trainer.tell("ssl_zoo_epoch_ended", run=run, epoch=int(trainer.epoch))
        save()
        _, stopped_by = _agree(trainer.seconds, stop.number)
        if stopped_by:
            raise Interrupted(stopped_by, resume_command(run))


@contextlib.contextmanager
def _appended(file: Path | None) -> Iterator[IO[str] | None]:
    """A file that is written to at its end; None for no file.

    Raises:
        Unwritable: it cannot be.
    """
    if file is None:
        yield None
        return
    with write_errors(file):
        opened = open_no_follow(file, "a")
    try:
        yield opened
    finally:
        with contextlib.suppress(OSError):  # of what could not be written, which was told
            opened.close()


@contextlib.contextmanager
def _kept(trainer: Trainer, run: Run, batches: list[Batch]) -> Iterator[None]:
    """Within, a step is made; one that comes to no number is kept for `replay`."""
    try:
        yield
    except NotFinite as error:
        numbers = torch.cat([batch.numbers for batch in batches]).tolist()
        some = ", ".join(map(str, numbers[:MAX_SHOWN_INDICES])) + (
            ", …" if len(numbers) > MAX_SHOWN_INDICES else ""
        )
        try:
            where = f"kept for a replay, in {keep_step(trainer, run, batches)}"
        except Unwritable as full:
            where = f"not kept, {full}"
        raise NotFinite(f"{error}; {where}: samples {some}") from error


def resume_command(run: Run) -> str:
    """The command that goes on with a run, with the plugins and the processes that it has now."""
    number = distributed.world_size()
    devices = ["--devices", str(number)] if number > 1 else []
    return shlex.join(["ssl-zoo", *registry.arguments(), "train", "--resume", str(run.path), *devices])


def _evaluations(trainer: Trainer) -> int:
    """How many evaluations there should have been by now; the last is at the end."""
    config = trainer.config.train
    if not trainer.data.labelled:
        return 0
    if config.knn_every is None:
        return int(trainer.progress * config.knn_points)
    every = max(1, round(config.knn_every * trainer.budget.steps_per_epoch))
    return trainer.step // every + (trainer.progress >= 1 and trainer.step % every > 0)


def _agree(seconds: float, signal_number: int) -> tuple[float, int]:
    seconds, number = distributed.all_reduce_max(seconds, signal_number)
    return seconds, int(number)


def _evaluate_midway(trainer: Trainer) -> dict[str, float]:
    with trainer.averaged_weights():
        subject = Subject.of_task(trainer.task, trainer.data, trainer.device, limits=ONLINE_EVAL_SIZES)
        return score(subject, ["knn"])
