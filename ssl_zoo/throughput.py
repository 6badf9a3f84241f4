"""How near training comes to its ceiling: the same step on views that already lie on the device."""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ssl_zoo.config import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.device import Device
from ssl_zoo.outputs import check_output
from ssl_zoo.run import build_data
from ssl_zoo.training import Trainer
from ssl_zoo.training.trainer import PHASES, Batch
from ssl_zoo.training.tuning import tuned

BLOCK = 0.5
"""Seconds of the ceiling between changes from one to the other; a step at least."""
FEWEST_PAIRS = 5
"""So many blocks of each are measured, however long they take."""
PREPARED = 4
"""Batches of views that lie ready for the ceiling."""
PROFILED = 5
"""Steps in a profile."""

Stream: TypeAlias = Generator[list[Batch]]
"""For each step its batches."""


@dataclass(frozen=True)
class Throughput:
    """What a measurement found.

    Attributes:
        task: the task's name.
        backbone: the backbone's name.
        data: what the data set is called.
        batch_size: images in a batch.
        device: the device, the precision, the memory format and the threads.
        views_per_image: how many samples the task's `views` makes of one, masks and numbers aside.
        images_per_s: images drawn in a second of full training.
        views_per_s: views made and trained on in a second of full training.
        ceiling_views_per_s: those that a second of training alone takes, with views at hand.
        ratio: of the two, the median over pairs of neighbouring blocks.
        ratios: of each pair.
        peak_memory_bytes: the most in use during full training, as `Device.peak_memory` has it.
        shares: the part of a step's time in data, views, forward, backward, optimizer and after_step;
            what is left to 1 lies between them.
    """

    task: str
    backbone: str
    data: str
    batch_size: int
    device: str
    views_per_image: float
    images_per_s: float
    views_per_s: float
    ceiling_views_per_s: float
    ratio: float
    ratios: tuple[float, ...]
    peak_memory_bytes: int | None
    shares: dict[str, float]


def bench(
    config: RunConfig,
    *,
    seconds: float = 20.0,
    trace: str | Path | None = None,
    data: DataSet | None = None,
) -> Throughput:
    """Measure full training against its ceiling, in turns, in this process.

    Full training is what `train` does between checkpoints and evaluations: drawing and decoding a batch,
    its views, the step, and the log. Each block of steps of it has one of the ceiling beside it.

    Args:
        config: the configuration, as for `train`; its budget does not matter.
        seconds: how long to measure, about; `FEWEST_PAIRS` of blocks are measured anyway.
        trace: the file into which torch's profile of some steps of full training is written.
        data: what the configuration's `data` section describes, if it is loaded already.

    Raises:
        UserError: the input was wrong, or `trace` cannot be written.
        SslZooError: a loss is not finite.
    """
    if trace is not None:
        check_output("--out", Path(trace), {".json": ()})
    endless = {"epochs": None, "minutes": None, "images": 2**50}
    config = config.model_copy(update={"train": config.train.model_copy(update=endless)})
    device = Device.choose(config.train)
    data = build_data(config, device.device, data)
    device = tuned(config, data, device)
    with device.computing(), tempfile.TemporaryFile("w") as log:
        trainer = Trainer(config, data, device)
        trainer.task.train()
        with closing(_batches(trainer)) as stream:
            measured = _measure(trainer, stream, log, seconds)
            if trace is not None:
                _profile(trainer, stream, log, Path(trace))
    return measured


def _measure(trainer: Trainer, stream: Stream, log: TextIO, seconds: float) -> Throughput:
    device, train = trainer.device, trainer.config.train

    def full() -> None:
        _full_step(trainer, next(stream), log)

    def ceiling() -> None:
        trainer.step_on(next(ready), train.accumulate)

    full()
    device.reset_peak_memory()
    full()
    peak = device.peak_memory()
    raw, views = _prepared(trainer, stream)
    ready = itertools.cycle(views)
    ceiling()
    steps = max(1, round(BLOCK / _seconds(device, ceiling, 1)))
    times: dict[Callable[[], None], list[float]] = {full: [], ceiling: []}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[full]) < FEWEST_PAIRS:
        # Each is first in turn, so that a machine that grows slower or quicker favours neither.
        for step in (full, ceiling) if len(times[full]) % 2 else (ceiling, full):
            times[step].append(_seconds(device, step, steps))
    ratios = tuple(c / f for f, c in zip(times[full], times[ceiling], strict=True))
    images = trainer.budget.step_images
    samples = (v for v in views[0][0] if v.ndim == raw.ndim and v.dtype != torch.bool)
    per_image = sum(map(len, samples)) / len(raw)
    return Throughput(
        task=trainer.config.task.name,
        backbone=trainer.config.backbone.name,
        data=trainer.data.name,
        batch_size=train.batch_size,
        device=str(device),
        views_per_image=per_image,
        images_per_s=images / statistics.median(times[full]),
        views_per_s=per_image * images / statistics.median(times[full]),
        ceiling_views_per_s=per_image * images / statistics.median(times[ceiling]),
        ratio=statistics.median(ratios),
        ratios=ratios,
        peak_memory_bytes=peak,
        shares=_shares(trainer, full, steps),
    )


def _batches(trainer: Trainer) -> Stream:
    """The batches of one epoch after the other."""
    while True:
        with closing(trainer.epoch_batches()) as epoch:
            yield from epoch


def _full_step(trainer: Trainer, batches: list[Batch], log: TextIO) -> None:
    """A step as `train` makes it."""
    losses = trainer.train_step(batches)
    if trainer.step % trainer.config.train.log_every == 0:
        log.write(json.dumps(trainer.metrics(losses)) + "\n")
        log.flush()


def _prepared(trainer: Trainer, stream: Stream) -> tuple[Tensor, list[list[tuple[Tensor, ...]]]]:
    """A raw batch, and for each of some steps the views of its batches."""
    raw = torch.empty(0)
    ready = []
    for _ in range(PREPARED):
        batches = next(stream)
        raw = batches[0][0]
        ready.append([trainer.views(i, batch) for i, batch in enumerate(batches)])
    return raw, ready


def _seconds(device: Device, step: Callable[[], None], number: int) -> float:
    """The time of a step, in a block of so many."""
    device.synchronise()
    start = time.perf_counter()
    for _ in range(number):
        step()
    device.synchronise()
    return (time.perf_counter() - start) / number


def _shares(trainer: Trainer, step: Callable[[], None], number: int) -> dict[str, float]:
    """The part that each phase has in the time of some steps."""
    spent = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def stopwatch(phase: str) -> Iterator[None]:
        trainer.device.synchronise()
        start = time.perf_counter()
        yield
        trainer.device.synchronise()
        spent[phase] += time.perf_counter() - start

    usual, trainer.phase = trainer.phase, stopwatch
    try:
        whole = number * _seconds(trainer.device, step, number)
    finally:
        trainer.phase = usual
    return {phase: seconds / whole for phase, seconds in spent.items()}


def _profile(trainer: Trainer, stream: Stream, log: TextIO, file: Path) -> None:
    """Write what torch's profiler sees of some steps, for Perfetto or Chrome."""
    activities = [ProfilerActivity.CPU]
    if trainer.device.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True, profile_memory=True) as profiler:
        for _ in range(PROFILED):
            _full_step(trainer, next(stream), log)
    profiler.export_chrome_trace(str(file))
