"""Named backbones: timm models with their own options and stem stride."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A timm model with its options, under a short name.

    Attributes:
        model: the name of the timm model.
        options: arguments of `timm.create_model`; those of ``backbone.options`` are merged over them.
        stem_stride: the stride of the small stem, unless ``backbone.stem_stride`` is set.
    """

    model: str
    options: Mapping[str, Any]
    stem_stride: int = 1


SMALL_IMAGE = 64
"""The largest image side, in pixels, for which `stem="auto"` is the small stem."""

DEFAULT_BACKBONE = "resnet10_narrow"
"""The default network: 1.2 M parameters, trained in minutes on two CPU cores."""

PRESETS = {
    DEFAULT_BACKBONE: Preset(
        "resnet18",
        # timm starts residual branches at zero. This slows short training, and makes the features of
        # the untrained network, a baseline, much worse than those of random weights are.
        {"channels": [32, 64, 128, 256], "layers": [1, 1, 1, 1], "zero_init_last": False},
        stem_stride=2,
    ),
}
