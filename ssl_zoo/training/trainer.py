"""The training loop."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_zoo import distributed
from ssl_zoo.config import RunConfig
from ssl_zoo.data import DataSet, LazySplit, batches
from ssl_zoo.device import Device
from ssl_zoo.errors import Interrupted, SslZooError
from ssl_zoo.evaluation import MIDWAY, Scores, Subject, baselines, possible, protocols, rehearse, score
from ssl_zoo.plugins import check_observers, notify
from ssl_zoo.run import Run, build_data, build_task, fitting, load_checkpoint, save_checkpoint
from ssl_zoo.task import Losses, Task
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.optimizer import TICKS, create_optimizer, create_schedule
from ssl_zoo.training.passes import counting
from ssl_zoo.views import Rng, derive_seed

Batch = tuple[Tensor, tuple[Tensor, ...]]
"""Raw samples [B, ...], and their labels [B] where the task needs them."""


class Reporter(Protocol):
    """Who is told how a run goes: a progress bar, or nobody."""

    def started(self, run: Run, trainer: Trainer) -> None:
        """The run begins, or goes on."""

    def step(self, progress: float, metrics: dict[str, float]) -> None:
        """A step was logged; `progress` is in [0, 1]."""

    def ended(self, run: Run, results: dict[str, Any]) -> None:
        """The run has ended, and was evaluated."""


class Silent:
    """A reporter that says nothing."""

    def started(self, run: Run, trainer: Trainer) -> None:
        """Say nothing."""

    def step(self, progress: float, metrics: dict[str, float]) -> None:
        """Say nothing."""

    def ended(self, run: Run, results: dict[str, Any]) -> None:
        """Say nothing."""


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
        self._peak_before = 0

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
    def images(self) -> int:
        """Images drawn so far, over all processes."""
        return self.step * self.budget.step_images

    @property
    def epoch(self) -> float:
        """Passes over the train split so far."""
        return self.step / self.budget.steps_per_epoch

    def epoch_batches(self) -> Iterator[list[Batch]]:
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
        raw = batches(self.data.train, mine, config.batch_size // world, drop_last=True)
        stream = zip(raw, self._labels(mine), strict=False)
        with contextlib.closing(raw):
            while step := [b for _, b in zip(range(config.accumulate), stream, strict=False)]:
                yield step

    def _labels(self, numbers: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """For each batch of these samples its labels, for a task that needs them; else nothing."""
        labels = self.data.train.labels if self.task.needs_labels else None
        for batch in numbers.split(self.config.train.batch_size // distributed.world_size()):
            yield () if labels is None else (labels[batch],)

    def train_step(self, batches: list[Batch]) -> Losses:
        """One optimiser step on this process's share; returns the last batch's losses."""
        if self.passes is not None or self.config.train.compile:
            return self._train_step(batches)
        with counting(self.task) as passes:
            losses = self._train_step(batches)
        self.passes = passes.images / sum(len(raw) for raw, _ in batches)
        return losses

    def _train_step(self, batches: list[Batch]) -> Losses:
        config = self.config.train
        self.schedule.step_update(int(self.progress * TICKS))
        rank, world = distributed.rank(), distributed.world_size()
        torch.manual_seed(derive_seed(config.seed, "network", self.step, rank))  # dropout
        for i, (raw, labels) in enumerate(batches):
            seed = derive_seed(config.seed, "views", self.step, i)
            raw = raw.to(self.device.device, non_blocking=True)
            views = self.task.views(raw, Rng(seed, raw.device, rank, world))
            views = tuple(self.device.to_format(v) for v in views)
            views += tuple(part.to(raw.device, non_blocking=True) for part in labels)
            last = i == len(batches) - 1
            with self._no_gradient_exchange(until=last):
                with self.device.autocast():
                    losses: Losses = self.model(views)
                # Reading the value would make another device wait; there it is read when it is logged.
                if self.device.device.type == "cpu":
                    self.check_finite(losses.total.item(), self.step + 1)
                self.scaler.scale(losses.total / len(batches)).backward()
        if config.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.task.parameters(), config.clip_norm)
        stepped = self._optimizer_step()
        self.step += 1
        if stepped:
            # With this step counted, so that a budget in steps ends at 1.
            self.task.after_step(self.progress)
            if self.ema is not None:
                self.ema.update(self.task.encoder)
        return losses

    def _optimizer_step(self) -> bool:
        """Step and clear; whether a step was made, which fp16 overflow prevents."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return self.scaler.get_scale() >= scale

    def _no_gradient_exchange(self, until: bool) -> contextlib.AbstractContextManager[None]:
        if isinstance(self.model, DistributedDataParallel) and not until:
            exchange: contextlib.AbstractContextManager[None] = self.model.no_sync()
            return exchange
        return contextlib.nullcontext()

    def tell(self, hook: str, **arguments: Any) -> None:
        """Tell the observers."""
        notify(hook, self.config.train.observers, **arguments)

    def check_finite(self, loss: float, step: int) -> None:
        """Make sure that the loss of a step is a number.

        Raises:
            SslZooError: it is not.
        """
        if not math.isfinite(loss):
            self._diverged(f"the loss is {loss} at step {step}")

    def check_weights(self) -> None:
        """Make sure that the weights are numbers, before they take the place of the last good ones.

        Raises:
            SslZooError: they are not.
        """
        if not all(bool(p.isfinite().all()) for p in self.task.parameters()):
            self._diverged(f"weights are not finite after step {self.step}")

    def _diverged(self, what: str) -> NoReturn:
        raise SslZooError(
            f"{self.config.task.name}: {what}; lower the learning rate (--lr), or try --precision fp32"
        )

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

        Raises:
            SslZooError: the loss is not finite.
        """
        names = ["loss", *losses.logs]
        values = torch.stack([losses.total.detach(), *losses.logs.values()]).float()
        measured = dict(zip(names, distributed.mean(values).tolist(), strict=True))
        self.check_finite(measured["loss"], self.step)
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


def fit(trainer: Trainer, run: Run, reporter: Reporter) -> None:
    """Train to the end of the budget, logging and saving into `run`.

    Raises:
        Interrupted: a signal asked to stop; all that was done is saved.
        SslZooError: the loss is not finite; the last checkpoint stays.
    """
    config = trainer.config.train
    first, alone = distributed.rank() == 0, distributed.world_size() == 1
    log = run.metrics_file.open("a") if first else None
    evaluated = _evaluations(trainer)
    saved = time.monotonic()
    stopped_by = 0

    def save() -> None:
        nonlocal saved
        if log is not None:
            trainer.check_weights()
            os.fsync(log.fileno())
            state = {**trainer.state_dict(), "metrics_bytes": log.tell()}
            save_checkpoint(run, state)
            trainer.tell(
                "ssl_zoo_checkpoint_saved", run=run, step=trainer.step, path=run.checkpoint_file
            )
        saved = time.monotonic()

    def record(metrics: dict[str, float]) -> None:
        if log is not None:
            log.write(json.dumps(metrics) + "\n")
            log.flush()
            reporter.step(trainer.progress, metrics)
            trainer.tell("ssl_zoo_step_logged", run=run, step=trainer.step, metrics=metrics)

    trainer.task.train()
    with _stop_signals() as stop, log or contextlib.nullcontext():
        start = time.monotonic() - trainer.seconds
        while trainer.progress < 1:
            for step_batches in trainer.epoch_batches():
                losses = trainer.train_step(step_batches)
                trainer.seconds = time.monotonic() - start
                due = trainer.step % config.log_every == 0
                if due or alone or trainer.budget.seconds is not None or trainer.progress >= 1:
                    # Processes agree on when to stop where they meet anyway; but at each step where
                    # the rate and the end follow from the time, which they would measure differently.
                    trainer.seconds, stopped_by = _agree(trainer.seconds, stop.number)
                if due or trainer.progress >= 1:
                    record(trainer.metrics(losses))
                if (due_evaluations := _evaluations(trainer)) > evaluated:
                    evaluated = due_evaluations
                    record({**trainer.position(), **_evaluate_midway(trainer)})
                    start = time.monotonic() - trainer.seconds
                if stopped_by:
                    save()
                    distributed.barrier()
                    raise Interrupted(stopped_by, f"ssl-zoo train --resume {run.path}")
                if trainer.progress >= 1:
                    break
                if time.monotonic() - saved >= config.checkpoint_seconds:
                    save()
            if first and trainer.step % trainer.budget.steps_per_epoch == 0:
                trainer.tell("ssl_zoo_epoch_ended", run=run, epoch=int(trainer.epoch))
        save()


def _resolved(config: RunConfig, data: DataSet, device: Device) -> RunConfig:
    """The configuration with what was chosen for it here, so that a resumed run does not choose anew."""
    resident = "never" if isinstance(data.train, LazySplit) else "always"
    return config.model_copy(
        update={
            "train": config.train.model_copy(update={"precision": device.precision}),
            "data": config.data.model_copy(update={"resident": resident}),
        }
    )


def _evaluations(trainer: Trainer) -> int:
    """How many evaluations there should have been by now; the last is at the end."""
    config = trainer.config.train
    if not trainer.data.labelled:
        return 0
    if config.knn_every is None:
        return int(trainer.progress * config.knn_points)
    every = max(1, round(config.knn_every * trainer.budget.steps_per_epoch))
    return trainer.step // every + (trainer.progress >= 1 and trainer.step % every > 0)


def _agree(seconds: float, signal_number: int) -> tuple[float, int]:
    seconds, number = distributed.largest(seconds, signal_number)
    return seconds, int(number)


def _evaluate_midway(trainer: Trainer) -> dict[str, float]:
    with trainer.averaged_weights():
        subject = Subject.of_task(trainer.task, trainer.data, trainer.device, most=MIDWAY)
        return score(subject, ["knn"])


class _Stop:
    number = 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Within, SIGINT and SIGTERM are noted instead of ending the process at once."""
    stop = _Stop()

    def note(number: int, frame: object) -> None:
        stop.number = number

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals do not arrive
        old = {}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def finish(trainer: Trainer, run: Run, protocol: Iterable[str], with_baselines: bool) -> dict[str, Any]:
    """Save the backbone, evaluate what was learnt beside its baselines, and write the results."""
    config, data, device = trainer.config, trainer.data, trainer.device
    peak_memory = trainer.peak_memory
    names = possible(protocol, data)
    with trainer.averaged_weights():
        run.write_backbone(trainer.task.encoder, config.backbone, data.spec)
        subject = Subject.of_task(trainer.task, data, device, seed=config.train.seed)
        rows: dict[str, Scores] = {config.task.name: score(subject, names)}
    if with_baselines:
        untrained = device.place(build_task(config, data.spec))
        rows |= baselines(untrained, data, device, names, config.backbone.pretrained)
    run.add_scores(rows)
    run.write_results(
        {
            "task": config.task.name,
            "steps": trainer.step,
            "images": trainer.images,
            "seconds": round(trainer.seconds, 1),
            "images_per_second": round(trainer.images / max(trainer.seconds, 1e-9), 1),
            "needs_labels": trainer.task.needs_labels,
            "parameters": sum(p.numel() for p in trainer.task.encoder.parameters()),
            "passes_per_image": trainer.passes,
            "peak_memory_bytes": peak_memory,
            "precision": device.precision,
            "device": str(device.device),
            "skipped": dict(data.train.skipped),
        }
    )
    return run.results()


def train(
    config: RunConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    reporter: Reporter | None = None,
    protocol: Iterable[str] = ("knn", "health"),
    with_baselines: bool = True,
    data: DataSet | None = None,
) -> Run:
    """Train a task on unlabelled data, and evaluate what it has learnt.

    Args:
        config: the resolved configuration; None to take a resumed run's own.
        out: the run directory; None makes a new one under ``runs/``.
        resume: a run directory to go on with, instead.
        reporter: who is told how it goes.
        protocol: how what was learnt is evaluated, as far as the data has labels for it.
        with_baselines: whether to evaluate the raw input and the untrained network too.
        data: what the configuration's `data` section describes, if it is loaded already.

    Returns:
        The run.

    Raises:
        UserError: the input was wrong; nothing was written, or what was is removed.
        Interrupted: a signal asked to stop; `resume` goes on.
        SslZooError: something failed while working, such as a loss that is not finite.
    """
    reporter = reporter or Silent()
    if (config is None) == (resume is None) or (resume is not None and out is not None):
        raise TypeError("train needs a config, or else a run to resume, with its own config and place")
    run = Run.open(resume) if resume is not None else None
    if config is None:
        assert run is not None
        config = run.config()
    protocol = list(protocols(protocol))
    check_observers(config.train.observers)
    with distributed.processes(config.train.device) as local_rank:
        device = Device.choose(config.train, local_rank)
        trainer = Trainer(config, build_data(config, device.device, data), device)
        rehearse(trainer.task, trainer.data, device)
        device.reset_peak_memory()
        first = distributed.rank() == 0
        config = trainer.config
        if run is None:
            run = Run.create(out, config) if first else Run(out or "runs")
        with run.lock() if first else contextlib.nullcontext():
            try:
                if resume is not None:
                    _go_on(trainer, run)
                if first:
                    reporter.started(run, trainer)
                    trainer.tell("ssl_zoo_run_started", run=run, step=trainer.step)
                if trainer.progress < 1:
                    if first and run.results_file.is_file():
                        run.write_results({"scores": {}, "transfer": {}})  # of weights that move on
                    fit(trainer, run, reporter)
                if first:
                    results = finish(trainer, run, protocol, with_baselines)
                    trainer.tell("ssl_zoo_run_ended", run=run, results=results)
                    reporter.ended(run, results)
                distributed.barrier()
            except Exception as error:
                if first:
                    trainer.tell("ssl_zoo_run_stopped", run=run, error=error)
                if first and resume is None and trainer.step == 0:
                    run.discard()
                raise
    return run


def _go_on(trainer: Trainer, run: Run) -> None:
    """Take up a run where its checkpoint stands; from the start where it has none yet."""
    logged = 0
    if run.checkpoint_file.exists():
        state = load_checkpoint(run)
        with fitting(run.checkpoint_file):
            logged = state["metrics_bytes"]
            trainer.load_state_dict(state)
    if run.metrics_file.exists() and distributed.rank() == 0:
        # What was logged after the checkpoint will be logged again.
        with run.metrics_file.open("r+b") as file:
            file.truncate(logged)
