"""Building blocks that many methods share: heads, schedules, teachers, feature queues."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_zoo.spec import Spec
from ssl_zoo.tree import Tree, join, rows

M = TypeVar("M", bound=nn.Module)


def full_precision(x: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, for computing a loss; any other as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


MAX_SCORES = 2**24
"""A loss over a larger matrix of scores (64 MiB in float32) is computed in parts."""


def sum_over_rows(loss: Callable[..., Tensor], *rows: Tensor, columns: int) -> Tensor:
    """Sum a loss over the rows of a score matrix, holding only a part of the matrix in memory.

    Each part is recomputed for the gradient, which is exact. A matrix of up to `MAX_SCORES` scores
    is a single part, and is computed once.

    Args:
        loss: maps the same rows of each tensor in `rows` to the sum of their losses, differentiably.
        rows: tensors [B, ...].
        columns: the number of scores that `loss` computes per row.

    Returns:
        A scalar.
    """
    parts = list(zip(*(x.split(max(1, MAX_SCORES // columns)) for x in rows), strict=True))
    if len(parts) == 1:
        return loss(*rows)
    return torch.stack([checkpoint(loss, *part, use_reentrant=False) for part in parts]).sum()


def mlp(widths: Iterable[int], norm: bool = True, last_norm: bool = False) -> nn.Sequential:
    """Build linear layers with batch normalisation and ReLU between them.

    Args:
        widths: the widths of the input, of each hidden layer and of the output.
        norm: whether to normalise hidden layers.
        last_norm: whether to normalise the output too (without a learnt scale and shift).
    """
    widths = list(widths)
    layers: list[nn.Module] = []
    for i, (width, following) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        normed = last_norm if last else norm
        # A normalisation after a linear layer cancels its bias.
        layers.append(nn.Linear(width, following, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(following, affine=not last))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def by_size(network: Callable[[Tree], Tree], views: Sequence[Tensor]) -> list[Tree]:
    """Pass views through a network, those of one size as one batch, as in SwAV and DINO.

    Batch normalisation then has statistics of its own for each size.

    Args:
        network: maps images [B, C, h, w] to a tensor [B, ...], or a tuple of such tensors.
        views: batches of images, of any sizes.

    Returns:
        The network's output for each view, in the order of the views.
    """
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, view in enumerate(views):
        sizes.setdefault(tuple(view.shape[1:]), []).append(i)
    outputs: dict[int, Tree] = {}
    for members in sizes.values():
        joint, first = network(join([views[i] for i in members])), 0
        for i in members:
            outputs[i] = rows(joint, slice(first, first + len(views[i])))
            first += len(views[i])
    return [outputs[i] for i in range(len(views))]


@torch.no_grad()
def output_shape(encoder: nn.Module, method: Callable[[Tree], Tensor], spec: Spec) -> tuple[int, ...]:
    """Return the shape [1, ...] of a method's output for one sample; `encoder` is left unchanged.

    Use it to build a head that fits, and to fail in `__init__` rather than after training.

    Args:
        encoder: the encoder.
        method: a method of it.
        spec: the description of the samples.

    Raises:
        UserError: raised by the method, e.g. because there is no such stage.
    """
    training = encoder.training
    encoder.eval()
    try:
        return tuple(method(spec.example(1)).shape)
    finally:
        encoder.train(training)


def undecayed_names(module: nn.Module) -> set[str]:
    """Return the names of parameters that a network inside excludes from weight decay, as timm's do.

    These are a transformer's position embedding and class token, beside vectors and scalars.
    """
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if hasattr(part, "no_weight_decay")
        for name in part.no_weight_decay()
    }


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


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Update the parameters: average ← momentum · average + (1 - momentum) · module.

    Buffers are left alone: a teacher's BatchNorm statistics follow from its own batches.
    """
    torch._foreach_lerp_(
        list(average.parameters()), [p.detach() for p in module.parameters()], 1 - momentum
    )


class FeatureQueue(nn.Module):
    """A queue of the latest `size` feature vectors, normalised; it starts with random ones.

    Attributes:
        features: [size, width], unit rows.
        place: the row of the oldest vector, which is overwritten next.
    """

    features: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Replace the oldest rows by `features` [B, width]; of more than `size`, keep the last."""
        size = len(self.features)
        self.place += max(0, len(features) - size)
        features = features[-size:]
        rows = (self.place + torch.arange(len(features), device=features.device)) % size
        self.features[rows] = features.to(self.features.dtype)
        self.place.add_(len(features)).remainder_(size)
