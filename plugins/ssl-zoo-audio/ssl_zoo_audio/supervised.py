"""Supervised training on sound: the baseline with labels, under the same budget."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Losses, Rng, Task, TaskOptions
from ssl_zoo.nn import full_precision
from ssl_zoo_audio.encoders.base import SoundEncoder
from ssl_zoo_audio.recipes import recipe
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec


class SupervisedAudio(Task):
    """Predict the classes of clips: the supervised baseline of the tasks on sound."""

    name = "supervised-audio"
    paper = (
        "Hershey et al. 2017, CNN Architectures for Large-Scale Audio Classification, arXiv:1609.09430"
    )
    family = "baseline"
    modality = "audio"
    passes = 1
    recipe = recipe("mel-mini", epochs=25)
    needs = ("labels",)
    spec: SoundSpec

    def __init__(self, encoder: SoundEncoder, options: TaskOptions, spec: SoundSpec) -> None:
        super().__init__(encoder, options, spec)
        assert spec.classes is not None  # as `needs` has labels
        self.head = nn.Linear(encoder.width, spec.classes)

    def views(self, batch: Sound, rng: Rng) -> tuple[Any, ...]:
        """Return the clips as they are."""
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return the cross entropy of clips with their labels [B]."""
        clips, labels = views
        logits: Tensor = full_precision(self.head(self.encoder(clips)))  # [B, classes]
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return Losses(F.cross_entropy(logits, labels), {"accuracy": accuracy})

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return the clips."""
        return {"clip": views[0]}
