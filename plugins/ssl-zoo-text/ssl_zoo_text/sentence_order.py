"""Sentence order: the segments of a block are permuted, and the permutation is classified."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions
from ssl_zoo.nn import full_precision
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.masking import TokenHead, choose_targets, corrupt, masked_loss, share
from ssl_zoo_text.recipes import recipe
from ssl_zoo_text.segments import classifier, permute, sentence_spans
from ssl_zoo_text.spec import Text, TextSpec


class SentenceOrder(Task):
    """The permutation of k consecutive segments is classified, beside BERT's masked tokens.

    Segments are whole sentences, about equally many, where a block has enough; else of equal length, cut
    without regard to sentences. So neither whether a segment ends within a sentence nor how long it is
    tells the order. Chance is 1 / k!. A block that spans two documents may have no right order, so that
    the accuracy stays below 1.
    """

    name = "sentence-order"
    paper = "Lan et al. 2019, arXiv:1909.11942"
    family = "predictive"
    modality = "text"
    passes = 1
    recipe = recipe()

    class Options(TaskOptions):
        """The options of sentence order; with two segments and masked tokens the loss is ALBERT's."""

        k: int = Field(2, ge=2, le=4, description="number of segments, whose k! orders are the classes")
        mlm_weight: float = Field(1.0, ge=0, description="factor on the loss of masked tokens; 0: none")
        rate: float = Field(0.15, gt=0, lt=1, description="share of the tokens to mask")

    encoder: TransformersEncoder
    spec: TextSpec

    def __init__(self, encoder: TransformersEncoder, options: Options, spec: TextSpec) -> None:
        encoder.require(self.name, "bert", "electra", "modernbert")
        super().__init__(encoder, options, spec)
        self.order_head = classifier(encoder.width, math.factorial(options.k))
        self.token_head = TokenHead(encoder) if options.mlm_weight else None

    def views(self, batch: Text, rng: Rng) -> tuple[Any, ...]:
        """Return permuted texts, the numbers of their orders [B], and the targets if any."""
        x = self.spec.prepare(batch)
        orders = torch.tensor(list(permutations(range(self.options.k))), device=x.ids.device)  # [k!, k]
        number = (rng.uniform(len(x.ids)) * len(orders)).long()
        ends = self.spec.tables.ends_sentence.to(x.ids.device)[x.ids]
        spans = sentence_spans(x, ends, rng.uniform(*orders[number].shape))
        x = permute(x, orders[number], *spans)
        if self.token_head is None:
            return x, number
        targets = choose_targets(x, self.spec, self.options.rate, False, rng)
        return corrupt(x, targets, self.spec, rng), number, targets

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return the cross entropy of the orders, in nats, plus that of masked tokens."""
        x, number, *rest = views
        states = self.encoder.tokens(x)  # [B, T, d]
        logits = full_precision(self.order_head(self.encoder.pool(states, x)))  # [B, k!]
        order = F.cross_entropy(logits, number)
        logs = {"order": order.detach(), "order_accuracy": (logits.argmax(1) == number).float().mean()}
        if self.token_head is None:
            return Losses(order, logs)
        (targets,) = rest
        masked, more = masked_loss(self.token_head, self.encoder, states, targets)
        # One part is a mean over texts and one over targets.
        return Losses(order + self.options.mlm_weight * share(targets.weight) * masked, logs | more)

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return the permuted texts."""
        return {"permuted": views[0]}
