"""Sparse computation: a convolutional network that sees the active places of its input alone.

Dense operations give what submanifold convolutions would, as in SparK (Tian et al. 2023,
arXiv:2301.03580, section 3.1): hidden cells are 0 wherever an operation looks at several places, and the
statistics of normalisations and poolings are over active cells. It saves no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ssl_zoo import distributed
from ssl_zoo.backbones.small_maps import convolve_at_once
from ssl_zoo.errors import Unsuitable
from ssl_zoo.nn import full_precision

Function = Callable[..., Any]


@contextmanager
def masked(model: nn.Module, active: Tensor) -> Iterator[None]:
    """Temporarily let a convolutional network compute with the active places of its input alone.

    Convolutions, poolings, batch, group and global response norms, and squeeze-and-excitation respect
    `active`, which is resized to each resolution; what acts on each place by itself, as layer norms and
    activations do, needs no mask. Outputs in hidden cells have no meaning: multiply a map by its mask.
    With all cells active, the network is the dense one.

    Args:
        model: the network, called within with images [B, C, H, W].
        active: the active cells, bool [B, h, w] on the grid of the network's last map.

    Raises:
        Unsuitable: within, the network looks at places in another way, as attention does.
    """
    with ExitStack() as stack:
        mode = _Sparse(active)
        for norm in (m for m in model.modules() if isinstance(m, _BatchNorm)):
            stack.enter_context(_replaced(norm, partial(mode.batch_norm, norm, norm.forward)))
        stack.enter_context(mode)
        yield


@contextmanager
def _replaced(norm: nn.Module, forward: Function) -> Iterator[None]:
    """Temporarily give a module another forward pass."""
    own = vars(norm).get("forward")  # of itself, not of its class
    norm.forward = forward
    try:
        yield
    finally:
        if own is None:
            del norm.forward
        else:
            norm.forward = own


def resized(cells: Tensor, height: int, width: int) -> Tensor:
    """Resize a mask [B, h, w] to another grid, [B, height, width], by the nearest cell."""
    rows = torch.arange(height, device=cells.device) * cells.shape[1] // height
    columns = torch.arange(width, device=cells.device) * cells.shape[2] // width
    return cells[:, rows][:, :, columns]


class _Sparse(TorchFunctionMode):
    """A mode in which torch's functions that look at several places respect the active ones."""

    def __init__(self, active: Tensor) -> None:
        super().__init__()
        self.active = active
        self.masks: dict[tuple[int, int], Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handle = _HANDLERS.get(func)
        if handle is None:
            return func(*args, **(kwargs or {}))
        return handle(self, func, *args, **(kwargs or {}))

    def mask(self, x: Any, places: tuple[int, int] = (2, 3)) -> Tensor | None:
        """Return the active cells of a map, bool [B, 1, H, W], or [B, H, W, 1] for `places` (1, 2).

        None if it is no map: a kernel, or what is pooled already.
        """
        batch, *grid = self.active.shape
        if not isinstance(x, Tensor) or isinstance(x, nn.Parameter) or x.ndim != 4 or len(x) != batch:
            return None
        height, width = (x.shape[d] for d in places)
        if height < grid[0] or width < grid[1]:
            return None
        if (height, width) not in self.masks:
            self.masks[height, width] = resized(self.active, height, width)
        return self.masks[height, width].unsqueeze(1 if places == (2, 3) else 3)

    def fill(self, x: Tensor, value: float = 0.0) -> Tensor:
        """Set hidden cells to a value; a padded map is filled already, before its grid was shifted."""
        mask = None if hasattr(x, _FILLED) else self.mask(x)
        return x if mask is None else x.masked_fill(~mask, value)

    def convolve(self, func: Function, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Convolve a map; a kernel of 1×1 sees one place alone, which may be hidden."""
        local = tuple(weight.shape[2:]) == (1, 1)
        result: Tensor = func(x if local else self.fill(x), weight, *args, **kwargs)
        return result

    def pad(self, func: Function, x: Tensor, pad: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Pad a tensor; hidden cells of a map get the value that stands around it."""
        value = kwargs.get("value", args[1] if len(args) > 1 else None) or 0.0
        result: Tensor = func(self.fill(x, value), pad, *args, **kwargs)
        if self.mask(x) is not None:
            setattr(result, _FILLED, True)
        return result

    def pool_max(self, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Pool the maximum of active cells; 0 where there are none."""
        return self.fill(func(self.fill(x, -math.inf), *args, **kwargs))

    def pool_mean(self, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Pool the mean of active cells; 0 where there are none."""
        result: Tensor = func(self.fill(x), *args, **kwargs)
        if (mask := self.mask(x)) is None:
            return result
        cells = mask.to(x.dtype)
        counted: Tensor = func(cells, *args, **kwargs)
        every: Tensor = func(torch.ones_like(cells), *args, **kwargs)
        return result * torch.where(counted > 0, every / counted, 0.0)

    def reduce(self, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Reduce a tensor; over the places of a map, the active ones alone."""
        dim = kwargs.get("dim", next((a for a in args if isinstance(a, tuple | list)), args[:1]))
        axes = dim if isinstance(dim, tuple | list) else [dim]
        dims = {axis % max(1, x.ndim) for axis in axes if type(axis) is int}
        places = next((p for p in _LAYOUTS if dims == set(p)), None)
        if x.ndim == 5 and dims >= {3, 4}:  # of groups of channels
            raise _unsuitable(func)
        mask = self.mask(x, places or (2, 3))
        if mask is None or not (dims & {2}):  # over channels alone
            return func(x, *args, **kwargs)
        if places is None or func in _SPREADS:
            raise _unsuitable(func)
        result = func(x.masked_fill(~mask, -math.inf if func in _MAXIMA else 0.0), *args, **kwargs)
        if func in _MEANS:  # over all places, of which the active ones are a share
            share = mask.float().mean(places, keepdim=result.ndim == x.ndim)
            result = (result / torch.where(share > 0, share, 1.0)).to(result.dtype)
        return result

    def batch_norm(self, norm: _BatchNorm, forward: Function, x: Tensor) -> Tensor:
        """Normalise a map [B, C, H, W] by the mean and deviation of active cells; others become 0.

        Cells are weighed, not selected, as a GPU would have to be asked for their number.

        Args:
            norm: the batch norm.
            forward: its own forward pass.
            x: the map.
        """
        mask = self.mask(x) if norm.training else None
        if mask is None:
            result: Tensor = forward(x)
            return result
        normed = _normalised(norm, x, mask)
        for part in ("drop", "act"):  # of timm's BatchNormAct2d
            normed = getattr(norm, part, _identity)(normed)
        return normed

    def group_norm(
        self,
        func: Function,
        x: Tensor,
        groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """Normalise groups of channels by the mean and deviation of active cells."""
        if (mask := self.mask(x)) is None:
            result: Tensor = func(x, groups, weight, bias, eps)
            return result
        cells = x.float().unflatten(1, (groups, -1))  # [B, g, c, H, W]
        share = mask.float().unsqueeze(1)
        count = share.sum((2, 3, 4), keepdim=True) * cells.shape[2]
        centred = cells - (cells * share).sum((2, 3, 4), keepdim=True) / count.clamp_min(1)
        variance = (centred.square() * share).sum((2, 3, 4), keepdim=True) / count.clamp_min(1)
        normed: Tensor = (centred * (variance + eps).rsqrt()).flatten(1, 2)
        if weight is not None:
            normed = normed * weight.view(-1, 1, 1)
        if bias is not None:
            normed = normed + bias.view(-1, 1, 1)
        return normed.to(x.dtype)

    def reshape(self, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Reshape a tensor, but make no sequence of a map."""
        result: Tensor = func(x, *args, **kwargs)
        if result.ndim == 3 and self.mask(x) is not None and x.shape[2] * x.shape[3] > 1:
            raise _unsuitable(func)
        return result

    def refuse(self, func: Function, *args: Any, **kwargs: Any) -> Any:
        """Raise that the network looks at places in another way."""
        raise _unsuitable(func)

    def normalise(
        self, func: Function, x: Tensor, shape: Sequence[int], *args: Any, **kwargs: Any
    ) -> Any:
        """Normalise each place of a tensor by its channels."""
        if len(shape) > 1:
            raise _unsuitable(func)
        return func(x, shape, *args, **kwargs)


def _normalised(norm: _BatchNorm, x: Tensor, mask: Tensor) -> Tensor:
    """Normalise a map [B, C, H, W] by its active cells, and move the running statistics of the norm.

    Args:
        norm: the batch norm; a synchronised one takes the cells of all processes.
        x: the map.
        mask: the active cells, bool [B, 1, H, W].
    """
    synchronised = isinstance(norm, nn.SyncBatchNorm | distributed.SyncBatchNorm)
    total = distributed.sum if synchronised else _identity
    values, channels = full_precision(x), x.shape[1]
    cells = mask.to(values.dtype)
    # Not `sum`, which the mode would take for a pooling.
    sums = (values * cells).sum_to_size(1, channels, 1, 1)
    sums = total(torch.cat([sums, cells.sum_to_size(1, 1, 1, 1)], 1))
    count = sums[:, -1:].clamp(min=1)
    mean = sums[:, :-1] / count  # [1, C, 1, 1]
    centred = (values - mean) * cells
    variance = total(centred.square().sum_to_size(1, channels, 1, 1)) / count
    if norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.add_(1)
            share = 1 / norm.num_batches_tracked.float() if norm.momentum is None else norm.momentum
            unbiased = variance * (count / (count - 1).clamp(min=1))
            norm.running_mean.lerp_(mean.flatten().to(norm.running_mean.dtype), share)
            norm.running_var.lerp_(unbiased.flatten().to(norm.running_var.dtype), share)
    result = centred * (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        result = result * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1) * cells
    return result.to(x.dtype)


def _identity(x: Tensor) -> Tensor:
    return x


def _unsuitable(func: Function) -> Unsuitable:
    return Unsuitable(
        f"the backbone looks at all places with {getattr(func, '__name__', func)}, so that none can be "
        "hidden inside of it; choose a convolutional network, such as --backbone resnet18"
    )


_FILLED = "_ssl_zoo_filled"
_LAYOUTS = ((2, 3), (1, 2))
"""The axes of the places in NCHW and NHWC."""

_MEANS = {torch.mean, Tensor.mean}
_MAXIMA = {torch.amax, Tensor.amax}
_SUMS = {torch.sum, Tensor.sum, torch.norm, Tensor.norm, torch.linalg.vector_norm}
_SPREADS = {torch.var, Tensor.var, torch.std, Tensor.std, torch.var_mean, torch.std_mean}

_HANDLERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys([torch.conv2d, convolve_at_once], _Sparse.convolve),
    F.pad: _Sparse.pad,
    **dict.fromkeys([F.max_pool2d, torch.max_pool2d, F.adaptive_max_pool2d], _Sparse.pool_max),
    **dict.fromkeys([F.avg_pool2d, F.adaptive_avg_pool2d], _Sparse.pool_mean),
    **dict.fromkeys([*_MEANS, *_MAXIMA, *_SUMS, *_SPREADS], _Sparse.reduce),
    F.group_norm: _Sparse.group_norm,
    F.layer_norm: _Sparse.normalise,
    **dict.fromkeys(
        [torch.reshape, torch.flatten, Tensor.reshape, Tensor.flatten, Tensor.view], _Sparse.reshape
    ),
    **dict.fromkeys(
        [
            *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.einsum),
            *(F.scaled_dot_product_attention, F.interpolate, F.unfold, F.instance_norm),
            *(torch.conv_transpose2d, torch.roll, F.grid_sample),
        ],
        _Sparse.refuse,
    ),
}
