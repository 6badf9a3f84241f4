"""Small versions of the shipped tasks, and their views, for tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task
from ssl_zoo.views import Rng
from ssl_zoo_vision.contrastive.moco import MoCo
from ssl_zoo_vision.contrastive.simclr import SimCLR
from ssl_zoo_vision.distillation.byol import BYOL
from ssl_zoo_vision.masked.inpainting import Inpainting
from ssl_zoo_vision.predictive.rotation import Rotation

TINY_RESNET = BackboneConfig(
    name="resnet18", options={"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1]}
)
TINY_VIT = BackboneConfig(name="test_vit", options={"patch_size": 4})

SMALL: dict[type[Task], dict[str, Any]] = {
    SimCLR: {},
    MoCo: {"queue": 24},
    BYOL: {"hidden": 64, "out": 32},
    Rotation: {},
    Inpainting: {"hidden": 32},
}
"""Options that make a task quick."""

TASKS = list(SMALL)
VARIANTS = [
    *((task, {}) for task in TASKS),
    (MoCo, {"head": "linear"}),
    (MoCo, {"symmetric": True}),
    (Inpainting, {"adversarial": 0.1}),
    (Inpainting, {"region": "centre"}),
]
every_variant = pytest.mark.parametrize(
    ("cls", "options"), VARIANTS, ids=[f"{c.name}-{'-'.join(o)}" for c, o in VARIANTS]
)


def spec(size: int = 16, channels: int = 3) -> ImageSpec:
    return ImageSpec(channels=channels, size=size, mean=(0.5,) * channels, std=(0.25,) * channels)


def build(
    cls: type[Task],
    size: int = 16,
    channels: int = 3,
    backbone: BackboneConfig = TINY_RESNET,
    **options: Any,
) -> Any:
    torch.manual_seed(0)
    data = spec(size, channels)
    options = {**SMALL.get(cls, {}), **options}
    return cls(create_backbone(backbone, data), cls.Options(**options), data)


def photos(n: int = 8, size: int = 20, channels: int = 3) -> Tensor:
    """Smooth coloured blotches, different for each image, uint8 [n, channels, size, size]."""
    coarse = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    fine = F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (255 * fine).round().byte()


def views(task: Any, n: int = 8, seed: int = 0, **kwargs: Any) -> tuple[Tensor, ...]:
    drawn: tuple[Tensor, ...] = task.views(photos(n, channels=task.spec.channels, **kwargs), Rng(seed))
    return drawn


# --- what all have in common, beside what test_conformance checks ---
