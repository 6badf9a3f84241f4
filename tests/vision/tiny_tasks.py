"""Tasks on tiny networks with fixed views, for tests of a task's loss as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.task import Task
from ssl_zoo.testing import SyntheticImages
from ssl_zoo.testing.check_data import TINY
from ssl_zoo.views import Rng
from ssl_zoo_vision.clustering.swav import SwAV
from ssl_zoo_vision.contrastive.densecl import DenseCL
from ssl_zoo_vision.contrastive.moco import MoCo
from ssl_zoo_vision.contrastive.moco_v3 import MoCoV3
from ssl_zoo_vision.contrastive.nnclr import NNCLR
from ssl_zoo_vision.contrastive.npid import NPID
from ssl_zoo_vision.contrastive.pixpro import PixPro
from ssl_zoo_vision.contrastive.simclr import SimCLR
from ssl_zoo_vision.contrastive.supcon import SupCon
from ssl_zoo_vision.distillation.byol import BYOL
from ssl_zoo_vision.distillation.dino import DINO
from ssl_zoo_vision.distillation.simsiam import SimSiam
from ssl_zoo_vision.redundancy.barlow_twins import BarlowTwins
from ssl_zoo_vision.redundancy.lejepa import LeJEPA
from ssl_zoo_vision.redundancy.tico import TiCo
from ssl_zoo_vision.redundancy.vicreg import VICReg
from ssl_zoo_vision.redundancy.w_mse import WMSE

N = 8
"""The number of images of a batch."""

SAMPLES, CLASSES = 24, 3

MAPS = BackboneConfig(name=TINY.name, options={**TINY.options, "output_stride": 8})
"""A network whose feature map has several places, for tasks on places."""

TINY_OPTIONS: dict[type[Task], dict[str, Any]] = {
    BYOL: {"hidden": 16, "out": 8},
    BarlowTwins: {"hidden": 16, "out": 6},
    DINO: {"hidden": 16, "out": 8, "prototypes": 5},
    DenseCL: {"out": 8, "queue": 12},
    LeJEPA: {"hidden": 16, "out": 4, "directions": 5},
    MoCo: {"out": 8, "queue": 12},
    MoCoV3: {"hidden": 16, "out": 8},
    NNCLR: {"hidden": 16, "predictor": 16, "out": 8, "queue": 12},
    NPID: {"out": 8},
    PixPro: {"hidden": 16, "out": 8},
    SimCLR: {"out": 8},
    SimSiam: {"hidden": 16, "out": 8},
    SupCon: {"out": 8},
    SwAV: {"hidden": 16, "out": 8, "prototypes": 5, "queue": 0},
    TiCo: {"hidden": 16, "out": 8},
    VICReg: {"hidden": 16, "out": 6},
    WMSE: {"hidden": 16, "out": 3, "slice": 4},
}
"""Options that make a task so narrow that a reference may loop over columns and prototypes."""


def tiny(
    cls: type[Task],
    backbone: BackboneConfig = TINY,
    size: int = 16,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Any:
    """Return a task whose teachers differ from the networks in training, as after some steps."""
    torch.manual_seed(0)
    images = SyntheticImages(backbone, size, classes=CLASSES, any_size=cls.any_size)
    data = replace(images.spec, samples=SAMPLES)
    task = cls(images.encoder(), cls.Options(**{**TINY_OPTIONS[cls], **options}), data).to(dtype)
    for parameter in task.parameters():
        if not parameter.requires_grad:
            parameter.data += 0.3 * parameter.std(correction=0) * torch.randn_like(parameter)
    return task


def fixed_views(task: Any, n: int = N, seed: int = 0) -> tuple[Tensor, ...]:
    """Return what `loss` takes for n images, in the task's precision."""
    dtype = next(task.parameters()).dtype
    drawn = task.views(SyntheticImages().batch(n, seed), Rng(seed))
    images = [x.to(dtype) if x.is_floating_point() else x for x in drawn]
    needed = {"labels": torch.arange(n) % CLASSES, "index": (5 * torch.arange(n) + 3) % SAMPLES}
    return *images, *(needed[name] for name in task.needs)
