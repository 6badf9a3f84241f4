"""Small networks and options with which the tasks on sound are tested."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssl_zoo.testing import Case

MEL: dict[str, Any] = {"name": "mel-mini", "options": {"width": 32, "layers": 2}}
WAVES: dict[str, Any] = {"name": "wav2vec2-mini", "options": {"width": 32, "layers": 2, "channels": 32}}
WAVE: dict[str, Any] = {"name": "wav2vec2-mini", "options": {"width": 32, "layers": 1, "channels": 16}}
SMALL_HUBERT = {"clusters": 10, "sample": 256, "layer": 2}
SMALL_WAV2VEC2 = {"negatives": 10, "entries": 16, "out": 32}
CAUSAL = {"name": "mel-gru", "options": {"width": 32, "patch": 1, "layers": 1}}
CNN = {"name": "mel-cnn", "options": {"width": 32, "channels": 8, "mels": 16}}
SMALL_BYOL = {"hidden": 32, "out": 16, "bank": 24}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(cls: Any, backbone: Any, **options: Any) -> tuple[Any, Any]:
    case = Case.of(cls, options, backbone)
    task = case.build()
    return task, case.views(task)
