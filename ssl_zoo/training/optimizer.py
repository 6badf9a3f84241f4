"""The optimiser and the schedules of its learning rate and weight decay, from timm."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm.optim.muon
import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from ssl_zoo import distributed
from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.nn import schedule, undecayed_names
from ssl_zoo.notices import Notice
from ssl_zoo.runtime.device import cpu_has_bf16
from ssl_zoo.task import Task
from ssl_zoo.text import did_you_mean
from ssl_zoo.training.budget import Budget

TICKS = 1_000_000
"""The number of ticks in a run. Schedules count these, so that they fit every kind of budget."""

SECOND_WARMUP = (0.1, 10, 0.5)
"""The minimum share and number of steps of the warm-up of a budget added to a finished run, whose rate
has ended near 0, and the maximum share that the number of steps asks for."""

NEAR_ZERO = 0.05
"""A learning rate that ends at most at this share of its peak ends near 0."""

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
    """Group the trainable parameters by weight decay and learning rate.

    A group's ``lr_scale`` is the task's factor on the rate, times that of the layer. The last layer of
    the encoder has the full rate, as heads do, and each layer before it ``layer_decay`` of the next
    one's. ``lr_constant`` marks a rate without schedule, and ``decayed`` a decay with one; ``begins`` is
    the progress before which the rate is 0, as the encoder's is where heads are trained first.

    Vectors and scalars (biases, the scales of norms) are not decayed, nor are the parameters that a
    timm model excludes (a transformer's position embedding and class token).

    LARS and LAMB adapt the rate of each layer to its weights, except for these parameters (You et al.
    2017; SimCLR, BYOL and Barlow Twins alike). timm's do so only where the decay is not 0, so that
    without decay no layer would be adapted; here the shape decides, whatever the decay.
    """
    undecayed = undecayed_names(task)
    adaptive = adapts_layers(config)
    factors = _layer_factors(task, config)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1 and name not in undecayed
        group: dict[str, Any] = {
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr_scale": task.lr_scale(name) * factors.get(parameter, 1.0),
        }
        if adaptive:
            group["always_adapt"] = decayed
        if task.lr_constant(name):
            group["lr_constant"] = True
        if config.heads_first and name.startswith("encoder."):
            group["begins"] = config.heads_first
        if config.weight_decay_end is not None:
            group["decayed"] = decayed
        groups.setdefault(tuple(group.items()), {"params": [], **group})["params"].append(parameter)
    return list(groups.values())


def _layer_factors(task: Task, config: TrainConfig) -> dict[nn.Parameter, float]:
    """Return the factor on the rate of each parameter of the encoder; none without layer decay."""
    if config.layer_decay is None:
        return {}
    return {
        parameter: config.layer_decay**depth
        for depth, layer in enumerate(reversed(task.encoder.parameter_layers()))
        for parameter in layer
    }


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
    device = next(task.parameters()).device
    if device.type == "cpu" and not cpu_has_bf16():
        _orthogonalise_in_float32()
    try:
        optimizer: Optimizer = create_optimizer_v2(
            parameter_groups(task, config),
            config.optimizer,
            lr=learning_rate(config, step_samples),
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **_options(config, device, any(map(distributed.is_sharded, task.parameters()))),
        )
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"train.optimizer: {config.optimizer} refuses its options: {reason}") from error
    for group in optimizer.param_groups:
        # "Corrected" decay is lr² / peak; the peak of a group with a factor has the factor too.
        if "max_lr_snapshot" in group:
            group["max_lr_snapshot"] *= group["lr_scale"]
    inner: Optimizer = getattr(optimizer, "_base_optimizer", optimizer)  # of Lookahead
    if isinstance(inner, torch.optim.SGD):
        inner.register_step_pre_hook(_begin_momentum)
    return optimizer


def _orthogonalise_in_float32() -> None:
    """Make timm's Muon orthogonalise in float32 in this process.

    timm's bfloat16 took 23 to 29 times as long on a CPU without it (AVX2; matrices of 256² and 512²).
    """
    function = timm.optim.muon.zeropower_via_newtonschulz
    if not isinstance(function, partial):
        in_float32 = partial(function, dtype=torch.float32)
        setattr(timm.optim.muon, "zeropower_via_newtonschulz", in_float32)  # noqa: B010


def _begin_momentum(optimizer: Optimizer, *_: Any) -> None:
    """Begin the momentum of parameters whose first gradient comes after that of others.

    Fused SGD fails where some parameters of a group have a momentum, and others do not yet.
    """
    for group in optimizer.param_groups:
        moving = [p for p in group["params"] if p.grad is not None]
        new = [p for p in moving if optimizer.state.get(p, {}).get("momentum_buffer") is None]
        if group["fused"] and len(new) < len(moving):
            for parameter in new:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _options(config: TrainConfig, device: torch.device, sharded: bool) -> dict[str, Any]:
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
    undecayed = config.weight_decay == 0 and not config.weight_decay_end
    if "use_nvlamb" in parameters and undecayed and "use_nvlamb" not in options:
        raise UserError(
            f"train.weight_decay: {name} adapts no layer if this is 0; choose train.optimizer=lamb, or "
            "train.optimizer_options.use_nvlamb=true, which adapts biases too"
        )
    cls = get_optimizer_class(name, bind_defaults=False)
    fused = cls in FUSED and device.type in ("cpu", "cuda")
    if cls is torch.optim.SGD and (config.precision == "fp16" or sharded):
        # If the scaler skips the first step, fused SGD has no momentum buffer; torch has no rule for
        # its step on shards.
        fused = False
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


def ends_near_zero(config: TrainConfig) -> bool:
    """Return whether the learning rate ends near 0, so that a run that goes on needs a new warm-up."""
    return config.schedule in ("cosine", "linear") and config.lr_min <= NEAR_ZERO


class Schedules:
    """The schedules of an optimiser's learning rates and weight decays, over the progress of a run.

    A warm-up of n steps rises linearly from 1/n of the peak rate, as a step at rate 0 is wasted. Each
    group's rate is the scheduled one, or the peak, times its ``lr_scale``. A weight decay follows a
    cosine, without warm-up (DINO).

    Args:
        optimizer: the optimiser, whose groups are those of `parameter_groups`.
        config: the configuration.
        budget: the length of the run.
    """

    def __init__(self, optimizer: Optimizer, config: TrainConfig, budget: Budget) -> None:
        self.peak = learning_rate(config, budget.step_samples)
        self._optimizer = optimizer
        self._decay = config.weight_decay, config.weight_decay_end
        self._heads_first = budget.schedule == "first"
        # timm's schedule sets the rate of a single group, from which follow all the others.
        self._scheduled = torch.optim.SGD([torch.zeros(())], lr=self.peak)
        self._schedule = _rate_schedule(self._scheduled, config, budget, self.peak)

    @property
    def rate(self) -> float:
        """The scheduled learning rate, without factors on it."""
        return float(self._scheduled.param_groups[0]["lr"])

    def follow(self, progress: float) -> None:
        """Set the learning rates and weight decays to those of the progress, in [0, 1]."""
        self._schedule.step_update(int(progress * TICKS))
        start, end = self._decay
        for group in self._optimizer.param_groups:
            rate = self.peak if group.get("lr_constant") else self.rate
            waits = self._heads_first and progress < group.get("begins", 0.0)
            group["lr"] = 0.0 if waits else rate * group["lr_scale"]
            if end is not None and group["decayed"]:
                group["weight_decay"] = schedule(start, end, progress)


def _rate_schedule(optimizer: Optimizer, config: TrainConfig, budget: Budget, peak: float) -> Scheduler:
    """Return timm's schedule of a rate over `TICKS` ticks of progress."""
    share = warmup_share(config, budget)
    warmup = round(share * TICKS)
    steps = WARMUP_STEPS if budget.warmup_of is None else share * budget.warmup_of
    first, floor = peak / max(1.0, steps), config.lr_min * peak
    if budget.schedule == "again":
        first = max(first, floor)  # where the rate has ended
    shared: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": first, "t_in_epochs": False}
    falls = config.schedule in ("cosine", "linear")
    if falls and budget.schedule != "ended":
        shared |= {"lr_min": floor, "warmup_prefix": True}
        if config.schedule == "cosine":
            return CosineLRScheduler(optimizer, TICKS - warmup, **shared)
        return PolyLRScheduler(optimizer, TICKS - warmup, power=1.0, **shared)
    if falls:
        return MultiStepLRScheduler(optimizer, [0], config.lr_min, **shared)
    milestones = config.milestones if config.schedule == "step" else []
    ticks = sorted(0 if budget.schedule == "ended" else round(m * TICKS) for m in milestones)
    return MultiStepLRScheduler(optimizer, ticks, config.decay, warmup_prefix=False, **shared)
