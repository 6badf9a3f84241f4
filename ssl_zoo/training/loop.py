"""The training loop, from the trainer's current step to the end of its budget."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence

from ssl_zoo import distributed
from ssl_zoo.errors import Interrupted, SslZooError
from ssl_zoo.evaluation import ONLINE_EVAL_SIZES, Subject, score
from ssl_zoo.runs import restarts
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime import signals
from ssl_zoo.task import Task
from ssl_zoo.training.checkpointer import Checkpointer
from ssl_zoo.training.replay import keep_failed_step
from ssl_zoo.training.snapshots import keep_best, keep_due
from ssl_zoo.training.trainer import Trainer

log = logging.getLogger(__name__)

SYNC_EVERY = 10
"""The maximum number of steps between two agreements of several processes on whether to stop."""


def fit(trainer: Trainer, run: Run) -> None:
    """Train to the end of the budget or of the patience, logging and saving into `run`.

    Raises:
        Interrupted: a signal asked to stop; everything done so far is saved.
        NotFinite: the loss, the gradient or a weight is not finite; the step is saved for a replay, and
            the last checkpoint stays.
        Unwritable: a file cannot be written; the last checkpoint stays.
    """
    config, budget = trainer.config.train, trainer.budget
    alone = distributed.world_size() == 1
    evaluations = _evaluations_due(trainer)
    stopped_by = 0
    trainer.task.train()
    with (
        signals.record_stop_signals() as stop,
        keep_failed_step(trainer, run),
        Checkpointer(trainer, run) as checkpointer,
    ):
        start = time.monotonic() - trainer.seconds

        def check_stop() -> None:
            if number := _agree(0.0, stop.number)[1]:
                raise Interrupted(number, resume_command(run))  # which begins again

        trainer.prepare(check_stop)
        while not trainer.ended():
            with contextlib.closing(trainer.epoch_batches()) as epoch:
                for batches in epoch:
                    losses = trainer.train_step(batches)
                    trainer.seconds = time.monotonic() - start

                    # Several processes agree on when to stop every few steps. Where the learning rate
                    # and the end follow from the time, which each measures differently, they agree on
                    # that at every step. So they do on when to save, as each saves its shards.
                    sync = trainer.step % min(config.log_every, SYNC_EVERY) == 0
                    always = alone or budget.seconds is not None or config.checkpoint_seconds == 0
                    due = False
                    if sync or always or trainer.progress >= 1:
                        seconds = trainer.seconds
                        trainer.seconds, stopped_by, due = _agree(seconds, stop.number, checkpointer.due)

                    if trainer.step % config.log_every == 0 or trainer.progress >= 1:
                        checkpointer.log(trainer.metrics(losses))
                    if (number := _evaluations_due(trainer)) > evaluations:
                        evaluations = number
                        checkpointer.log({**trainer.position(), **(scores := _evaluate_online(trainer))})
                        if _is_gain(trainer, scores):
                            checkpointer.save()
                            keep_best(trainer, run)
                        start = time.monotonic() - trainer.seconds  # without the evaluation

                    keep_due(trainer, run)
                    if stopped_by:
                        checkpointer.save()
                        distributed.barrier()
                        raise Interrupted(stopped_by, resume_command(run))
                    if trainer.ended():
                        break
                    if due:
                        checkpointer.save()
            if distributed.rank() == 0 and trainer.step % budget.steps_per_epoch == 0:
                trainer.notify("ssl_zoo_epoch_ended", run=run, epoch=int(trainer.epoch))
        checkpointer.save()
        _, stopped_by, _ = _agree(trainer.seconds, stop.number)
        if stopped_by:
            raise Interrupted(stopped_by, resume_command(run))


def warn_of_chance(task: Task, metrics: Sequence[Mapping[str, float]]) -> None:
    """Warn if the loss stayed within 1 % of chance in the second half of training.

    Args:
        task: the task.
        metrics: the logged lines of the run.
    """
    chance = task.chance_loss
    losses = [line["loss"] for line in metrics if "loss" in line and line["progress"] >= 0.5]
    if chance and losses and all(abs(loss - chance) <= 0.01 * chance for loss in losses):
        log.warning(
            "the loss stayed at %.4g in the second half of training, which is chance: nothing was "
            "learnt; try another train.lr, or a longer run", chance,
        )  # fmt: skip


def resume_command(run: Run) -> str:
    """Return the command that resumes a run with the current plugins and number of processes."""
    number = os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size())  # of one machine of several
    return restarts.resume_command(run.path, int(number))


def _evaluations_due(trainer: Trainer) -> int:
    """Return how many evaluations are due by now; the last one is at the end of the budget."""
    config = trainer.config.train
    if not trainer.data.labelled and trainer.best.figure is None:
        return 0
    if config.knn_every is None:
        return int(trainer.progress * config.knn_points)
    every = max(1, round(config.knn_every * trainer.budget.steps_per_epoch))
    return trainer.step // every + (trainer.progress >= 1 and trainer.step % every > 0)


def _evaluate_online(trainer: Trainer) -> dict[str, float]:
    """Return the kNN accuracy where there are labels, and the figure that is followed, if any."""
    best = trainer.best
    names = ["knn"] if trainer.data.labelled else []
    with trainer.evaluated_task() as task:
        subject = Subject.of_task(task, trainer.data, trainer.device, limits=ONLINE_EVAL_SIZES)
        scores = score(subject, names)
        if best.figure is not None and best.figure not in scores:
            measured = score(subject, [best.protocol])
            if best.figure not in measured:
                raise SslZooError(
                    f"train.keep_best: {best.figure} cannot be measured here; choose another"
                )
            scores[best.figure] = measured[best.figure]
    return scores


def _is_gain(trainer: Trainer, scores: Mapping[str, float]) -> bool:
    """Return whether an evaluation is the best so far, the same in all processes."""
    if trainer.best.figure is None:
        return False
    value = distributed.broadcast_from_rank0(repr(float(scores[trainer.best.figure])))
    return trainer.best.add(float(value), trainer.step)


def _agree(seconds: float, signal_number: int, due: bool = False) -> tuple[float, int, bool]:
    """Return the maxima over processes of time and signal number, and whether a checkpoint is due."""
    seconds, number, any_due = distributed.all_reduce_max(seconds, signal_number, due)
    return seconds, int(number), bool(any_due)
