"""Networks that are not trained: momentum teachers, their schedules, and pretrained teachers."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def schedule(
    start: float,
    end: float,
    progress: float,
    kind: Literal["cosine", "linear"] = "cosine",
    share: float = 1.0,
) -> float:
    """Return the value of a schedule, such as a momentum, a temperature or a weight decay.

    The cosine is end + (start - end) · (cos(π · progress / share) + 1) / 2 (BYOL, arXiv:2006.07733,
    section 3.3). DINO's temperature of 0.04, which rises to 0.07 in the first 30 % of a run:

        temperature = schedule(0.04, 0.07, self.progress, "linear", share=0.3)

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


class Teacher(nn.Sequential):
    """A moving average of networks in training, applied one after another, such as encoder and head.

    ξ ← m · ξ + (1 - m) · θ, with m on a schedule. It starts as a copy of the student, gets no gradient,
    drops nothing, and normalises by its own batches. Sources: Mean Teacher, arXiv:1703.01780; BYOL,
    arXiv:2006.07733, section 3.3.

        self.teacher = Teacher(encoder, self.head, start=0.996)     # in __init__
        targets = self.teacher(x)                                   # in loss
        self.teacher.update(progress, self.encoder, self.head)      # in after_step

    The parts are `teacher[0]`, `teacher[1]`, …; `Task.exported_encoder` may return the first.

    Args:
        modules: the networks of the student.
        start: the momentum m at the start of training, in [0, 1].
        end: the momentum at the end; the same as `start` for a constant one.
        kind: as for `schedule`.
        share: as for `schedule`.
        local_batchnorm: whether batch norms keep to this process, see `distributed.sync_batchnorm`.
    """

    def __init__(
        self,
        *modules: nn.Module,
        start: float,
        end: float = 1.0,
        kind: Literal["cosine", "linear"] = "cosine",
        share: float = 1.0,
        local_batchnorm: bool = False,
    ) -> None:
        super().__init__(*frozen_copy(nn.Sequential(*modules)))
        self.start, self.end, self.kind, self.share = start, end, kind, share
        self.local_batchnorm: bool = local_batchnorm

    @torch.no_grad()
    def forward(self, x: Any) -> Tensor:
        """Return the output for a batch, without gradient."""
        for module in self:
            x = module(x)
        output: Tensor = x
        return output

    def momentum(self, progress: float) -> float:
        """Return the momentum when this fraction of training is done, in [0, 1]."""
        return schedule(self.start, self.end, progress, self.kind, self.share)

    def update(self, progress: float, *modules: nn.Module) -> None:
        """Move the parameters towards those of the student's networks, as given to the constructor."""
        ema_update(self, nn.Sequential(*modules), self.momentum(progress))


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
