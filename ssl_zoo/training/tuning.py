"""A short trial of the fastest threads, precision, memory format and compilation on this machine."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from ssl_zoo import distributed
from ssl_zoo.config.schema import RunConfig, TrainConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import SslZooError
from ssl_zoo.runtime.device import Device, can_compile
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.trainer import Trainer

log = logging.getLogger("ssl_zoo.training")

STEPS = 3
"""The number of steps measured for each candidate; the median counts."""


class Timing(NamedTuple):
    """The times of some steps.

    Attributes:
        warm_up: the seconds that the first steps took longer, in which a task is compiled.
        seconds: the median seconds of the later steps; infinite if a step fails.
    """

    warm_up: float
    seconds: float


class Stage(NamedTuple):
    """A part of the trial.

    Attributes:
        candidates: yields the devices to try, from the best so far.
        steps: the least steps of a run in which the trial itself pays.
        seconds: the least seconds of such a run.
        gain: the share of the best time of a step that a candidate must stay below.
    """

    candidates: Callable[[TrainConfig, Device], Iterator[Device]]
    steps: int
    seconds: float
    gain: float


def tune_device(config: RunConfig, data: DataSet, device: Device) -> Device:
    """Choose the device settings that the configuration leaves open by a trial, where that pays.

    The threads are tried first, also for runs of some seconds: where another process keeps a processor
    busy, each operation of several threads waits for the one that shares it.

    A long run tries `torch.compile` too, where there is a compiler. It is chosen only if the steps of
    the run save more time than compiling takes.

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
    if not train.tune or train.deterministic or train.compile is True or not _has_open_settings(train):
        return device
    if distributed.world_size() > 1:
        return device
    budget = Budget.of(train, len(data.train))
    if budget.steps is not None and budget.steps < STAGES[0].steps:
        return device
    best, seconds = device, _time(Trainer(config, data, device)).seconds
    for stage in STAGES:
        steps = budget.steps or (budget.seconds or 0) / seconds
        if steps < stage.steps or steps * seconds < stage.seconds:
            break
        for candidate in stage.candidates(train, best):
            timing = _time(Trainer(config, data, candidate))
            if timing.seconds >= stage.gain * seconds:
                continue
            if candidate.compile and steps * (seconds - timing.seconds) < timing.warm_up:
                continue
            log.info(
                "a step takes %.3g s (%s), not %.3g s (%s)", timing.seconds, candidate, seconds, best
            )
            best, seconds = candidate, timing.seconds
    return best


def _has_open_settings(train: TrainConfig) -> bool:
    """Return whether the configuration leaves a setting open."""
    return train.threads is None or "auto" in (train.precision, train.channels_last, train.compile)


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


def _compiled(train: TrainConfig, device: Device) -> Iterator[Device]:
    """Yield the device with `torch.compile`, where there is a compiler."""
    recomputes = train.cached_gradients or train.grad_checkpointing
    if train.compile == "auto" and not recomputes and can_compile():
        yield replace(device, compile=True)


STAGES = (
    Stage(_threads, steps=200, seconds=10, gain=0.9),
    Stage(_formats, steps=1000, seconds=60, gain=0.9),
    Stage(_compiled, steps=1000, seconds=900, gain=0.95),
)
"""The parts of the trial: of eight steps, of about twenty, and one that may compile for two minutes."""


def _time(trainer: Trainer) -> Timing:
    """Return the times of some steps.

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
            return Timing(0, math.inf)
    median = statistics.median(seconds[1:])  # the first step allocates memory
    return Timing(sum(seconds) - len(seconds) * median, median)
