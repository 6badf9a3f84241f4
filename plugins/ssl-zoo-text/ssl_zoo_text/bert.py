"""BERT: masked tokens are predicted from both sides."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions
from ssl_zoo.nn import full_precision
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.masking import TokenHead, at, choose_targets, corrupt, masked_loss, share
from ssl_zoo_text.recipes import recipe
from ssl_zoo_text.segments import classifier, exchange
from ssl_zoo_text.spec import Text, TextSpec


class BERT(Task):
    """Hidden tokens are predicted from those on both sides; with one option also the next sentence."""

    name = "bert"
    paper = "Devlin et al. 2018, arXiv:1810.04805"
    family = "masked"
    modality = "text"
    passes = 1
    recipe = recipe()

    class Options(TaskOptions):
        """The options of BERT; without `next_sentence` the loss is RoBERTa's (arXiv:1907.11692)."""

        rate: float = Field(0.15, gt=0, lt=1, description="share of the tokens to predict")
        whole_words: bool = Field(False, description="hide all pieces of a word together")
        next_sentence: bool = Field(False, description="tell whether the second half follows the first")

    encoder: TransformersEncoder
    spec: TextSpec

    def __init__(self, encoder: TransformersEncoder, options: Options, spec: TextSpec) -> None:
        pairs = options.next_sentence
        encoder.require(self.name, "bert", "electra", *([] if pairs else ["modernbert"]))
        super().__init__(encoder, options, spec)
        self.head = TokenHead(encoder)
        self.pair_head = None
        if pairs:  # on [CLS]
            self.pair_head = classifier(encoder.width, 2)

    def views(self, batch: Text, rng: Rng) -> tuple[Any, ...]:
        """Return texts with hidden tokens, the targets, and whether the second half follows, [B]."""
        x = self.spec.prepare(batch)
        follows = rng.bernoulli(len(x.ids), 0.5) if self.pair_head is not None else None
        if follows is not None:
            x, follows = exchange(x, follows)
        targets = choose_targets(x, self.spec, self.options.rate, self.options.whole_words, rng)
        views = (corrupt(x, targets, self.spec, rng), targets)
        return views if follows is None else (*views, follows)

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return the cross entropy of the targets, in nats, plus that of the next sentence."""
        x, targets, *follows = views
        states = self.states(x)
        loss, logs = masked_loss(self.head, self.encoder, states, targets)
        if self.pair_head is None:
            return Losses(loss, logs, weight=targets.weight.sum())
        pair = full_precision(self.pair_head(states[:, 0]))
        sentence = F.cross_entropy(pair, follows[0])
        right = (pair.argmax(1) == follows[0]).float().mean()
        logs |= {"next_sentence": sentence.detach(), "next_sentence_accuracy": right}
        # One part is a mean over targets and one over texts.
        return Losses(share(targets.weight) * loss + sentence, logs)

    def states(self, x: Text) -> Tensor:
        """Return the last hidden states [B, T, d]; the second half is of type 1 with `next_sentence`."""
        if self.pair_head is None:
            return self.encoder.tokens(x)
        types = torch.zeros_like(x.ids)
        types[:, x.ids.shape[1] // 2 + 1 :] = 1
        return self.encoder.tokens(x, token_type_ids=types)

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return the texts with what is hidden."""
        return {"masked": views[0]}

    def reconstructions(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return the texts with the likeliest tokens in place of the targets."""
        x, targets = views[0], views[1]
        best = self.head(at(self.states(x), targets.places), self.encoder.embedding).argmax(-1)
        return {"predicted": targets.put(x, best)}
