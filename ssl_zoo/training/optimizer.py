"""The optimiser and the schedule of its learning rate, both from timm."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.task import Task
from ssl_zoo.text import did_you_mean
from ssl_zoo.training.budget import Budget

TICKS = 1_000_000
"""The number of ticks in a run. Schedules count these, so that they fit every kind of budget."""

SECOND_WARMUP = (0.1, 10, 0.5)
"""The minimum share and number of steps of the warm-up of a budget added to a finished run, whose rate
has ended near 0, and the maximum share that the number of steps asks for."""

WARMUP_STEPS = 100
"""The n of a warm-up where the budget is in minutes, as the number of its steps is then unknown."""

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimisers with a fused step in torch, on CPUs and on CUDA."""

MOMENTUM = Notice(
    "momentum",
    "train.momentum is not used where the optimiser has neither a momentum nor two betas.",
    "train.optimizer, or train.optimizer_options.betas",
)

_SETTINGS = ("lr", "weight_decay", "momentum")
"""Arguments of optimisers that have their own setting in `train`."""


def parameter_groups(task: Task, config: TrainConfig) -> list[dict[str, Any]]:
    """Group the trainable parameters by weight decay and by the task's factor on the learning rate.

    Vectors and scalars (biases, the scales of norms) are not decayed, nor are the parameters that a
    timm model excludes (a transformer's position embedding and class token).

    LARS and LAMB adapt the rate of each layer to its weights, except for these parameters (You et al.
    2017; SimCLR, BYOL and Barlow Twins alike). timm's do so only where the decay is not 0, so that
    without decay no layer would be adapted; here the shape decides, whatever the decay.
    """
    undecayed = {
        f"{prefix}.{name}"
        for prefix, module in task.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }
    adaptive = adapts_layers(config)
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1 and name not in undecayed
        decay = config.weight_decay if decayed else 0.0
        scale = task.lr_scale(name)
        group: dict[str, Any] = {"params": [], "weight_decay": decay, "lr_scale": scale}
        if adaptive:
            group["always_adapt"] = decayed
        groups.setdefault((decay, scale, adaptive and decayed), group)["params"].append(parameter)
    return list(groups.values())


def adapts_layers(config: TrainConfig) -> bool:
    """Return whether `parameter_groups` must say which parameters the optimiser adapts by layer.

    It need not where the user has set ``optimizer_options.always_adapt`` for all parameters.
    """
    return "always_adapt" in _arguments(config.optimizer) and (
        "always_adapt" not in config.optimizer_options
    )


def learning_rate(config: TrainConfig, step_samples: int) -> float:
    """Return the peak learning rate for steps of `step_samples` samples.

    Linear: lr · B / 256 (Goyal et al. 2017). Square root: lr · √(B / 256).
    """
    ratio = step_samples / 256
    exponent = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}[config.lr_scaling]
    return config.lr * float(ratio**exponent)


def describe_learning_rate(config: TrainConfig, step_samples: int) -> str:
    """Return the peak learning rate with its origin, such as "0.15 = 0.3 · 128/256"."""
    if config.lr_scaling == "none":
        return f"{config.lr:g}"
    ratio = f"{step_samples}/256"
    factor = ratio if config.lr_scaling == "linear" else f"√({ratio})"
    return f"{learning_rate(config, step_samples):.3g} = {config.lr:g} · {factor}"


def create_optimizer(task: Task, config: TrainConfig, step_samples: int) -> Optimizer:
    """Build timm's optimiser with the configured name.

    Raises:
        UserError: timm has no such optimiser, or the optimiser refuses an option.
    """
    try:
        optimizer: Optimizer = create_optimizer_v2(
            parameter_groups(task, config),
            config.optimizer,
            lr=learning_rate(config, step_samples),
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **_options(config, next(task.parameters()).device),
        )
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"train.optimizer: {config.optimizer} refuses its options: {reason}") from error
    for group in optimizer.param_groups:
        # "Corrected" decay is lr² / peak; the peak of a group with a factor has the factor too.
        if "max_lr_snapshot" in group:
            group["max_lr_snapshot"] *= group["lr_scale"]
    return optimizer


def _options(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Return the optimiser's further arguments, with Adam's betas and a fused step where there is one.

    Raises:
        UserError: timm has no such optimiser, or the optimiser has no such argument.
    """
    name = _timm_name(config.optimizer)
    parameters = _arguments(name)
    arguments = [argument for argument in parameters if argument not in ("self", "params", *_SETTINGS)]
    for option in config.optimizer_options:
        if option in _SETTINGS:
            raise UserError(f"train.optimizer_options.{option}: set train.{option} instead")
        if option not in arguments:
            hint = did_you_mean(option, arguments) or f" There are: {', '.join(arguments)}"
            raise UserError(f"train.optimizer_options.{option}: {name} has no such argument.{hint}")
    options = dict(config.optimizer_options)
    if "use_nvlamb" in parameters and config.weight_decay == 0 and "use_nvlamb" not in options:
        raise UserError(
            f"train.weight_decay: {name} adapts no layer if this is 0; choose train.optimizer=lamb, or "
            "train.optimizer_options.use_nvlamb=true, which adapts biases too"
        )
    cls = get_optimizer_class(name, bind_defaults=False)
    fused = cls in FUSED and device.type in ("cpu", "cuda")
    if cls is torch.optim.SGD and config.precision == "fp16":
        fused = False  # if the scaler skips the first step, fused SGD has no momentum buffer
    if fused and not {"foreach", "differentiable"} & options.keys():
        options.setdefault("fused", True)
    info = get_optimizer_info(name)
    betas = parameters["betas"].default if "betas" in parameters else None
    if config.momentum == 0 and betas is None and (info.defaults or {}).get("nesterov"):
        options.setdefault("nesterov", False)  # which SGD and LARS refuse, though it changes nothing
    if isinstance(betas, tuple) and len(betas) == 2 and not info.has_momentum:
        # timm passes `momentum` only to optimisers with an argument of that name; Adam calls it beta 1.
        return {"betas": (config.momentum, betas[1]), **options}
    if "momentum" not in parameters and config.momentum != TrainConfig.model_fields["momentum"].default:
        named = f"; it has betas, {betas}: set train.optimizer_options.betas" if betas else ""
        MOMENTUM(f"train.momentum: {name} has none, so {config.momentum:g} is not used{named}")
    return options


def _timm_name(optimizer: str) -> str:
    """Return timm's name of an optimiser, which Lookahead may wrap.

    Raises:
        UserError: timm has no such optimiser.
    """
    name = optimizer.lower().removeprefix("lookahead_")
    known = list_optimizers()
    if name not in known:
        raise UserError(
            f"train.optimizer: timm has no optimiser {optimizer!r}.{did_you_mean(name, known)} "
            "`timm.optim.list_optimizers()` lists all."
        )
    return name


def _arguments(optimizer: str) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of one of timm's optimisers, by name.

    Raises:
        UserError: timm has no such optimiser; `ImportError` and `AssertionError` if its library is
            missing here.
    """
    return inspect.signature(get_optimizer_class(_timm_name(optimizer), bind_defaults=False)).parameters


def warmup_share(config: TrainConfig, budget: Budget) -> float:
    """Return the share of a budget in which the learning rate rises to its peak.

    In a budget added to a finished run it is that of ``train.warmup``, but at least `SECOND_WARMUP`, so
    that the rate does not jump.
    """
    if budget.schedule != "again":
        return 0.0 if budget.schedule == "ended" else config.warmup
    share, steps, max_share = SECOND_WARMUP
    of_steps = 0.0 if budget.warmup_of is None else min(max_share, steps / budget.warmup_of)
    return max(config.warmup, share, of_steps)


def create_schedule(optimizer: Optimizer, config: TrainConfig, budget: Budget) -> Scheduler:
    """Build timm's schedule over `TICKS` ticks of progress; call ``step_update(ticks)`` before a step.

    A warm-up of n steps rises linearly from 1/n of the peak rate, as a step at rate 0 is wasted. The
    schedule multiplies each group's rate by the group's ``lr_scale``.
    """
    peak = learning_rate(config, budget.step_samples)
    for group in optimizer.param_groups:
        group["lr"] = peak
    share = warmup_share(config, budget)
    warmup = round(share * TICKS)
    steps = WARMUP_STEPS if budget.warmup_of is None else share * budget.warmup_of
    shared: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": peak / max(1.0, steps),
        "t_in_epochs": False,
    }
    if config.schedule == "cosine":
        return CosineLRScheduler(optimizer, TICKS - warmup, warmup_prefix=True, **shared)
    milestones = config.milestones if config.schedule == "step" else []
    ticks = sorted(0 if budget.schedule == "ended" else round(m * TICKS) for m in milestones)
    return MultiStepLRScheduler(optimizer, ticks, config.decay, warmup_prefix=False, **shared)
