"""Convolutions of maps of few pixels, which torch computes slowly or wrongly on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import has_torch_function

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
        # A mode, such as that of sparse maps, is to see the convolution.
        if not self.training or x.device.type != "cpu" or has_torch_function((x,)):
            return super().forward(x)
        if x.shape[2:].numel() > self.weight.shape[2:].numel():
            return super().forward(x)
        taps = self._taps(x.shape[2:])
        if len(x) < _IMAGES_PER_COPY * taps.numel():
            return super().forward(x)
        weights = F.pad(self.weight.permute(2, 3, 0, 1).flatten(0, 1), (0, 0, 0, 0, 0, 1))
        matrix = weights[taps.flatten(0, 1)].transpose(1, 2).flatten(0, 1).flatten(1)
        bias = None if self.bias is None else self.bias.repeat(taps.shape[:2].numel())
        y = F.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return y.view(len(x), *taps.shape[:2], -1).permute(0, 3, 1, 2)

    def _taps(self, size: torch.Size) -> Tensor:
        """Return which tap joins output pixels with input pixels, [H, W, I]; one past the last: none."""
        assert not isinstance(self.padding, str)
        axes = zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        out = [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in axes]
        pixels = torch.arange(1, 1 + size.numel(), dtype=torch.float64).view(1, 1, *size)
        met = F.unfold(pixels, self.kernel_size, self.dilation, self.padding, self.stride)
        met = met[0].T.long()  # by output pixel and tap; 0: outside the map
        places, taps = met.shape
        joined = torch.full((places, 1 + size.numel()), taps)
        return joined.scatter(1, met, torch.arange(taps).expand_as(met))[:, 1:].reshape(*out, -1)

    def _get_name(self) -> str:
        return nn.Conv2d.__name__


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
