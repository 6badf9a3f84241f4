"""Tasks on tiny networks with fixed views, for tests of a task's loss as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.plugins.registry import registry
from ssl_zoo.testing import SyntheticImages
from ssl_zoo.testing.check_data import TINY
from ssl_zoo.views import Rng

N = 6
"""The number of images of a batch."""

SAMPLES, CLASSES = 24, 3

ON_PLACES = ("densecl", "pixpro")
"""The tasks on the places of a map, which get a network whose map has several."""

MAPS = BackboneConfig(name=TINY.name, options={**TINY.options, "output_stride": 8})

ON_TOKENS = ("aim", "beit", "capi", "data2vec", "dinov2", "i-jepa", "ibot", "mae", "msn", "simmim")
"""The tasks on partly hidden images, which get a transformer."""

VIT = BackboneConfig(name="test_vit", options={"patch_size": 4})

GROUP_NORM = BackboneConfig(name=TINY.name, options={**TINY.options, "norm_layer": "groupnorm1"})
"""A network that encodes the samples of a batch alone."""

SIZES = {"spark": 32}
"""The sides of the images of tasks that need larger ones than others."""

TINY_OPTIONS: dict[str, dict[str, Any]] = {
    "aim": {"width": 16, "depth": 1},
    "autoencoder": {"hidden": 32},
    "augself": {"hidden": 16, "base_options": {"out": 8}},
    "beit": {"codes": 8, "code_width": 4},
    "capi": {"clusters": 5, "width": 32, "depth": 1},
    "byol": {"hidden": 16, "out": 8},
    "barlow-twins": {"hidden": 16, "out": 6},
    "colorization": {"hidden": 32},
    "dino": {"hidden": 16, "out": 8, "prototypes": 5},
    "dinov2": {"hidden": 16, "out": 8, "prototypes": 5},
    "deepcluster": {"prototypes": 5},
    "deepcluster-v2": {"hidden": 16, "out": 8, "prototypes": 5, "heads": 2},
    "densecl": {"out": 8, "queue": 9},
    "essl": {"hidden": 16, "base_options": {"out": 8}},
    "i-jepa": {"predictor_width": 32, "predictor_depth": 1},
    "ibot": {"hidden": 16, "out": 8, "prototypes": 5},
    "lejepa": {"hidden": 16, "out": 4, "directions": 5},
    "moco": {"out": 8, "queue": 9},
    "moco-v3": {"hidden": 16, "out": 8},
    "msn": {"hidden": 16, "out": 8, "prototypes": 5},
    "nnclr": {"hidden": 16, "predictor": 16, "out": 8, "queue": 9},
    "npid": {"out": 8},
    "pixpro": {"hidden": 16, "out": 8},
    "simclr": {"out": 8},
    "simsiam": {"hidden": 16, "out": 8},
    "spark": {"width": 32},
    "supcon": {"out": 8},
    "swav": {"hidden": 16, "out": 8, "prototypes": 5, "queue": 0, "queue_fills": 1},
    "tico": {"hidden": 16, "out": 8},
    "vicreg": {"hidden": 16, "out": 6},
    "w-mse": {"hidden": 16, "out": 2, "slice": 3},
}
"""Options that make a task so narrow that a reference may loop over columns and prototypes."""


def tiny(name: str, size: int | None = None, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """Return a task whose teachers differ from the networks in training, as after some steps."""
    cls = registry.load_task(name)
    torch.manual_seed(0)
    backbone = MAPS if name in ON_PLACES else VIT if name in ON_TOKENS else TINY
    size = size or SIZES.get(name, 16)
    images = SyntheticImages(backbone, size, classes=CLASSES, any_size=cls.any_size)
    data = replace(images.spec, samples=SAMPLES)
    task: Any = cls(images.encoder(), cls.Options(**{**TINY_OPTIONS.get(name, {}), **options}), data).to(
        dtype
    )
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
