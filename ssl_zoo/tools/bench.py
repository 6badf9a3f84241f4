"""``ssl-zoo bench``: training against its ceiling, the same step on views prepared on the device."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiling

from ssl_zoo import tree
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.runs.build import build_data
from ssl_zoo.runs.run import new_run_folder
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import make_output_folder
from ssl_zoo.training import Trainer
from ssl_zoo.training.trainer import PHASES
from ssl_zoo.training.tuning import tune_device
from ssl_zoo.tree import Tree

BLOCK_SECONDS = 0.5
"""Seconds of a block of steps on prepared views; at least one step."""
MIN_PAIRS = 5
"""The minimum number of pairs of blocks, however long they take."""
PREFETCHED_BATCHES = 4
"""The number of batches of views prepared for the ceiling."""
PROFILED_STEPS = 5
"""The number of steps in a profile."""


@dataclass(frozen=True)
class Throughput:
    """The result of `bench`.

    Attributes:
        task: the task's name.
        backbone: the backbone's name.
        data: the data set's name.
        noun: the plural noun for samples, such as "images".
        batch_size: samples in a batch.
        device: the device, the precision, the memory format and the threads.
        views_per_sample: the inputs of a network that the task's `views` makes of one sample. A view
            counts if it has the type and the data types of what ``spec.prepare`` gives, and as many
            axes, or more in front, such as tiles; masks, labels and indices do not.
        samples_per_s: samples per second of full training.
        views_per_s: views made and trained on per second of full training.
        ceiling_views_per_s: views trained on per second when they are prepared in advance.
        ratio: the ratio of the two, the median over pairs of neighbouring blocks.
        ratios: the ratio of each pair.
        peak_memory_bytes: the peak of full training, as `Device.peak_memory` measures it.
        shares: the fractions of a step's time in data, views, forward, backward, optimizer and
            after_step; the rest to 1 is between them.
        trace: the file with the profile, if requested.
    """

    task: str
    backbone: str
    data: str
    noun: str
    batch_size: int
    device: str
    views_per_sample: float
    samples_per_s: float
    views_per_s: float
    ceiling_views_per_s: float
    ratio: float
    ratios: tuple[float, ...]
    peak_memory_bytes: int | None
    shares: dict[str, float]
    trace: str | None = None


@torch_defaults()
def bench(
    config: RunConfig,
    *,
    seconds: float = 20.0,
    profile: bool = False,
    out: str | Path | None = None,
    data: DataSet | None = None,
) -> Throughput:
    """Measure full training against its ceiling, alternately, in this process.

    Full training is the work of `train` between checkpoints and evaluations: read a batch, make its
    views, step, and log. Each block of training steps is paired with a block of steps on prepared views.

    Args:
        config: the configuration, as for `train`; its budget does not matter.
        seconds: the approximate duration; at least `MIN_PAIRS` pairs of blocks are measured.
        profile: whether to write torch's profile of some steps of full training.
        out: the folder of the profile; None for a new one under ``runs/``.
        data: the data of the configuration, if it is loaded already.

    Raises:
        UserError: the input was wrong, or the profile cannot be written.
        SslZooError: a loss is not finite.
    """
    endless = {"epochs": None, "minutes": None, "samples": 2**50}
    if config.train.compile == "auto":
        endless["compile"] = False  # a trial of it would take longer than all else
    config = config.model_copy(update={"train": config.train.model_copy(update=endless)})
    device = Device.choose(config.train)
    data = build_data(config, device.device, data)
    device = tune_device(config, data, device)
    folder = None
    if profile:
        folder = new_run_folder(config) if out is None else Path(out)
        make_output_folder("--out", folder)
    with device.computing(), tempfile.TemporaryFile("w") as log:
        trainer = Trainer(config, data, device)
        trainer.task.train()
        measured = _Bench(trainer, log)
        result = measured.measure(seconds)
        if folder is not None:
            result = replace(result, trace=str(measured.profile(folder)))
    return result


class _Bench:
    """Blocks of full training, and of steps on prepared views."""

    def __init__(self, trainer: Trainer, log: TextIO) -> None:
        self.trainer = trainer
        self.log = log
        self.prepared: Iterator[list[tuple[Tree, ...]]] = iter(())

    def measure(self, seconds: float) -> Throughput:
        trainer = self.trainer
        self.full(1)
        trainer.device.reset_peak_memory()
        self.full(1)
        peak = trainer.device.peak_memory()
        per_sample = self.prepare()
        self.ceiling(1)
        steps = max(1, round(BLOCK_SECONDS / self.ceiling(1)))
        full: list[float] = []
        ceiling: list[float] = []
        start = time.perf_counter()
        while time.perf_counter() - start < seconds or len(full) < MIN_PAIRS:
            # Alternate which is first, so that a machine that speeds up or slows down favours neither.
            order = [(full, self.full), (ceiling, self.ceiling)]
            for times, block in order if len(full) % 2 else reversed(order):
                times.append(block(steps))
        ratios = tuple(c / f for f, c in zip(full, ceiling, strict=True))
        samples = trainer.budget.step_samples
        return Throughput(
            task=trainer.config.task.name,
            backbone=trainer.config.backbone.name,
            data=trainer.data.name,
            noun=trainer.data.spec.noun,
            batch_size=trainer.config.train.batch_size,
            device=str(trainer.device),
            views_per_sample=per_sample,
            samples_per_s=samples / statistics.median(full),
            views_per_s=per_sample * samples / statistics.median(full),
            ceiling_views_per_s=per_sample * samples / statistics.median(ceiling),
            ratio=statistics.median(ratios),
            ratios=ratios,
            peak_memory_bytes=peak,
            shares=self.shares(steps),
        )

    def full(self, steps: int) -> float:
        """Return the seconds per step of a block of training."""
        with self.training() as step:
            return self._seconds(step, steps)

    def ceiling(self, steps: int) -> float:
        """Return the seconds per step of a block on prepared views."""
        number = self.trainer.config.train.accumulate
        return self._seconds(lambda: self.trainer.step_on(next(self.prepared), number), steps)

    def prepare(self) -> float:
        """Prepare views of some steps; return the number of a network's inputs per sample."""
        with closing(self.trainer.endless_batches()) as stream:
            drawn = list(itertools.islice(stream, PREFETCHED_BATCHES))
        views = [[self.trainer.views(i, b) for i, b in enumerate(batches)] for batches in drawn]
        self.prepared = itertools.cycle(views)
        raw = drawn[0][0].raw
        example = self.trainer.data.spec.prepare(raw)
        return sum(_inputs(view, example) for view in views[0][0]) / tree.size(raw)

    def shares(self, steps: int) -> dict[str, float]:
        """Return the fraction of each phase in the time of some steps of training."""
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
        """Write torch's profile of some steps of training, for Perfetto or Chrome."""
        file = folder / "trace.json"
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
        """Yield a function that makes a step of training, after a first one.

        Batches are decoded ahead only inside this context: not during a block of the ceiling, and a
        block ends with as many decoded batches as it began with.
        """
        with closing(self.trainer.endless_batches()) as stream:

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


def _inputs(view: Tree, example: Tree) -> int:
    """Return the number of a network's inputs in a view, 0 if it is not like a prepared batch."""
    leaves, like = list(tree.leaves(view)), list(tree.leaves(example))
    if type(view) is not type(example) or [x.dtype for x in leaves] != [x.dtype for x in like]:
        return 0
    further = {x.ndim - y.ndim for x, y in zip(leaves, like, strict=True)}
    number = further.pop()
    return 0 if further or number < 0 else math.prod(leaves[0].shape[: number + 1])
