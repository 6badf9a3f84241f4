"""Snapshots: the exported backbone as it was during training, beside that of the end."""

from __future__ import annotations

from typing import Any

from ssl_zoo import distributed
from ssl_zoo.notices import Notice
from ssl_zoo.runs.backbone import write_backbone
from ssl_zoo.runs.run import BEST_FILE, SNAPSHOTS, Run
from ssl_zoo.runtime.files import write_errors
from ssl_zoo.training.trainer import Trainer

STOPPED_EARLY = Notice(
    "stopped-early",
    "A run with train.patience ends after that many evaluations during training without gain, before "
    "its learning rate has come to the end of its schedule.",
    "a larger train.patience; --resume RUN with a longer budget goes on",
)


def keep_due(trainer: Trainer, run: Run) -> None:
    """Keep a snapshot of the step that the trainer is at, if ``train.keep_every`` asks for one.

    The files' names sort by epoch.

    Raises:
        NotFinite: the weights are not finite.
        Unwritable: the file cannot be written.
    """
    epochs = trainer.config.train.keep_every
    if epochs is None:
        return
    if trainer.step % max(1, round(epochs * trainer.budget.steps_per_epoch)) == 0:
        name = f"epoch-{int(trainer.epoch):05d}-step-{trainer.step:08d}.safetensors"
        _write(trainer, run, name, {})


def keep_best(trainer: Trainer, run: Run) -> None:
    """Keep a snapshot of the best evaluation, if that is of the step that the trainer is at.

    The checkpoint of the step is saved before, so that a run which is killed in between writes the
    snapshot when it is resumed.

    Raises:
        NotFinite: the weights are not finite.
        Unwritable: the file cannot be written.
    """
    best = trainer.best
    if best.figure is not None and best.value is not None and best.step == trainer.step:
        _write(trainer, run, BEST_FILE, {best.figure: repr(best.value)})


def _write(trainer: Trainer, run: Run, name: str, notes: dict[str, str]) -> None:
    """Write the exported backbone, with its place in the run in the header."""
    trainer.confirm()  # in every process, as what follows
    trainer.check_weights()
    config = trainer.config.backbone
    place = {"step": str(trainer.step), "epoch": f"{trainer.epoch:g}"}
    with trainer.evaluated_task() as task:
        if distributed.rank() != 0:
            return
        with write_errors(run.snapshots):
            run.snapshots.mkdir(exist_ok=True)
        encoder = task.exported_encoder
        write_backbone(run.snapshots / name, encoder, config, trainer.data.spec, {**notes, **place})


def describe_best(trainer: Trainer) -> dict[str, Any]:
    """Return what the results of a run say of its best evaluation; give a notice of an early stop.

    Empty for a run that follows no figure.
    """
    best, per_epoch = trainer.best, trainer.budget.steps_per_epoch
    if best.figure is None or best.value is None:
        return {}
    epoch = best.step / per_epoch
    if best.exhausted:
        STOPPED_EARLY(
            f"stopped early at epoch {trainer.epoch:.4g}, after {best.without_gain} evaluations without "
            f"gain: {best.figure} was best at epoch {epoch:.4g} ({best.value:.4g}), with the weights in "
            f"{SNAPSHOTS}/{BEST_FILE}"
        )
    facts = {"figure": best.figure, "value": best.value, "step": best.step, "epoch": round(epoch, 4)}
    return {"best": facts, "stopped_early": best.exhausted}
