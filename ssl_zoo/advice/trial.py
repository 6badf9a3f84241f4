"""Short trials: the seconds of a step of a run, and of an evaluation, on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

import torch

from ssl_zoo.advice.plan import Trial
from ssl_zoo.config.schema import EncoderConfig, RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.evaluation import score, unsupported_protocols
from ssl_zoo.evaluation.scoring import UNTRAINED, of_encoder
from ssl_zoo.evaluation.subject import Subject, dry_run
from ssl_zoo.notices import silence
from ssl_zoo.runs.build import build_data
from ssl_zoo.runtime.device import Device
from ssl_zoo.training import Trainer

MIN_STEPS = 3
"""The minimum number of steps that are timed, however long they take."""
_PROBED = 256
"""The number of samples by which the duration of an evaluation is estimated before it is made."""


def try_training(config: RunConfig, data: DataSet, device: Device, seconds: float) -> Trial:
    """Return the duration of a step of a run, and of what comes before the first one.

    Args:
        config: the configuration; its budget does not matter.
        data: the data, loaded.
        device: where and how to compute.
        seconds: how long to train, after a first step; at least `MIN_STEPS` steps.

    Raises:
        UserError: the task does not fit the data or the backbone.
        SslZooError: a loss is not finite.
    """
    endless = {"epochs": None, "samples": 2**50, "minutes": None}
    config = config.model_copy(update={"train": config.train.model_copy(update=endless)})
    start = time.perf_counter()
    with silence(), device.computing():
        trainer = Trainer(config, build_data(config, device.device, data), device)
        dry_run(trainer.task, trainer.data, device)
        trainer.task.train()
        steps, elapsed = 0, 0.0
        with closing(trainer.endless_batches()) as batches:
            trainer.train_step(next(batches))
            device.synchronise()
            ready = time.perf_counter()
            while steps < MIN_STEPS or elapsed < seconds:
                trainer.train_step(next(batches))
                device.synchronise()
                steps, elapsed = steps + 1, time.perf_counter() - ready
    return Trial(
        step_seconds=elapsed / steps,
        setup_seconds=ready - start,
        steps_per_pass=trainer.budget.steps_per_epoch,
    )


@dataclass(frozen=True)
class EvaluationTrial:
    """The duration of an evaluation of a network.

    Attributes:
        seconds: the duration of all protocols.
        first_seconds: the duration of the features and the first protocol, as during training.
        measured: whether it was made; else features alone would take longer than they may.
    """

    seconds: float
    first_seconds: float
    measured: bool = True


def try_evaluation(
    config: EncoderConfig, data: DataSet, device: Device, protocols: Iterable[str], limit: float
) -> EvaluationTrial:
    """Return the duration of an evaluation of the untrained network.

    Args:
        config: the configuration, with the network.
        data: the data, loaded.
        device: where and how to compute.
        protocols: the names of the protocols; those that the data does not support are left out.
        limit: the seconds that features may take; if they would take longer, nothing is evaluated.
    """
    untrained = config.model_copy(update={"backbone": config.backbone.untrained()})
    with silence(), device.computing():
        subject = of_encoder(untrained, data, device, UNTRAINED)
        if (estimate := _features_seconds(subject)) > limit:
            return EvaluationTrial(estimate, estimate, measured=False)
        names = list(protocols)
        unsupported = unsupported_protocols(names, data)
        durations = []
        for name in (name for name in names if name not in unsupported):
            start = time.perf_counter()
            score(subject, [name])
            durations.append(time.perf_counter() - start)
    return EvaluationTrial(sum(durations), next(iter(durations), 0.0))


def try_features(config: EncoderConfig, data: DataSet, device: Device) -> float:
    """Return about how many seconds the features of all samples by a network take."""
    with silence(), device.computing():
        return _features_seconds(of_encoder(config, data, device, UNTRAINED))


def _features_seconds(subject: Subject) -> float:
    """Return the same for a subject, by a part of the samples."""
    data = subject.data
    splits = [split for split in (data.bank, data.test) if split is not None]
    probed = min(_PROBED, len(data.bank))
    start = time.perf_counter()
    subject.extract(data.bank, torch.arange(probed))
    return (time.perf_counter() - start) * sum(map(len, splits)) / probed
