"""Convolutions of maps of few pixels, which torch computes slowly or wrongly on CPUs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

_IMAGES_PER_COPY = 4  # of the weights; with fewer images in a batch the copies cost more than they win


def prepare_small_maps(model: nn.Module) -> None:
    """Make a model's convolutions fast and right on maps of few pixels, in training on a CPU.

    - A map of no more pixels than the kernel meets the weights in one matrix product over all pixels and
      channels, several times as fast as torch's convolution, forward and backward.
    - A map that is smaller than the stride is enlarged by zeros on the right and below, where the
      convolution takes it for zero anyway. Without them torch's gradient of the weights that meet no
      pixel is what happens to be in memory, in bfloat16 on CPUs with AMX: at times infinite, at times
      merely wrong.

    The output is the same but for rounding. Such maps come from small images and from patches.

    Args:
        model: a network, changed in place; its weights, their names and its text stay.
    """
    for part in model.modules():
        if not isinstance(part, nn.Conv2d) or isinstance(part.padding, str):
            continue
        if max(part.stride) > 1 and _keeps_size(part):
            part.register_forward_pre_hook(_padded)
        if type(part) is nn.Conv2d and part.groups == 1 and part.padding_mode == "zeros":
            part.__class__ = _Convolution


class _Convolution(nn.Conv2d):
    """Convolve, by a matrix product where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        if (
            not self.training
            or x.device.type != "cpu"
            or x.shape[2:].numel() > self.weight[0, 0].numel()
        ):
            return super().forward(x)
        assert not isinstance(self.padding, str)
        axes = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        # `torch.compile` would go into a cached function, and warn that it ignores the cache.
        find = _taps if torch.compiler.is_compiling() else _cached_taps
        taps = torch.tensor(find(*axes), device=x.device)
        if len(x) < _IMAGES_PER_COPY * taps.numel():
            return super().forward(x)
        return convolve_at_once(x, self.weight, self.bias, taps)

    def _get_name(self) -> str:
        return nn.Conv2d.__name__


def _taps(down: tuple[int, ...], across: tuple[int, ...]) -> list[list[list[int]]]:
    """Return the taps [H, W, h · w] of `convolve_at_once`.

    Args:
        down: of the rows: the map's and the kernel's size, the stride, the padding and the dilation.
        across: the same of the columns.
    """
    width, none = across[1], down[1] * across[1]

    def joined(row: list[int], column: list[int]) -> list[int]:
        return [none if -1 in (r, c) else r * width + c for r in row for c in column]

    columns = _axis_taps(*across)
    return [[joined(row, column) for column in columns] for row in _axis_taps(*down)]


_cached_taps = lru_cache(maxsize=256)(_taps)


def _axis_taps(side: int, kernel: int, stride: int, padding: int, dilation: int) -> list[list[int]]:
    """Return by output place which tap of a kernel joins it with each input place; -1: none does."""
    out = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    taps = [[divmod(i + padding - stride * o, dilation) for i in range(side)] for o in range(out)]
    return [[t if not rest and 0 <= t < kernel else -1 for t, rest in place] for place in taps]


def convolve_at_once(x: Tensor, weight: Tensor, bias: Tensor | None, taps: Tensor) -> Tensor:
    """Convolve maps by one matrix product over all of their pixels and channels.

    It is a function to torch's modes, as `torch.nn.functional.conv2d` is, so that a mode can change the
    map before.

    Args:
        x: the maps [B, C, h, w].
        weight: the kernels [O, C, ...].
        bias: of the output [O], or none.
        taps: which of the K taps of the kernels joins an output pixel with an input pixel, int64
            [H, W, h · w]; K where none does.

    Returns:
        The maps [B, O, H, W].
    """
    if has_torch_function((x, weight)):
        return handle_torch_function(convolve_at_once, (x, weight), x, weight, bias, taps)
    weights = F.pad(weight.flatten(2).permute(2, 0, 1), (0, 0, 0, 0, 0, 1))  # [K + 1, O, C]
    matrix = weights[taps.flatten(0, 1)].transpose(1, 2).flatten(0, 1).flatten(1)
    biases = None if bias is None else bias.repeat(taps.shape[:2].numel())
    y = F.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, biases)
    return y.view(len(x), *taps.shape[:2], -1).permute(0, 3, 1, 2)


def _keeps_size(convolution: nn.Conv2d) -> bool:
    """Return whether the output would be as large as the input, but for the stride."""
    assert not isinstance(convolution.padding, str)
    sizes = zip(convolution.kernel_size, convolution.dilation, convolution.padding, strict=True)
    return all(d * (k - 1) == 2 * p for k, d, p in sizes)


def _padded(convolution: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    (x,) = inputs
    missing = [max(s - side, 0) for s, side in zip(convolution.stride, x.shape[2:], strict=True)]
    if not convolution.training or not any(missing):
        return None
    return (F.pad(x, (0, missing[1], 0, missing[0])),)
