"""Networks that are not trained: momentum teachers, their schedules, and pretrained teachers."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any, Literal, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def schedule(
    start: float,
    end: float,
    progress: float,
    kind: Literal["cosine", "linear"] = "cosine",
    share: float = 1.0,
) -> float:
    """Return the value of a schedule, such as a momentum, a temperature or a weight decay.

    Args:
        start: the value at the start of training.
        end: the value at the end of the schedule, and after it.
        progress: the fraction of training that is done, in [0, 1], see `Task.before_step`.
        kind: half a cosine, or a line.
        share: the fraction of training that the schedule takes, in [0, 1].
    """
    if progress >= share:
        return end
    done = progress / share
    if kind == "linear":
        return start + (end - start) * done
    return end + (start - end) * (math.cos(math.pi * done) + 1) / 2


def frozen_copy(module: M) -> M:
    """Return a copy without gradients, for a teacher or momentum encoder: saved but not trained.

    Dropout and drop path are off in the copy, as in DINO: they regularise the student alone.
    """
    return stop_dropout(copy.deepcopy(module)).requires_grad_(False)


def stop_dropout(module: M) -> M:
    """Set each probability of dropout and drop path in a module to 0, in place, and return it.

    These are the numbers whose name contains "drop", as ``drop_prob`` and ``attention_dropout``, and
    those called ``p`` or ``prob`` in a module whose class has "Drop" in its name.
    """
    for part in module.modules():
        drops = "Drop" in type(part).__name__
        for name, value in list(vars(part).items()):
            if isinstance(value, float) and ("drop" in name or (drops and name in ("p", "prob"))):
                setattr(part, name, 0.0)
    return module


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Update the parameters: average ← momentum · average + (1 - momentum) · module.

    Buffers are left alone: a teacher's BatchNorm statistics follow from its own batches.
    """
    torch._foreach_lerp_(
        list(average.parameters()), [p.detach() for p in module.parameters()], 1 - momentum
    )


def unsaved(module: M) -> M:
    """Freeze a module, in evaluation mode for good, and leave it out of state dicts; return it.

    Use it for a pretrained teacher, whose weights would else be in each checkpoint. As a checkpoint
    does not restore them, `Task.__init__` must make the same module each time: from pretrained weights,
    or from a fixed seed, but not from the encoder, which a resumed run begins with other weights.

        self.teacher = unsaved(timm.create_model("vit_small_patch14_dinov2", pretrained=True))

    Args:
        module: any module; it is changed in place.
    """
    cls = type(module)
    module.__class__ = type(f"Unsaved{cls.__name__}", (_Unsaved, cls), {})
    return module.requires_grad_(False).eval()


class _Unsaved(nn.Module):
    """The mix-in placed before a module's class."""

    def train(self, mode: bool = True) -> _Unsaved:
        return super().train(False)

    def state_dict(self, *arguments: Any, destination: Any = None, **options: Any) -> Any:
        return OrderedDict() if destination is None else destination

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        # What is not in the state dict is left as it is.
        for name, value in super().state_dict(prefix=prefix).items():
            state_dict.setdefault(name, value)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
