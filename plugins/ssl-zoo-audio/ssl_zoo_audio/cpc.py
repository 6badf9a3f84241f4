"""Contrastive predictive coding on sound: later places are told from those of other clips."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions, Unsuitable
from ssl_zoo.nn import full_precision
from ssl_zoo_audio.encoders.base import SoundEncoder
from ssl_zoo_audio.heads import first_wins, future_scores
from ssl_zoo_audio.negatives import random_places, same_clip, same_place
from ssl_zoo_audio.recipes import recipe
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec


class CPCAudio(Task):
    """Tell the features of each of the next places from those of places of other clips."""

    name = "cpc-audio"
    paper = "van den Oord et al. 2018, CPC, arXiv:1807.03748"
    family = "contrastive"
    modality = "audio"
    encoder: SoundEncoder
    prerequisites = "a causal network"
    passes = 1
    recipe = recipe("mel-gru", {"layers": 1})

    class Options(TaskOptions):
        """CPC's options.

        The paper draws negatives from all clips, those of the speaker, or the clip itself (table 2). By
        default they are the other clips of the batch at the same place: clips that are cut alike, such
        as words, sound alike at one place, and the number of a place would tell it from others.
        """

        steps: int = Field(12, ge=1, description="how many places ahead are predicted")
        negatives: Literal["place", "clip", "clips"] = Field(
            "place",
            description="place: the other clips at the same place; clip: the other places of the clip; "
            "clips: random places of all clips",
        )
        per_clip: int = Field(4, ge=1, description="random places of each clip, with negatives=clips")

    def __init__(self, encoder: SoundEncoder, options: Options, spec: SoundSpec) -> None:
        super().__init__(encoder, options, spec)
        if not encoder.causal:
            raise Unsuitable(
                "cpc-audio needs a network that sees no later places; choose --backbone mel-gru, or set "
                "backbone.options.causal=true for mel-mini"
            )
        self.predict = nn.Linear(encoder.place_width, options.steps * encoder.local_width, bias=False)

    def views(self, batch: Sound, rng: Rng) -> tuple[Any, ...]:
        """Return prepared clips, and random places of each, int64 [B, per_clip]."""
        x = self.spec.prepare(batch)
        counts = self.encoder.valid(x).sum(1, keepdim=True)
        return x, (rng.uniform(len(x.wave), self.options.per_clip) * counts).long()

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return InfoNCE, the mean over places and steps (equation 4); 0 if no place has a later one."""
        x, places = views
        local = self.encoder.local(x)
        z = full_precision(local.normed)  # [B, T, D]
        if self.options.negatives == "place":
            negatives, excluded = same_place(z, local.valid)
        elif self.options.negatives == "clip":
            negatives, excluded = same_clip(z, local.valid)
        else:
            negatives, excluded = random_places(z, places)
        context = self.encoder.context(local)[-1]
        predictions = full_precision(self.predict(context)).unflatten(2, (self.options.steps, -1))
        usable = local.valid & ~excluded.all(2)  # places that are real and have negatives
        logits = []
        steps = min(self.options.steps, max(1, z.shape[1] - 1))  # one place alone gives no scores
        for k in range(1, steps + 1):
            scores = future_scores(predictions[:, :, k - 1], z, negatives, excluded, k)
            logits.append(scores[usable[:, k:]])
        joint = torch.cat(logits)  # [M, 1 + K]
        loss, accuracy = first_wins(joint)
        return Losses(loss, {"accuracy": accuracy}, torch.tensor(len(joint), device=z.device))

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return clips."""
        return {"clip": views[0]}
