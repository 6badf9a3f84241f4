"""The optimiser and the course of its learning rate, both timm's."""

from __future__ import annotations

from typing import Any

from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from ssl_zoo.config import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.task import Task

TICKS = 1_000_000
"""Schedules count progress in these, so that every kind of budget has the same one."""


def parameter_groups(task: Task, config: TrainConfig) -> list[dict[str, Any]]:
    """Every trainable parameter in one group: by weight decay, and by the task's factor on the rate.

    Vectors and scalars (biases, the scales of norms) are not decayed.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        scale = task.lr_scale(name)
        group = groups.setdefault(
            (decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale}
        )
        group["params"].append(parameter)
    return list(groups.values())


def learning_rate(config: TrainConfig, step_images: int) -> float:
    """The peak learning rate for steps of so many images.

    Linear: lr · B / 256 (Goyal et al. 2017). Square root: lr · √(B / 256).
    """
    ratio = step_images / 256
    scaling = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}
    return config.lr * float(ratio ** scaling[config.lr_scaling])


def create_optimizer(task: Task, config: TrainConfig, step_images: int) -> Optimizer:
    """Build timm's optimiser of the configured name.

    Raises:
        UserError: timm has no such optimiser, or it refuses an option.
    """
    groups = parameter_groups(task, config)
    try:
        optimizer: Optimizer = create_optimizer_v2(
            groups,
            config.optimizer,
            lr=learning_rate(config, step_images),
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **config.optimizer_options,
        )
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(
            f"train.optimizer: {config.optimizer!r}: {error}; "
            "`timm.optim.list_optimizers()` lists the names"
        ) from error
    return optimizer


def create_schedule(optimizer: Optimizer, config: TrainConfig) -> Scheduler:
    """Build timm's schedule over `TICKS` ticks of progress; call ``step_update(ticks)`` before a step.

    It multiplies each group's rate by the group's ``lr_scale``.
    """
    warmup = round(config.warmup * TICKS)
    if config.schedule == "cosine":
        return CosineLRScheduler(
            optimizer,
            t_initial=TICKS - warmup,
            warmup_t=warmup,
            warmup_prefix=True,
            t_in_epochs=False,
        )
    milestones = config.milestones if config.schedule == "step" else []
    return MultiStepLRScheduler(
        optimizer,
        decay_t=[round(m * TICKS) for m in milestones],
        decay_rate=config.decay,
        warmup_t=warmup,
        warmup_prefix=False,
        t_in_epochs=False,
    )
