"""GPT: each token is predicted from those before it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Losses, Rng, Task, TaskOptions
from ssl_zoo.nn import full_precision
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.masking import mean_cross_entropy
from ssl_zoo_text.recipes import recipe
from ssl_zoo_text.spec import Text, TextSpec


class GPT(Task):
    """Each token of a packed block is predicted from those before it, by a causal network."""

    name = "gpt"
    paper = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners"
    family = "predictive"
    modality = "text"
    passes = 1
    prerequisites = "a causal network"
    expected_failures = {"views_vary": "the text is its own target; nothing is random"}
    recipe = recipe(
        "gpt2-micro",
        optimizer_options={"betas": [0.9, 0.95]},  # Brown et al. 2020, arXiv:2005.14165, appendix B
        weight_decay=0.1,
        schedule="cosine",
    )

    encoder: TransformersEncoder
    spec: TextSpec
    num_bytes: Tensor | None

    def __init__(self, encoder: TransformersEncoder, options: TaskOptions, spec: TextSpec) -> None:
        encoder.require(self.name, "gpt2")
        super().__init__(encoder, options, spec)
        self.register_buffer("num_bytes", spec.tables.num_bytes, persistent=False)

    def views(self, batch: Text, rng: Rng) -> tuple[Text]:
        """Return the blocks; nothing is random."""
        return (self.spec.prepare(batch),)

    def logits(self, x: Text) -> Tensor:
        """Return the logits [B, T - 1, V] of all tokens but the first, tied to the embedding."""
        states = self.encoder.tokens(x)[:, :-1]
        return F.linear(states, self.encoder.embedding.weight)

    def loss(self, views: tuple[Text]) -> Losses:
        """Return the cross entropy of each token but the first, in nats, and the bits per byte."""
        (x,) = views
        targets, weight = x.ids[:, 1:], x.valid()[:, 1:].float()
        loss, accuracy = mean_cross_entropy(self.logits(x), targets, weight)
        logs = {"next_token_accuracy": accuracy}
        if self.num_bytes is not None:
            spelled = (self.num_bytes[targets] * weight).sum().clamp(min=1)
            logs["bits_per_byte"] = loss.detach() * weight.sum() / (math.log(2) * spelled)
        return Losses(loss, logs, weight=weight.sum())

    def likelihood(self, x: Text) -> Tensor:
        """Return for each text the nats of its tokens and the bytes they spell, [B, 2].

        `Text.total` says which tokens count.

        Raises:
            TypeError: the tokens are not made of bytes.
        """
        if self.num_bytes is None:
            raise TypeError("tokens that are not made of bytes have no number of bytes")
        logits = full_precision(self.logits(x)).transpose(1, 2)
        nats = F.cross_entropy(logits, x.ids[:, 1:], reduction="none")  # none of the first token
        return x.total(F.pad(nats, (1, 0)), self.num_bytes[x.ids])

    def gallery(self, views: tuple[Text]) -> dict[str, Any]:
        """Return the blocks."""
        return {"block": views[0]}

    def reconstructions(self, views: tuple[Text]) -> dict[str, Any]:
        """Return the likeliest token at each place, given the true ones before it."""
        (x,) = views
        best = torch.cat([x.ids[:, :1], self.logits(x).argmax(-1)], 1)
        return {"predicted": Text(best * x.valid(), x.lengths)}
