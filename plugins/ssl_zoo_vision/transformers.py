"""Shared pieces of tasks on vision transformers: settings of recipes, and who looks at whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Recipe = Mapping[str, Mapping[str, Any]]

VIT = {"name": "vit4_narrow"}
"""A small backbone: four blocks, on patches of 4 × 4 pixels in images of up to 64 pixels."""

MASKED_VIT = {"name": "vit4_narrow_gap"}
"""The same for tasks on patches: without a class token, which their losses would not train."""

ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "lr_min": 2e-3,
    "warmup": 0.1,
    "weight_decay": 0.04,
    "weight_decay_end": 0.4,
    "clip_norm": 3.0,
}
"""The optimiser of DINO, iBOT, DINOv2 and MSN, without the learning rate.

DINO and iBOT clip the gradient of each tensor by itself, DINOv2 that of backbone and heads; here, as in
MSN, its joint norm is clipped.
"""

MASKED_ADAMW: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup": 0.1}
"""The optimiser of tasks on hidden patches, with a learning rate for small networks."""

FCMAE_ADAMW: dict[str, Any] = {"clip_norm": None, "optimizer_options": {"betas": [0.9, 0.95]}}
"""The changes to it for FCMAE (ConvNeXt V2), in place of SparK's."""


def with_train(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with changes to its settings of training."""
    return {**recipe, "train": {**recipe["train"], **changes}}


def prefix_attention(prefix: Tensor, places: int) -> Tensor:
    """Return which patch may look at which, bool [B, N, N]: at all before it, and at the prefix.

    Args:
        prefix: the length of each image's prefix, int64 [B].
        places: N.
    """
    before = torch.ones(places, places, dtype=torch.bool, device=prefix.device).tril()
    return before | (torch.arange(places, device=prefix.device) < prefix.view(-1, 1, 1))
