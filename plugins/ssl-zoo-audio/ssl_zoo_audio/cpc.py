"""Contrastive predictive coding on sound: later places are told from those of all clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions, Unsuitable, distributed
from ssl_zoo.nn import full_precision
from ssl_zoo_audio.encoders.base import SoundEncoder
from ssl_zoo_audio.heads import first_wins, future_scores
from ssl_zoo_audio.recipes import recipe
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec


class CPCAudio(Task):
    """Tell the features of each of the next places from those of places of all clips."""

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
        negatives: int = Field(
            4, ge=1, description="places of each clip of the batch that all places are told from"
        )

    def __init__(self, encoder: SoundEncoder, options: Options, spec: SoundSpec) -> None:
        super().__init__(encoder, options, spec)
        if not encoder.causal:
            raise Unsuitable(
                "cpc-audio needs a network that sees no later places; choose --backbone mel-gru, or set "
                "backbone.options.causal=true for mel-mini"
            )
        self.predict = nn.Linear(encoder.place_width, options.steps * encoder.local_width, bias=False)

    def views(self, batch: Sound, rng: Rng) -> tuple[Any, ...]:
        """Return prepared clips, and which places of each are negatives, int64 [B, negatives]."""
        x = self.spec.prepare(batch)
        counts = self.encoder.valid(x).sum(1, keepdim=True)
        return x, (rng.uniform(len(x.wave), self.options.negatives) * counts).long()

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return InfoNCE, the mean over places and steps (equation 4)."""
        x, places = views
        local = self.encoder.local(x)
        z = full_precision(local.normed)  # [B, T, D]
        chosen = z.gather(1, places[..., None].expand(-1, -1, z.shape[2])).flatten(0, 1)
        negatives = distributed.all_gather(chosen)  # [K, D], of the joint batch
        itself = self.itself(places, z.shape[1])
        context = self.encoder.context(local)[-1]
        predictions = full_precision(self.predict(context)).unflatten(2, (self.options.steps, -1))
        logits = []
        for k in range(1, min(self.options.steps, z.shape[1] - 1) + 1):
            scores = future_scores(predictions[:, :, k - 1], z, negatives, itself, k)
            logits.append(scores[local.valid[:, k:]])  # the place that is predicted is real
        joint = torch.cat(logits)  # [M, 1 + K]
        loss, accuracy = first_wins(joint)
        return Losses(loss, {"accuracy": accuracy}, torch.tensor(len(joint), device=z.device))

    def itself(self, places: Tensor, number: int) -> Tensor:
        """Return which of the K negatives each of `number` places itself is, bool [B, number, K]."""
        n, per_clip = places.shape
        clips = torch.arange(n * distributed.world_size(), device=places.device)
        own = clips.repeat_interleave(per_clip) == distributed.local_rows(clips)[:, None]  # [B, K]
        joint = distributed.all_gather(places).flatten()
        return own[:, None] & (joint == torch.arange(number, device=places.device)[:, None])

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return clips."""
        return {"clip": views[0]}
