"""wav2vec 2.0: the quantised features of a hidden place are told from those of others."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_zoo import Field, Losses, Rng
from ssl_zoo.nn import schedule
from ssl_zoo_audio.encoders.base import SoundEncoder
from ssl_zoo_audio.heads import contrastive_scores, first_wins
from ssl_zoo_audio.masked import ConvOptions, MaskedTask, feature_penalty, new_token
from ssl_zoo_audio.masks import draw_others
from ssl_zoo_audio.quantiser import GumbelQuantiser, diversity_loss, mean_probabilities, perplexities
from ssl_zoo_audio.recipes import recipe
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec


class Wav2Vec2(MaskedTask):
    """Tell the quantised features of each hidden place from those of other hidden places of the clip."""

    name = "wav2vec2"
    paper = "Baevski et al. 2020, wav2vec 2.0, arXiv:2006.11477"
    family = "contrastive"
    passes = 1
    recipe = recipe("mel-mini", {"layer": 3}, epochs=25)

    class Options(ConvOptions):
        """wav2vec 2.0's options."""

        negatives: int = Field(100, ge=1, description="other hidden places that each is told from")
        temperature: float = Field(0.1, gt=0, description="temperature of the cosines")
        groups: int = Field(2, ge=1, description="groups of codes")
        entries: int = Field(320, ge=2, description="codes in each group")
        out: int = Field(256, ge=2, description="width of codes and predictions")
        diversity: float = Field(0.1, ge=0, description="weight of the loss that spreads codes")
        gumbel: tuple[float, float] = Field(
            (2.0, 0.5), description="Gumbel temperature at the start, and from 70 % of training on"
        )

    def __init__(self, encoder: SoundEncoder, options: Options, spec: SoundSpec) -> None:
        super().__init__(encoder, options, spec)
        self.token = new_token(encoder)
        self.quantiser = GumbelQuantiser(
            encoder.local_width, options.groups, options.entries, options.out
        )
        self.project = nn.Linear(encoder.place_width, options.out)

    def views(self, batch: Sound, rng: Rng) -> tuple[Any, ...]:
        """Return clips, their hidden places, others to tell these from, and the quantiser's noise."""
        x = self.spec.prepare(batch)
        hidden = self.options.hide(self.encoder, self.spec, x, rng)
        limit = self.encoder.count_places(self.spec.longest)
        others, usable = draw_others(rng, hidden, self.options.negatives, limit)
        noise = self.quantiser.noise(rng, len(hidden), hidden.shape[1], limit)
        return x, hidden, others, usable, noise

    def gumbel_temperature(self) -> float:
        """Return the quantiser's temperature, which falls exponentially (section 4.2)."""
        start, end = self.options.gumbel
        return float(start * (end / start) ** schedule(0.0, 1.0, self.progress, "linear", share=0.7))

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return the contrastive loss, with those of diversity and of large features (section 3.2)."""
        x, hidden, others, usable, noise = views
        local = self.encoder.local(x, self.options.conv_gradient_scale)
        output = self.project(self.encoder.context(local, hidden, self.token)[-1])  # [B, T, out]
        quantised = self.quantiser(local.normed, noise, self.gumbel_temperature())  # sees all places
        scores = contrastive_scores(output, quantised.vectors, quantised.codes, others)
        contrastive, accuracy = first_wins(scores[usable] / self.options.temperature)
        mean = mean_probabilities(quantised.probabilities, hidden)
        diversity, penalty = diversity_loss(mean), feature_penalty(local)
        logs = {
            "contrastive": contrastive.detach(),
            "accuracy": accuracy,
            "perplexity": perplexities(mean.detach()).sum(),
            "penalty": penalty.detach(),
        }
        total = contrastive + self.options.diversity * diversity + self.options.feature_penalty * penalty
        return Losses(total, logs, usable.sum())
