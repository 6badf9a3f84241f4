"""Named backbones: timm models with their own options and stem stride."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A timm model with its options, under a short name.

    Attributes:
        model: the name of the timm model.
        options: arguments of `timm.create_model`; those of ``backbone.options`` are merged over them.
        stem_stride: the stride of the small stem, unless ``backbone.stem_stride`` is set.
        small: further options where the stem is small, such as that of a transformer's patches.
    """

    model: str
    options: Mapping[str, Any]
    stem_stride: int = 1
    small: Mapping[str, Any] = field(default_factory=dict)


SMALL_IMAGE = 64
"""The largest image side, in pixels, for which `stem="auto"` is the small stem."""

DEFAULT_BACKBONE = "resnet10_narrow"
"""The default network: 1.2 M parameters, trained in minutes on two CPU cores."""

_VIT = {"embed_dim": 128, "depth": 4, "num_heads": 4}
_PATCHES = {"patch_size": 4}

PRESETS = {
    DEFAULT_BACKBONE: Preset(
        "resnet18",
        # timm starts residual branches at zero. This slows short training, and makes the features of
        # the untrained network, a baseline, much worse than those of random weights are.
        {"channels": [32, 64, 128, 256], "layers": [1, 1, 1, 1], "zero_init_last": False},
        stem_stride=2,
    ),
    "vit4_narrow": Preset("vit_tiny_patch16_224", _VIT, small=_PATCHES),
    # The last norm is before the pooling, where losses on patches see it.
    "vit4_narrow_gap": Preset(
        "vit_tiny_patch16_224",
        {**_VIT, "class_token": False, "global_pool": "avg", "fc_norm": False},
        small=_PATCHES,
    ),
}
"""The networks of shipped recipes; ``_gap`` has no class token, which losses on patches do not train."""
