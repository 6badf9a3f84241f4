"""How near training comes to its ceiling: the same step on views that already lie on the device."""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiling

from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_data
from ssl_zoo.runs.run import new_run_folder
from ssl_zoo.runtime.device import Device
from ssl_zoo.training import Trainer
from ssl_zoo.training.trainer import PHASES, Batch
from ssl_zoo.training.tuning import tune_device

BLOCK_SECONDS = 0.5
"""Seconds of the ceiling between changes from one to the other; a step at least."""
MIN_PAIRS = 5
"""So many blocks of each are measured, however long they take."""
PREFETCHED_BATCHES = 4
"""Batches of views that lie ready for the ceiling."""
PROFILED_STEPS = 5
"""Steps in a profile."""


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
        trace: the file with the profile, if one was asked for.
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
    trace: str | None = None


def bench(
    config: RunConfig,
    *,
    seconds: float = 20.0,
    profile: bool = False,
    out: str | Path | None = None,
    data: DataSet | None = None,
) -> Throughput:
    """Measure full training against its ceiling, in turns, in this process.

    Full training is what `train` does between checkpoints and evaluations: drawing and decoding a batch,
    its views, the step, and the log. Each block of steps of it has one of the ceiling beside it.

    Args:
        config: the configuration, as for `train`; its budget does not matter.
        seconds: how long to measure, about; `MIN_PAIRS` of blocks are measured anyway.
        profile: whether to write torch's profile of some steps of full training.
        out: the folder for it, which is made if need be; None makes a new one under ``runs/``.
        data: what the configuration's `data` section describes, if it is loaded already.

    Raises:
        UserError: the input was wrong, or the profile cannot be written.
        SslZooError: a loss is not finite.
    """
    endless = {"epochs": None, "minutes": None, "images": 2**50}
    config = config.model_copy(update={"train": config.train.model_copy(update=endless)})
    device = Device.choose(config.train)
    data = build_data(config, device.device, data)
    device = tune_device(config, data, device)
    with device.computing(), tempfile.TemporaryFile("w") as log:
        trainer = Trainer(config, data, device)
        trainer.task.train()
        measured = _Bench(trainer, log)
        found = measured.measure(seconds)
        if profile:
            folder = new_run_folder(config) if out is None else Path(out)
            found = replace(found, trace=str(measured.profile(folder)))
    return found


class _Bench:
    """Blocks of full training, and of steps on views that lie ready."""

    def __init__(self, trainer: Trainer, log: TextIO) -> None:
        self.trainer = trainer
        self.log = log
        self.ready: Iterator[list[tuple[Tensor, ...]]] = iter(())

    def measure(self, seconds: float) -> Throughput:
        trainer = self.trainer
        self.full(1)
        trainer.device.reset_peak_memory()
        self.full(1)
        peak = trainer.device.peak_memory()
        per_image = self.prepare()
        self.ceiling(1)
        steps = max(1, round(BLOCK_SECONDS / self.ceiling(1)))
        full: list[float] = []
        ceiling: list[float] = []
        start = time.perf_counter()
        while time.perf_counter() - start < seconds or len(full) < MIN_PAIRS:
            # Each is first in turn, so that a machine that grows slower or quicker favours neither.
            order = [(full, self.full), (ceiling, self.ceiling)]
            for times, block in order if len(full) % 2 else reversed(order):
                times.append(block(steps))
        ratios = tuple(c / f for f, c in zip(full, ceiling, strict=True))
        images = trainer.budget.step_images
        return Throughput(
            task=trainer.config.task.name,
            backbone=trainer.config.backbone.name,
            data=trainer.data.name,
            batch_size=trainer.config.train.batch_size,
            device=str(trainer.device),
            views_per_image=per_image,
            images_per_s=images / statistics.median(full),
            views_per_s=per_image * images / statistics.median(full),
            ceiling_views_per_s=per_image * images / statistics.median(ceiling),
            ratio=statistics.median(ratios),
            ratios=ratios,
            peak_memory_bytes=peak,
            shares=self.shares(steps),
        )

    def full(self, steps: int) -> float:
        """Seconds for a step of training, in a block of so many."""
        with self.training() as step:
            return self._seconds(step, steps)

    def ceiling(self, steps: int) -> float:
        """Seconds for a step on views that lie ready, in a block of so many."""
        number = self.trainer.config.train.accumulate
        return self._seconds(lambda: self.trainer.step_on(next(self.ready), number), steps)

    def prepare(self) -> float:
        """Have views of some steps lie ready; how many samples they are for one raw one."""
        with closing(_batches(self.trainer)) as stream:
            drawn = list(itertools.islice(stream, PREFETCHED_BATCHES))
        views = [[self.trainer.views(i, b) for i, b in enumerate(batches)] for batches in drawn]
        self.ready = itertools.cycle(views)
        raw = drawn[0][0][0]
        samples = (v for v in views[0][0] if v.ndim == raw.ndim and v.dtype != torch.bool)
        return sum(map(len, samples)) / len(raw)

    def shares(self, steps: int) -> dict[str, float]:
        """The part that each phase has in the time of some steps of training."""
        device, spent = self.trainer.device, dict.fromkeys(PHASES, 0.0)

        @contextmanager
        def stopwatch(phase: str) -> Iterator[None]:
            device.synchronise()
            start = time.perf_counter()
            yield
            device.synchronise()
            spent[phase] += time.perf_counter() - start

        usual = self.trainer.phase
        with self.training() as step:
            self.trainer.phase = stopwatch
            try:
                whole = steps * self._seconds(step, steps)
            finally:
                self.trainer.phase = usual
        return {phase: seconds / whole for phase, seconds in spent.items()}

    def profile(self, folder: Path) -> Path:
        """Write what torch's profiler sees of some steps of training, for Perfetto or Chrome."""
        file = folder / "trace.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.touch()
        except OSError as error:
            raise UserError(f"--out {folder}: cannot be written into: {error.strerror}") from error
        activities = [ProfilerActivity.CPU]
        if self.trainer.device.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with (
            self.training() as step,
            profiling(activities=activities, record_shapes=True, profile_memory=True) as profiler,
        ):
            for _ in range(PROFILED_STEPS):
                step()
        profiler.export_chrome_trace(str(file))
        return file

    @contextmanager
    def training(self) -> Iterator[Callable[[], None]]:
        """A step as `train` makes it, to be called within, after a first one.

        Without, no batch is decoded ahead. So none is while the ceiling has its turn, and a block ends
        with as many decoded as it began with.
        """
        with closing(_batches(self.trainer)) as stream:

            def step() -> None:
                losses = self.trainer.train_step(next(stream))
                if self.trainer.step % self.trainer.config.train.log_every == 0:
                    self.log.write(json.dumps(self.trainer.metrics(losses)) + "\n")
                    self.log.flush()

            step()
            yield step

    def _seconds(self, step: Callable[[], object], number: int) -> float:
        self.trainer.device.synchronise()
        start = time.perf_counter()
        for _ in range(number):
            step()
        self.trainer.device.synchronise()
        return (time.perf_counter() - start) / number


def _batches(trainer: Trainer) -> Generator[list[Batch]]:
    """For each step its batches, of one epoch after the other."""
    while True:
        with closing(trainer.epoch_batches()) as epoch:
            yield from epoch
