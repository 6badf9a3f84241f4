"""The training loop, from where a trainer stands to the end of its budget."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, Protocol

from ssl_zoo import distributed
from ssl_zoo.errors import Interrupted
from ssl_zoo.evaluation import MIDWAY, Subject, score
from ssl_zoo.run import Run
from ssl_zoo.training.trainer import Trainer


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
        SslZooError: the loss is not finite; the last checkpoint stays.
    """
    config = trainer.config.train
    first, alone = distributed.rank() == 0, distributed.world_size() == 1
    log = run.metrics_file.open("a") if first else None
    evaluated = _evaluations(trainer)
    saved = time.monotonic()
    stopped_by = 0

    def save() -> None:
        nonlocal saved
        if log is not None:
            trainer.check_weights()
            os.fsync(log.fileno())
            state = {**trainer.state_dict(), "metrics_bytes": log.tell()}
            run.checkpoints.save(state)
            trainer.tell(
                "ssl_zoo_checkpoint_saved", run=run, step=trainer.step, path=run.checkpoints.file
            )
        saved = time.monotonic()

    def record(metrics: dict[str, float]) -> None:
        if log is not None:
            log.write(json.dumps(metrics) + "\n")
            log.flush()
            reporter.step(trainer.progress, metrics)
            trainer.tell("ssl_zoo_step_logged", run=run, step=trainer.step, metrics=metrics)

    trainer.task.train()
    with _stop_signals() as stop, log or contextlib.nullcontext():
        start = time.monotonic() - trainer.seconds
        while trainer.progress < 1:
            with contextlib.closing(trainer.epoch_batches()) as epoch:
                for step_batches in epoch:
                    losses = trainer.train_step(step_batches)
                    trainer.seconds = time.monotonic() - start
                    due = trainer.step % config.log_every == 0
                    if due or alone or trainer.budget.seconds is not None or trainer.progress >= 1:
                        # Processes agree on when to stop where they meet anyway; but at each step
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
                        raise Interrupted(stopped_by, f"ssl-zoo train --resume {run.path}")
                    if trainer.progress >= 1:
                        break
                    if time.monotonic() - saved >= config.checkpoint_seconds:
                        save()
            if first and trainer.step % trainer.budget.steps_per_epoch == 0:
                trainer.tell("ssl_zoo_epoch_ended", run=run, epoch=int(trainer.epoch))
        save()


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
    seconds, number = distributed.largest(seconds, signal_number)
    return seconds, int(number)


def _evaluate_midway(trainer: Trainer) -> dict[str, float]:
    with trainer.averaged_weights():
        subject = Subject.of_task(trainer.task, trainer.data, trainer.device, most=MIDWAY)
        return score(subject, ["knn"])


class _Stop:
    number = 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Within, SIGINT and SIGTERM are noted instead of ending the process at once."""
    stop = _Stop()

    def note(number: int, frame: object) -> None:
        stop.number = number

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals do not arrive
        old = {}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
