"""A short trial of the fastest precision, memory format and number of threads on this machine."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ssl_zoo import distributed
from ssl_zoo.config.schema import RunConfig, TrainConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import SslZooError
from ssl_zoo.runtime.device import Device
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.trainer import Trainer

log = logging.getLogger("ssl_zoo.training")

STEPS = 3
"""The number of steps measured for each candidate; the median counts."""
THREADS_STEPS, THREADS_SECONDS = 200, 10.0
"""The least steps and seconds of a run for which a trial of the threads, of eight steps, pays."""
FORMATS_STEPS, FORMATS_SECONDS = 1000, 60.0
"""The same for a trial of precision and memory format too, of about twenty steps."""
GAIN = 0.9
"""A candidate replaces the default settings only if a step takes less than this share of the time."""


@dataclass(frozen=True)
class Trial:
    """A candidate and the time of its step.

    Attributes:
        device: the device with a precision, a memory format and threads.
        seconds: the median time of a step; infinite if a step fails.
    """

    device: Device
    seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.3g} s ({self.device})"


def tune_device(config: RunConfig, data: DataSet, device: Device) -> Device:
    """Choose the device settings that the configuration leaves open by a trial, where that pays.

    The threads are tried first, also for runs of some seconds: where another process keeps a processor
    busy, each operation of several threads waits for the one that shares it.

    Each candidate trains a separate network for a few steps, which is then discarded. Settings that the
    configuration fixes are not varied. There is no trial without `train.tune`, nor with
    `train.deterministic` or `train.compile`, nor in several processes, where one could fail while the
    others wait for it.

    Args:
        config: the configuration.
        data: the data.
        device: the device with its default settings.

    Returns:
        The device with the fastest settings.
    """
    train = config.train
    if not train.tune or train.deterministic or train.compile or not _has_open_settings(train):
        return device
    if distributed.world_size() > 1:
        return device
    budget = Budget.of(train, len(data.train))
    if budget.steps is not None and budget.steps < THREADS_STEPS:
        return device
    best = Trial(device, _seconds(Trainer(config, data, device)))
    for candidates, min_steps, min_seconds in (
        (_threads, THREADS_STEPS, THREADS_SECONDS),
        (_formats, FORMATS_STEPS, FORMATS_SECONDS),
    ):
        steps = budget.steps or (budget.seconds or 0) / best.seconds
        if steps < min_steps or steps * best.seconds < min_seconds:
            break
        for candidate in candidates(train, best.device):
            trial = Trial(candidate, _seconds(Trainer(config, data, candidate)))
            if trial.seconds < GAIN * best.seconds:
                log.info("a step takes %s, not %s", trial, best)
                best = trial
    return best.device


def _has_open_settings(train: TrainConfig) -> bool:
    """Return whether the configuration leaves a setting open."""
    return train.precision == "auto" or train.channels_last == "auto" or train.threads is None


def _formats(train: TrainConfig, device: Device) -> Iterator[Device]:
    """Yield the device with each other precision and memory format."""
    precisions = {device.precision, "fp32"} if train.precision == "auto" else {device.precision}
    formats = (True, False) if train.channels_last == "auto" else (device.channels_last,)
    for precision in sorted(precisions):
        for channels_last in formats:
            other = replace(device, precision=precision, channels_last=channels_last)
            if other != device:
                yield other


def _threads(train: TrainConfig, device: Device) -> Iterator[Device]:
    """Yield the device with half of the threads, as two threads on one core can slow each other down."""
    if train.threads is None and device.device.type == "cpu" and device.threads > 1:
        yield replace(device, threads=device.threads // 2)


def _seconds(trainer: Trainer) -> float:
    """Return the median time of a step in seconds, infinite if a step fails.

    The median, and not the fastest, as a step that no other process disturbed is not what a run gets.
    """
    device = trainer.device
    seconds = []
    trainer.task.train()
    with device.computing():
        with contextlib.closing(trainer.epoch_batches()) as batches:
            step = next(batches)
        try:
            for _ in range(STEPS + 1):
                device.synchronise()
                start = time.perf_counter()
                trainer.train_step(step)
                device.synchronise()
                seconds.append(time.perf_counter() - start)
        except (SslZooError, RuntimeError):
            return math.inf
    return statistics.median(seconds[1:])  # the first step allocates memory
