"""ELECTRA: a discriminator tells which tokens a small masked language model has replaced."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions
from ssl_zoo.nn import full_precision
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.masking import Targets, TokenHead, at, choose_targets, mean_cross_entropy, share
from ssl_zoo_text.recipes import recipe
from ssl_zoo_text.replacement import generator, sample
from ssl_zoo_text.segments import init_linear
from ssl_zoo_text.spec import Text, TextSpec
from ssl_zoo_text.tokenizer import MASK


class ELECTRA(Task):
    """A generator fills masked places with samples; the encoder tells which tokens are original."""

    name = "electra"
    paper = "Clark et al. 2020, arXiv:2003.10555"
    family = "masked"
    modality = "text"
    passes = 2
    recipe = recipe(lr=1e-3)

    class Options(TaskOptions):
        """The options of ELECTRA.

        The paper weights the discriminator's loss with 50. In a training of minutes its gradient then
        rules the embeddings that both networks share, before it tells much from little.
        """

        rate: float = Field(0.15, gt=0, lt=1, description="share of the tokens to mask")
        size: float = Field(0.5, ge=0.25, le=0.5, description="generator's width over the encoder's")
        weight: float = Field(5.0, gt=0, description="factor on the discriminator's loss")

    encoder: TransformersEncoder
    spec: TextSpec

    def __init__(self, encoder: TransformersEncoder, options: Options, spec: TextSpec) -> None:
        encoder.require(self.name, "modernbert", "electra", "bert")
        super().__init__(encoder, options, spec)
        self.generator = generator(encoder, options.size, spec)
        self.token_head = TokenHead(self.generator)
        width = encoder.width
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        init_linear(self.head)

    def views(self, batch: Text, rng: Rng) -> tuple[Text, Targets, Tensor]:
        """Return texts with [MASK] at targets, the targets, and a uniform number for each [B, K]."""
        x = self.spec.prepare(batch)
        targets = choose_targets(x, self.spec, self.options.rate, False, rng)
        masked = targets.put(x, torch.full_like(targets.ids, MASK))
        return masked, targets, rng.uniform(*targets.places.shape)

    def loss(self, views: tuple[Text, Targets, Tensor]) -> Losses:
        """Return L_MLM + λ L_Disc, in nats (section 2)."""
        masked, targets, u = views
        x = targets.put(masked, targets.ids)
        logits = self.generate(masked, targets)  # [B, K, V]
        mlm, accuracy = mean_cross_entropy(logits, targets.ids, targets.weight)
        corrupted = targets.put(masked, sample(logits, u))
        replaced = (corrupted.ids != x.ids).float()  # [B, T]; a sample may equal the original
        score = full_precision(self.head(self.encoder.tokens(corrupted)))[..., 0]  # [B, T]
        place = x.ordinary().float()
        number = place.sum().clamp(min=1)
        each = F.binary_cross_entropy_with_logits(score, replaced, reduction="none")
        disc = (each * place).sum() / number
        right = (((score > 0) == (replaced > 0)) * place).sum() / number
        logs = {"generator": mlm.detach(), "generator_accuracy": accuracy}
        logs |= {"discriminator": disc.detach(), "discriminator_accuracy": right}
        logs["replaced"] = (replaced * place).sum() / number
        # Each part is a mean over a number of its own.
        return Losses(share(targets.weight) * mlm + self.options.weight * share(place) * disc, logs)

    def generate(self, masked: Text, targets: Targets) -> Tensor:
        """Return the generator's logits at the targets, [B, K, V]."""
        states = at(self.generator.tokens(masked), targets.places)
        logits: Tensor = self.token_head(states, self.encoder.embedding)
        return logits

    def gallery(self, views: tuple[Text, Targets, Tensor]) -> dict[str, Any]:
        """Return the masked texts."""
        return {"masked": views[0]}

    def reconstructions(self, views: tuple[Text, Targets, Tensor]) -> dict[str, Any]:
        """Return the texts with the generator's samples, which the encoder sees."""
        masked, targets, u = views
        return {"replaced": targets.put(masked, sample(self.generate(masked, targets), u))}
