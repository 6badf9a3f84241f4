"""Which precision, memory format and number of threads are quickest here, by a short trial."""

from __future__ import annotations

import contextlib
import logging
import math
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
"""Steps that a candidate is given, of which the quickest counts."""
MIN_STEPS = 1000
"""Runs of fewer steps are not worth a trial, which takes some twenty."""
MIN_SECONDS = 60.0
"""Nor are those that take fewer seconds than this as they are."""
GAIN = 0.9
"""What is known of the hardware decides, unless another choice takes at most this share of the time."""


@dataclass(frozen=True)
class Trial:
    """How long a step takes on a device so set.

    Attributes:
        device: the device with a precision, a format and threads.
        seconds: of a step; infinite where it cannot be made.
    """

    device: Device
    seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.3g} s ({self.device})"


def tune_device(config: RunConfig, data: DataSet, device: Device) -> Device:
    """The device with what the configuration leaves open chosen by a trial, where that pays.

    Each candidate trains a network of its own for a few steps, which leaves nothing behind. Whatever
    the configuration gives is kept; `train.tune` and `train.deterministic` decide whether there is a
    trial at all. Several processes make none: one of them could fail where the others wait for it.

    Args:
        config: the configuration.
        data: the data.
        device: what would be chosen without a trial.
    """
    train = config.train
    if not train.tune or train.deterministic or train.compile or not _open(train):
        return device
    if distributed.world_size() > 1:
        return device
    budget = Budget.of(train, len(data.train))
    if budget.steps is not None and budget.steps < MIN_STEPS:
        return device
    best = Trial(device, _seconds(Trainer(config, data, device)))
    steps = budget.steps or (budget.seconds or 0) / best.seconds
    if steps < MIN_STEPS or steps * best.seconds < MIN_SECONDS:
        return device
    for candidates in (_formats, _threads):
        for candidate in candidates(train, best.device):
            tried = Trial(candidate, _seconds(Trainer(config, data, candidate)))
            if tried.seconds < GAIN * best.seconds:
                log.info("a step takes %s, not %s", tried, best)
                best = tried
    return best.device


def _open(train: TrainConfig) -> bool:
    """Whether there is anything to choose."""
    return train.precision == "auto" or train.channels_last == "auto" or train.threads is None


def _formats(train: TrainConfig, device: Device) -> Iterator[Device]:
    """Other precisions and memory formats."""
    precisions = {device.precision, "fp32"} if train.precision == "auto" else {device.precision}
    lasts = (True, False) if train.channels_last == "auto" else (device.channels_last,)
    for precision in sorted(precisions):
        for last in lasts:
            other = replace(device, precision=precision, channels_last=last)
            if other != device:
                yield other


def _threads(train: TrainConfig, device: Device) -> Iterator[Device]:
    """Half of the threads: more of them wait for each other, where processors share their cores."""
    if train.threads is None and device.device.type == "cpu" and device.threads > 1:
        yield replace(device, threads=device.threads // 2)


def _seconds(trainer: Trainer) -> float:
    """The time of a step; infinite if it cannot be made on such a device."""
    device = trainer.device
    taken = []
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
                taken.append(time.perf_counter() - start)
        except (SslZooError, RuntimeError):
            taken.append(math.inf)
    return min(taken[1:], default=math.inf)  # in the first one memory is laid out
