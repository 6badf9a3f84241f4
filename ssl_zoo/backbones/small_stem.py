"""Stems for small images: a 3×3 convolution and no early pooling."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def use_small_stem(model: Any, stride: int = 1, keep_weights: bool = False) -> bool:
    """Replace a model's stem, in place, by one for small images: a 3×3 convolution and no pooling.

    He et al. 2016, section 4.2, do so for CIFAR. The families of timm:

    - ResNets, and all models with timm's `conv1` and `maxpool`: as above. A deep stem (resnet18d,
      resnet10t) has 3×3 convolutions already; the first one gets the stride.
    - A `conv_stem` or `stem` with one strided convolution (EfficientNet, MobileNet, RegNet, ResNetV2):
      the convolution gets the stride and keeps its kernel; a pooling in the stem is removed.
    - All others are not changed: stems with branches or several strides (RepVGG, FastViT), whose parts
      must agree, and patches (ConvNeXt, ViT, Swin, Mixer), whose size is timm's option `patch_size`.
      `create_backbone` also skips models that are built for one image size.

    Args:
        model: a timm model.
        stride: the stride of the convolution.
        keep_weights: derive the new 3×3 kernel from the old one by shrinking it, instead of drawing
            it at random: it then responds to an image as the old one did to the enlarged image
            (7/3 times, for 7×7).

    Returns:
        Whether the model had such a stem; if not, it is unchanged.
    """
    if hasattr(model, "conv1") and hasattr(model, "maxpool"):
        convolutions = [m for m in model.conv1.modules() if isinstance(m, nn.Conv2d)]
        if len(convolutions) == 1:
            old = convolutions[0]
            model.conv1 = nn.Conv2d(
                old.in_channels, old.out_channels, 3, stride, 1, bias=old.bias is not None
            )
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
            if keep_weights:
                model.conv1.load_state_dict({**old.state_dict(), "weight": _shrunk(old.weight)})
        else:
            convolutions[0].stride = (stride, stride)
        model.maxpool = nn.Identity()
        return True
    for stem in (getattr(model, part, None) for part in ("conv_stem", "stem")):
        modules = stem.modules() if stem is not None else ()
        strided = [m for m in modules if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
        if stem is not None and len(strided) == 1 and strided[0].stride == (2, 2):
            strided[0].stride = (stride, stride)
            if hasattr(stem, "pool"):
                stem.pool = nn.Identity()
            return True
    return False


def _shrunk(kernel: Tensor) -> Tensor:
    """Shrink a square kernel [d, C, k, k] to 3×3 by area averaging; the sum of its weights stays."""
    k = kernel.shape[-1]
    return F.avg_pool2d(F.interpolate(kernel.detach(), scale_factor=3), k) * (k / 3) ** 2
