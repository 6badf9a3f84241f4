"""Contrastive predictive coding on sound: later places are told from others of the clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions, Unsuitable
from ssl_zoo.nn import full_precision
from ssl_zoo_audio.encoders.base import SoundEncoder
from ssl_zoo_audio.heads import first_wins, future_scores
from ssl_zoo_audio.masks import draw_others
from ssl_zoo_audio.recipes import recipe
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec


class CPCAudio(Task):
    """Tell the features of each of the next places from those of other places of the clip."""

    name = "cpc-audio"
    paper = "van den Oord et al. 2018, CPC, arXiv:1807.03748"
    family = "contrastive"
    modality = "audio"
    encoder: SoundEncoder
    prerequisites = "a causal network"
    passes = 1
    recipe = recipe("mel-gru", {"layers": 1})

    class Options(TaskOptions):
        """CPC's options."""

        steps: int = Field(12, ge=1, description="how many places ahead are predicted")
        negatives: int = Field(32, ge=1, description="other places of the clip that each is told from")

    def __init__(self, encoder: SoundEncoder, options: Options, spec: SoundSpec) -> None:
        super().__init__(encoder, options, spec)
        if not encoder.causal:
            raise Unsuitable(
                "cpc-audio needs a network that sees no later places; choose --backbone mel-gru, or set "
                "backbone.options.causal=true for mel-mini"
            )
        self.predict = nn.Linear(encoder.place_width, options.steps * encoder.local_width, bias=False)

    def views(self, batch: Sound, rng: Rng) -> tuple[Any, ...]:
        """Return prepared clips, and for each place others of its clip, int64 [B, T, negatives]."""
        x = self.spec.prepare(batch)
        others, _ = draw_others(rng, self.encoder.valid(x), self.options.negatives)
        return x, others

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return InfoNCE, the mean over places and steps (equation 4)."""
        x, others = views
        local = self.encoder.local(x)
        z = full_precision(local.normed)  # [B, T, D]
        context = self.encoder.context(local)[-1]
        predictions = full_precision(self.predict(context)).unflatten(2, (self.options.steps, -1))
        logits = []
        for k in range(1, min(self.options.steps, z.shape[1] - 1) + 1):
            scores = future_scores(predictions[:, :, k - 1], z, others, k)
            logits.append(scores[local.valid[:, k:]])  # the place that is predicted is real
        joint = torch.cat(logits)  # [M, 1 + negatives]
        loss, accuracy = first_wins(joint)
        return Losses(loss, {"accuracy": accuracy}, torch.tensor(len(joint), device=z.device))

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return clips."""
        return {"clip": views[0]}
