"""A task, its optimiser, and one step of training."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from ssl_zoo import distributed
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import SslZooError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.build import build_task
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses, Task
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.optimizer import TICKS, create_optimizer, create_schedule
from ssl_zoo.training.passes import counting
from ssl_zoo.views import Rng, derive_seed

LEAST_SCALE = 2.0**-8
"""In fp16 the loss is scaled, for gradients to fit; if they do not by this one, no other will help."""


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        raw: the samples [B, ...].
        numbers: which of the train split's samples they are, int64 [B].
        labels: their labels [B], where the task needs them.
    """

    raw: Tensor
    numbers: Tensor
    labels: tuple[Tensor, ...] = ()


class NotFinite(SslZooError):
    """A loss, a gradient or a weight is no number."""


PHASES = ("data", "views", "forward", "backward", "optimizer", "after_step")
"""The parts of a step, in their order."""


class Trainer:
    """A task, its optimiser and how far it has got.

    Attributes:
        config: the resolved configuration.
        data: the data.
        device: where and how the network computes.
        task: the task in training.
        budget: how long the run is.
        step: optimiser steps done.
        seconds: time spent in training so far, without evaluation.
        passes: how often an encoder sees an image for each image drawn; known after a step, and
            not with `torch.compile`.
        grad_norm: the norm of the last step's gradient, before it was clipped.
        phase: what a step does, in order, as `PHASES` has it, happens within ``phase(name)``: a mark
            for torch's profiler, unless somebody puts a stopwatch in its place.
    """

    def __init__(
        self, config: RunConfig, data: DataSet, device: Device, task: Task | None = None
    ) -> None:
        """Put everything in its place; nothing is computed yet.

        Args:
            config: the configuration.
            data: the data.
            device: where and how to compute.
            task: what is to be trained; None builds what the configuration names.
        """
        self.config = config = _resolved(config, data, device)
        self.data = data
        self.device = device
        self.budget = Budget.of(config.train, len(data.train), distributed.world_size())
        self.task = device.place(build_task(config, data.spec) if task is None else task)
        if distributed.world_size() > 1 and config.train.sync_batchnorm:
            distributed.sync_batchnorm(self.task)
        self.optimizer = create_optimizer(self.task, config.train, self.budget.step_images)
        self.schedule = create_schedule(self.optimizer, config.train)
        self.scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
        decay = config.train.ema
        self.ema = ModelEmaV3(self.task.encoder, decay) if decay is not None else None
        self.model = self._wrapped()
        self.step = 0
        self.seconds = 0.0
        self.passes: float | None = None
        self.grad_norm = torch.zeros(())
        self.phase: Callable[[str], contextlib.AbstractContextManager[object]] = record_function
        self._peak_before = 0
        self._skipped_before: dict[str, str] = {}

    def _wrapped(self) -> nn.Module:
        model: Any = self.task
        if self.config.train.compile:
            model = torch.compile(model)
        if distributed.world_size() > 1:
            # A head may leave parts of a backbone unused (inpainting never pools).
            # What replaces them is younger than torch 2.4; and channels-last gradients are copied once.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"ssl_zoo\.")
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            model = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
        wrapped: nn.Module = model
        return wrapped

    @property
    def progress(self) -> float:
        """The share of the budget that is done, in [0, 1]."""
        return self.budget.progress(self.step, self.seconds)

    @property
    def peak_memory(self) -> int | None:
        """The most bytes in use during training so far, as `Device.peak_memory` counts them."""
        now = self.device.peak_memory()
        return None if now is None else max(now, self._peak_before)

    @property
    def skipped(self) -> dict[str, str]:
        """The files that could not be read, with the reason, before a run was taken up too."""
        return {**self._skipped_before, **self.data.train.skipped}

    @property
    def images(self) -> int:
        """Images drawn so far, over all processes."""
        return self.step * self.budget.step_images

    @property
    def epoch(self) -> float:
        """Passes over the train split so far."""
        return self.step / self.budget.steps_per_epoch

    def epoch_batches(self) -> Generator[list[Batch]]:
        """For each step left in the current epoch, this process's batches, to be accumulated.

        The order follows from the seed and the epoch; each step's samples are laid out as one joint
        batch after the other, of which every process takes its share.
        """
        config, world = self.config.train, distributed.world_size()
        epoch, done = divmod(self.step, self.budget.steps_per_epoch)
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch))
        order = torch.randperm(len(self.data.train), generator=generator)
        order = order[: self.budget.steps_per_epoch * self.budget.step_images]
        order = order.view(-1, config.accumulate, world, config.batch_size // world)
        mine = order[done:, :, distributed.rank()].flatten()
        pin = self.device.device.type == "cuda"
        size = config.batch_size // world
        raw = self.data.train.stream(mine, size, drop_last=True, pin=pin)
        stream = map(Batch, raw, mine.split(size), self._labels(mine))
        with contextlib.closing(raw):
            while True:
                with self.phase("data"):
                    step = list(itertools.islice(stream, config.accumulate))
                if not step:
                    return
                yield step

    def _labels(self, numbers: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """For each batch of these samples its labels, for a task that needs them; else nothing."""
        labels = self.data.train.labels if self.task.needs_labels else None
        for batch in numbers.split(self.config.train.batch_size // distributed.world_size()):
            yield () if labels is None else (labels[batch],)

    def train_step(self, batches: list[Batch]) -> Losses:
        """One optimiser step on this process's share; returns the last batch's losses.

        Raises:
            NotFinite: a loss or the gradient is no number; the weights are as they were before the step.
                In fp16 the scaler leaves out such steps, until there is nothing left to scale.
        """
        views = map(self.views, itertools.count(), batches)
        if self.passes is not None or self.config.train.compile:
            return self.step_on(views, len(batches))
        with counting(self.task) as passes:
            losses = self.step_on(views, len(batches))
        self.passes = passes.images / sum(len(batch.raw) for batch in batches)
        return losses

    def views(self, i: int, batch: Batch) -> tuple[Tensor, ...]:
        """What the task's `loss` takes, of the i-th batch of the coming step, on the device."""
        with self.phase("views"):
            seed = derive_seed(self.config.train.seed, "views", self.step, i)
            raw = batch.raw.to(self.device.device, non_blocking=True)
            rng = Rng(seed, raw.device, distributed.rank(), distributed.world_size())
            views = tuple(self.device.to_format(v) for v in self.task.views(raw, rng))
            return views + tuple(part.to(raw.device, non_blocking=True) for part in batch.labels)

    def step_on(self, views: Iterable[tuple[Tensor, ...]], number: int) -> Losses:
        """One optimiser step on the views of so many batches; returns the last one's losses.

        Raises:
            NotFinite: as in `train_step`.
        """
        config = self.config.train
        self.schedule.step_update(int(self.progress * TICKS))
        torch.manual_seed(derive_seed(config.seed, "network", self.step, distributed.rank()))  # dropout
        totals: list[Tensor] = []
        for i, given in enumerate(views, 1):
            with self._no_gradient_exchange(until=i == number):
                with self.phase("forward"), self.device.autocast():
                    losses: Losses = self.model(given)
                totals.append(losses.total.detach().reshape(()))
                with self.phase("backward"):
                    self.scaler.scale(losses.total / number).backward()
        with self.phase("optimizer"):
            self.scaler.unscale_(self.optimizer)
            most = math.inf if config.clip_norm is None else config.clip_norm
            self.grad_norm = nn.utils.clip_grad_norm_(self.task.parameters(), most)
            if not self.scaler.is_enabled():
                self._check_finite(totals)
            stepped = self._optimizer_step()
        self.step += 1
        if stepped:
            with self.phase("after_step"):
                # With this step counted, so that a budget in steps ends at 1.
                self.task.after_step(self.progress)
                if self.ema is not None:
                    self.ema.update(self.task.encoder)
        return losses

    def _optimizer_step(self) -> bool:
        """Step and clear; whether a step was made, which fp16 overflow prevents."""
        scale = self.scaler.get_scale()  # 1 unless in fp16, where reading it waits for the device
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() < LEAST_SCALE:
            raise self._not_finite("gradient", math.nan, self.step + 1)
        return self.scaler.get_scale() >= scale

    def _no_gradient_exchange(self, until: bool) -> contextlib.AbstractContextManager[None]:
        if isinstance(self.model, DistributedDataParallel) and not until:
            exchange: contextlib.AbstractContextManager[None] = self.model.no_sync()
            return exchange
        return contextlib.nullcontext()

    def tell(self, hook: str, **arguments: Any) -> None:
        """Tell the observers."""
        registry.notify(hook, self.config.train.observers, **arguments)

    def _check_finite(self, losses: list[Tensor]) -> None:
        """Make sure that what a step is made from are numbers; a single value is read from the device.

        Of several processes all see it at once, as the gradient is the joint one.

        Raises:
            NotFinite: they are not.
        """
        values = torch.stack([*(loss.float() for loss in losses), self.grad_norm.float()])
        if not values.isfinite().all():
            *read, norm = values.tolist()
            bad = [loss for loss in read if not math.isfinite(loss)]
            what, value = ("loss", bad[0]) if bad else ("gradient", norm)
            raise self._not_finite(what, value, self.step + 1)

    def check_weights(self) -> None:
        """Make sure that the weights are numbers, before they take the place of the last good ones.

        Raises:
            NotFinite: they are not.
        """
        for name, tensor in (*self.task.named_parameters(), *self.task.named_buffers()):
            statistic = name.endswith(("running_mean", "running_var"))  # which a forward pass changes
            if (isinstance(tensor, nn.Parameter) or statistic) and not tensor.isfinite().all():
                raise self._not_finite(f"weight {name}", math.nan, self.step)

    def _not_finite(self, what: str, value: float, step: int) -> NotFinite:
        advice = "" if self.device.precision == "fp32" else ", or try --precision fp32"
        said = f"{self.config.task.name}: the {what} is {value} at step {step}"
        return NotFinite(f"{said}; lower the learning rate (--lr){advice}")

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within, the task's encoder is the average of its weights, where one is kept."""
        encoder = self.task.encoder
        if self.ema is not None:
            self.task.encoder = self.ema.module
        try:
            yield
        finally:
            self.task.encoder = encoder

    def metrics(self, losses: Losses) -> dict[str, float]:
        """What is logged of a step, means over processes; waits for the device.

        Of a step that fp16's scaler left out, what is no number is missing.
        """
        given = {"loss": losses.total.detach(), "grad_norm": self.grad_norm, **losses.logs}
        values = torch.stack([value.float().reshape(()) for value in given.values()])
        measured = dict(zip(given, distributed.mean(values).tolist(), strict=True))
        if self.scaler.is_enabled():
            measured = {name: value for name, value in measured.items() if math.isfinite(value)}
        return {
            **self.position(),
            "lr": self.optimizer.param_groups[0]["lr"],
            **measured,
        }

    def position(self) -> dict[str, float]:
        """How far the run has got, as each logged line begins."""
        return {
            "step": self.step,
            "epoch": round(self.epoch, 4),
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "progress": round(self.progress, 5),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors and plain values only."""
        return {
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "step": self.step,
            "seconds": self.seconds,
            "passes": self.passes,
            "peak_memory": self.peak_memory,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.task.load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.passes, self._peak_before = state["passes"], state["peak_memory"] or 0
        self._skipped_before = dict(state["skipped"])


def _resolved(config: RunConfig, data: DataSet, device: Device) -> RunConfig:
    """The configuration with what was chosen for it here, so that a resumed run does not choose anew."""
    computing = {name: getattr(device, name) for name in ("precision", "channels_last", "threads")}
    keeping: dict[str, Any] = {}
    if config.data.cache is None:
        keeping["resident"] = "always" if data.train.resident else "never"
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=computing),
            "data": config.data.model_copy(update=keeping),
        }
    )
