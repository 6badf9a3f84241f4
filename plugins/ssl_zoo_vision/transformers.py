"""Shared settings of the recipes for self-distillation in vision transformers."""

from __future__ import annotations

from typing import Any

SMALL_VIT: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "options": {"patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4},
}
"""A backbone for small images: four blocks on patches of 4 × 4 pixels."""

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
