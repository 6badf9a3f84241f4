"""XLNet: tokens are predicted in a random order, each from those before it in the order."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.masking import Targets, draw_spans, mean_cross_entropy
from ssl_zoo_text.recipes import recipe
from ssl_zoo_text.spec import Text, TextSpec
from ssl_zoo_text.tokenizer import MASK

Views: TypeAlias = tuple[Text, Targets, Tensor]
"""Whole texts, the targets, and the rank of each place in the order, int64 [B, T]."""


class XLNet(Task):
    """Spans of tokens are predicted in a random order, each token from those before it in the order."""

    name = "xlnet"
    paper = "Yang et al. 2019, arXiv:1906.08237"
    family = "predictive"
    modality = "text"
    passes = 1
    prerequisites = "a network with two streams"
    recipe = recipe("xlnet-micro")

    class Options(TaskOptions):
        """The options of XLNet."""

        k: int = Field(6, ge=2, description="one in k tokens is predicted (K of the paper)")
        max_span: int = Field(5, ge=1, description="maximum number of tokens of a span")

    encoder: TransformersEncoder
    spec: TextSpec

    def __init__(self, encoder: TransformersEncoder, options: Options, spec: TextSpec) -> None:
        encoder.require(self.name, "xlnet")
        super().__init__(encoder, options, spec)
        self.bias = nn.Parameter(torch.zeros(spec.vocabulary))

    def views(self, batch: Text, rng: Rng) -> Views:
        """Return the texts as they are, the targets, and the order, in which targets come last."""
        x, span = self.spec.prepare(batch), self.options.max_span
        b, t = x.ids.shape
        hidden = (draw_spans(b, t, self.options.k, span, rng) >= 0) & x.ordinary()
        key = rng.uniform(b, t).masked_fill(~hidden, -1.0)
        # The spans of windows that the text holds whole are one in K tokens of it; two more are cut.
        limit = min(t, max(t - 2 * span, 0) // self.options.k + 2 * span)
        last = key.argsort(dim=1, stable=True)
        places = last.flip(1)[:, :limit]
        targets = Targets(places, x.ids.gather(1, places), hidden.gather(1, places).float())
        return x, targets, last.argsort(dim=1)

    def logits(self, views: Views) -> Tensor:
        """Return the logits of the targets [B, K, V], from the query stream (section 2.3, eq. 4).

        Places that are no targets come first in the order, and see each other, but no target.
        """
        x, targets, order = views
        later = order[:, None, :] >= order[:, :, None]  # [B, i, j]: j is not before i
        states = self.encoder.tokens(
            x,
            perm_mask=(later & targets.hidden(x)[:, None, :]).float(),
            target_mapping=F.one_hot(targets.places, x.ids.shape[1]).float(),
        )
        return F.linear(states, self.encoder.embedding.weight, self.bias)

    def loss(self, views: Views) -> Losses:
        """Return the cross entropy of the targets, in nats."""
        _, targets, _ = views
        loss, accuracy = mean_cross_entropy(self.logits(views), targets.ids, targets.weight)
        return Losses(loss, {"accuracy": accuracy}, weight=targets.weight.sum())

    def gallery(self, views: Views) -> dict[str, Any]:
        """Return the texts with [MASK] in place of the targets."""
        x, targets, _ = views
        return {"targets": targets.put(x, torch.full_like(targets.ids, MASK))}

    def reconstructions(self, views: Views) -> dict[str, Any]:
        """Return the texts with the likeliest token in place of each target."""
        x, targets, _ = views
        return {"predicted": targets.put(x, self.logits(views).argmax(-1))}
