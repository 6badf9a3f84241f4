"""A task, its optimiser, and one step of training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.profiler import record_function

from ssl_zoo import distributed
from ssl_zoo.backbones.gradient_cache import frozen_statistics
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.data.sample_files import SkippedSamples
from ssl_zoo.data.splits import Pass
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.agreement import describe_origin
from ssl_zoo.runs.build import build_task, record_choices
from ssl_zoo.runs.shards import sliced
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses, Task
from ssl_zoo.training.accumulation import Accumulation
from ssl_zoo.training.batch import Batch
from ssl_zoo.training.best import BestEvaluation
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.finite import MIN_LOSS_SCALE, FiniteCheck, NotFinite
from ssl_zoo.training.optimizer import Schedules, create_optimizer
from ssl_zoo.training.parallel import parallelise
from ssl_zoo.training.passes import count_passes
from ssl_zoo.training.unused import may_be_unused
from ssl_zoo.views import Rng, derive_seed

PHASES = ("data", "views", "forward", "backward", "optimizer", "after_step")
"""The phases of a step, in order."""


class Trainer:
    """A task, its optimiser and its progress through the budget.

    Attributes:
        config: the resolved configuration.
        data: the data.
        device: where and how the network computes.
        task: the task in training.
        budget: the length of the run.
        step: optimiser steps done.
        seconds: time spent in training so far, without evaluation.
        passes: samples that encoders process for each sample drawn, the mean over the steps so far;
            None before the first one, and with `torch.compile`.
        best: the best evaluation during training, and whether it is time to stop.
        grad_norm: the norm of the last step's gradient, before clipping.
        finite: the check of each step's losses and gradient.
        phase: a context manager around each phase of a step, called with its name in `PHASES`. It
            marks the phase for torch's profiler; `bench` puts a stopwatch in its place.
    """

    def __init__(
        self, config: RunConfig, data: DataSet, device: Device, task: Task | None = None
    ) -> None:
        """Build the task and its optimiser, and place them on the device.

        Args:
            config: the configuration.
            data: the data.
            device: where and how to compute.
            task: the task to train; None builds the one that the configuration names.
        """
        if data.train.canvas is not None:
            data.train.canvas.prepare()
        self.config = config = record_choices(config, data, device)
        self.data = data
        self.device = device
        self.budget = Budget.of(config.train, len(data.train), distributed.world_size())
        self.task = device.place(build_task(config, data.spec) if task is None else task)
        find_unused = self._find_unused()
        if distributed.world_size() > 1 and config.train.sync_batchnorm:
            distributed.sync_batchnorm(self.task)
        decay, whole = config.train.ema, config.train.parallel == "ddp"  # lists of shards have no lerp
        exported = self.task.exported_encoder
        self.ema = ModelEmaV3(exported, decay, foreach=whole) if decay is not None else None
        average = None if self.ema is None else self.ema.module
        self.parallel = parallelise(self.task, average, config, device, find_unused)
        self.optimizer = create_optimizer(self.task, config.train, self.budget.step_samples)
        self.schedules = Schedules(self.optimizer, config.train, self.budget)
        self.finite = FiniteCheck(config, device, self.optimizer)
        self._batches: Sequence[Batch] = ()
        self.scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
        self.step = 0
        self.seconds = 0.0
        self.passes: float | None = None
        self.best = BestEvaluation.of(config.train, data)
        self.grad_norm = torch.zeros(())
        self.phase: Callable[[str], AbstractContextManager[object]] = record_function
        self._peak_before = 0
        self._skipped_before = SkippedSamples()

    def _find_unused(self) -> bool:
        """Return whether to search each step for parameters without a gradient."""
        find = self.config.train.find_unused_parameters
        if distributed.world_size() == 1 or find is not None:
            return bool(find)
        return may_be_unused(self.task, self.data.train, self.device)

    @property
    def progress(self) -> float:
        """The progress of the schedules, in [0, 1]; the share of the budget that is done."""
        return self.budget.progress(self.step, self.seconds)

    def ended(self) -> bool:
        """Return whether the run has come to the end of its budget, or of its patience."""
        return self.progress >= 1 or self.best.exhausted

    @property
    def rate(self) -> float:
        """The scheduled learning rate, without factors on it."""
        return self.schedules.rate

    def follow_schedules(self) -> None:
        """Set the learning rates and weight decays to those of the progress."""
        self.schedules.follow(self.progress)

    @property
    def peak_memory(self) -> int | None:
        """The peak number of bytes in use during training, as `Device.peak_memory` counts them."""
        now = self.device.peak_memory()
        return None if now is None else max(now, self._peak_before)

    @property
    def skipped(self) -> SkippedSamples:
        """The reason for each sample that was skipped, in this process or before resuming."""
        return SkippedSamples.join(self._skipped_before, self.data.train.skipped)

    @property
    def samples(self) -> int:
        """The number of samples drawn so far, over all processes."""
        return self.step * self.budget.step_samples

    @property
    def epoch(self) -> float:
        """The number of passes over the train split so far."""
        return self.step / self.budget.steps_per_epoch

    def epoch_batches(self) -> Generator[list[Batch]]:
        """Yield this process's batches, to be accumulated, for each step left in the current epoch.

        The order depends on the seed and the epoch alone. The samples of a step form one joint batch
        after the other, and every process takes its share of each.
        """
        config, world = self.config.train, distributed.world_size()
        epoch, done = divmod(self.step, self.budget.steps_per_epoch)
        part = Pass(
            seed=derive_seed(config.seed, "order", epoch),
            batch_size=config.batch_size // world,
            first=done * config.accumulate,
            end=self.budget.steps_per_epoch * config.accumulate,
            rank=distributed.rank(),
            world_size=world,
            pin=self.device.device.type == "cuda",
        )
        with closing(self.data.train.batches(part)) as stream:
            while True:
                with self.phase("data"):
                    step = [
                        Batch.of(raw, indices, self.task, self.data.train)
                        for raw, indices in itertools.islice(stream, config.accumulate)
                    ]
                if not step:
                    return
                yield step

    def endless_batches(self) -> Generator[list[Batch]]:
        """Yield the batches of each step as `epoch_batches` does, epoch after epoch."""
        while True:
            with closing(self.epoch_batches()) as epoch:
                yield from epoch

    def prepare(self, check_stop: Callable[[], None]) -> None:
        """Let the task see one pass over the train split before the first step, if it asks for it.

        Args:
            check_stop: called before each batch; may raise to stop.
        """
        if self.step > 0 or type(self.task).before_training is Task.before_training:
            return

        def passed() -> Generator[tuple[Tensor, ...]]:
            with closing(self.epoch_batches()) as epoch:
                for i, batch in enumerate(itertools.chain.from_iterable(epoch)):
                    check_stop()
                    yield self.views(i, batch, "before training")

        torch.manual_seed(derive_seed(self.config.train.seed, "before training", distributed.rank()))
        with closing(passed()) as batches, torch.no_grad(), self.device.autocast():
            self.parallel.before_training(batches)

    def train_step(self, batches: list[Batch]) -> Losses:
        """Make one optimiser step on this process's batches; return the mean of their losses.

        Raises:
            NotFinite: a loss or the gradient is not finite, of this step or, where they are
                read later, of the one before; the weights are as they were before that step. In fp16
                the scaler skips such steps, until its scale is too small.
        """
        self._batches = batches
        views = map(self.views, itertools.count(), batches)
        if self.device.compile:
            return self.step_on(views, len(batches))
        with self.parallel.refusals(), count_passes(self.task) as passes:
            losses = self.step_on(views, len(batches))
        measured = passes.samples / sum(len(batch.numbers) for batch in batches)
        before = measured if self.passes is None else self.passes
        self.passes = before + (measured - before) / self.step
        return losses

    def views(self, i: int, batch: Batch, purpose: str = "views") -> tuple[Tensor, ...]:
        """Return the input of the task's `loss`, on the device, for the i-th batch of the next step.

        The purpose is part of the seed.
        """
        with self.phase("views"):
            seed = derive_seed(self.config.train.seed, purpose, self.step, i)
            rng = Rng(seed, self.device.device, distributed.rank(), distributed.world_size())
            return batch.views(self.task, rng, self.device)

    def step_on(self, views: Iterable[tuple[Tensor, ...]], number: int) -> Losses:
        """Make one optimiser step on the views of `number` batches; return the mean of their losses.

        An iterator of views is not asked for them before the task knows the progress.

        Raises:
            NotFinite: as in `train_step`.
        """
        config, scaler = self.config.train, self.scaler  # without fp16 the scaler does nothing
        self.follow_schedules()
        self.task.before_step(self.progress)
        torch.manual_seed(derive_seed(config.seed, "network", self.step, distributed.rank()))  # dropout
        joint = Accumulation(number)
        for i, batch_views in enumerate(views, 1):
            with self.parallel.local_gradients() if i < number else nullcontext():
                with self.phase("forward"), self.device.autocast():
                    losses = self.parallel.model(batch_views)
                with self.phase("backward"), self._recomputing():
                    scaler.scale(joint.add(losses)).backward()
            del losses  # and its graph
        self.parallel.check_averaged(self.step + 1)
        with self.phase("optimizer"):
            scaler.unscale_(self.optimizer)  # so that the true gradient is measured and clipped
            joint.normalise(self.task.parameters())
            self.grad_norm = self.parallel.clip(config.clip_norm)
            if not scaler.is_enabled():
                self.confirm()
                self.finite.check(self.step + 1, joint.totals, self.grad_norm, self._batches)
            scale = scaler.get_scale()  # 1 unless in fp16, where reading it waits for the device
            scaler.step(self.optimizer)
            scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            if scaler.get_scale() < MIN_LOSS_SCALE:
                raise self.finite.error("gradient", math.nan, self.step + 1, self._batches)
            skipped = scaler.get_scale() < scale  # the gradient overflowed
        self.step += 1  # before `after_step`, so that a budget in steps ends at progress 1
        if not skipped:
            with self.phase("after_step"):
                self.task.after_step(self.progress)
                if self.ema is not None:
                    self.ema.update(self.task.exported_encoder)
        return joint.mean()

    def metrics(self, losses: Losses) -> dict[str, float]:
        """Return the metrics to log of a step, as means over processes; waits for the device.

        For a step that fp16's scaler skipped, values that are not finite are left out.

        Raises:
            NotFinite: as in `confirm`.
        """
        self.confirm()
        named = {"loss": losses.total.detach(), "grad_norm": self.grad_norm, **losses.logs}
        values = torch.stack([value.float().reshape(()) for value in named.values()])
        means = distributed.mean(values, losses.weight)
        measured = dict(zip(named, means.tolist(), strict=True))
        if self.scaler.is_enabled():
            measured = {name: value for name, value in measured.items() if math.isfinite(value)}
        return {
            **self.position(),
            "lr": self.rate,
            **measured,
        }

    def position(self) -> dict[str, float]:
        """Return the position in the run, with which each logged line begins."""
        return {
            "step": self.step,
            "epoch": round(self.epoch, 4),
            "samples": self.samples,
            "seconds": round(self.seconds, 3),
            "progress": round(self.progress, 5),
        }

    def _recomputing(self) -> AbstractContextManager[None]:
        """Temporarily freeze statistics that a second forward pass would update, if there is one."""
        recomputes = self.config.train.grad_checkpointing
        return frozen_statistics(self.task) if recomputes else nullcontext()

    def confirm(self) -> None:
        """Raise unless the last step's losses and gradient are finite; waits for that step alone.

        Raises:
            NotFinite: one is not; the trainer is again at the step before, with its weights.
        """
        try:
            self.finite.confirm()
        except NotFinite as error:
            self.step = error.step - 1
            raise

    def check_weights(self) -> None:
        """Raise unless the weights are finite, before they replace the last good checkpoint.

        All processes must call it.

        Raises:
            NotFinite: a weight, or a running statistic, is not finite.
        """
        statistics = ("running_mean", "running_var")  # a forward pass changes these
        buffers = [(name, b) for name, b in self.task.named_buffers() if name.endswith(statistics)]
        tensors = [*self.task.named_parameters(), *buffers]
        finite = (bool(distributed.local(tensor).isfinite().all()) for _, tensor in tensors)
        bad = next((i for i, good in enumerate(finite) if not good), len(tensors))
        first = -int(distributed.all_reduce_max(-bad)[0])  # of all processes, which raise together
        if first < len(tensors):
            raise self.finite.error(f"weight {tensors[first][0]}", math.nan, self.step)

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call an observing hook, in the first process, where it computes as in a single one."""
        with distributed.alone():
            registry.notify(hook, self.config.train.observers, **arguments)

    def evaluated_task(self) -> AbstractContextManager[Task]:
        """Temporarily return the task to evaluate and export: whole, with averaged weights if any.

        All processes must call it, and train no further meanwhile.
        """
        return self.parallel.evaluated()

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume: plain values and tensors, those of shards sharded."""
        return {
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "step": self.step,
            "seconds": self.seconds,
            "passes": self.passes,
            "peak_memory": self.peak_memory,
            "skipped": dict(self.skipped),
            "excluded": list(self.skipped.excluded),
            "budget": asdict(self.budget),
            "best": self.best.state_dict(),
            **self._origin,
        }

    @cached_property
    def _origin(self) -> dict[str, Any]:
        return describe_origin(self.config, self.data)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned, of any number of processes."""
        state = sliced(state, self.parallel.like(self.optimizer))
        self.task.load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty if the precision was another
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.passes, self._peak_before = state["passes"], state["peak_memory"] or 0
        self._skipped_before = SkippedSamples(state["skipped"], state.get("excluded", ()))
        if "budget" in state:  # not in checkpoints of older versions
            self.follow(Budget.from_state(state["budget"]))
        self.best.load_state_dict(state.get("best", {}))

    def follow(self, budget: Budget) -> None:
        """Train to the end of this budget, with the learning rate that it has."""
        self.budget = budget
        self.schedules = Schedules(self.optimizer, self.config.train, budget)
