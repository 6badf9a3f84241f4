"""The choice of the tokens that are hidden and predicted, and their prediction."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Rng, distributed
from ssl_zoo.nn import full_precision
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.spec import Text, TextSpec
from ssl_zoo_text.tokenizer import MASK, SPECIALS

_LONGEST_WORD = 16
"""The maximum number of pieces of a word, and of places for targets beyond the mean number, which the
last word may take. A longer run is text without spaces, such as Chinese."""
_PART = 8
"""The number of pieces of the parts of such a run."""


class Targets(NamedTuple):
    """The targets of a batch, of which each text has at most K.

    Attributes:
        places: their places, int64 [B, K].
        ids: their tokens, int64 [B, K].
        weight: 1 for a target, 0 for a place that is left over, float [B, K].
    """

    places: Tensor
    ids: Tensor
    weight: Tensor

    def hidden(self, x: Text) -> Tensor:
        """Return which places of texts are targets, bool [B, T]."""
        flags = torch.zeros_like(x.ids, dtype=torch.float)
        return flags.scatter(1, self.places, self.weight) > 0

    def put(self, x: Text, ids: Tensor) -> Text:
        """Return texts with the tokens `ids` [B, K] in place of the targets."""
        ids = ids.where(self.weight > 0, x.ids.gather(1, self.places))
        return Text(x.ids.scatter(1, self.places, ids), x.lengths)


def first_of_word(x: Text, spec: TextSpec) -> Tensor:
    """Return for each place that of the first piece of its word, int64 [B, T].

    A run of more than `_LONGEST_WORD` pieces without a space, such as a sentence in Chinese or Japanese,
    is divided into parts of `_PART` pieces, the last one of as many or fewer, which count as words. To
    find its words takes a program that knows the language (Cui et al. 2019, arXiv:1906.08101). BERT's
    tokenizer makes each Chinese character a word, and so does WordPiece here.
    """
    properties = spec.tables
    begins, joins = (t.to(x.ids.device)[x.ids] for t in (properties.begins, properties.joins))
    begins[:, 1:] |= ~joins[:, :-1]
    begins[:, 0] = True
    places = torch.arange(x.ids.shape[1], device=x.ids.device).expand_as(x.ids)
    first = torch.where(begins, places, 0).cummax(1).values
    pieces = torch.zeros_like(first).scatter_add_(1, first, torch.ones_like(first)).gather(1, first)
    return torch.where(pieces > _LONGEST_WORD, places - (places - first) % _PART, first)


def choose_targets(x: Text, spec: TextSpec, rate: float, whole_words: bool, rng: Rng) -> Targets:
    """Draw targets among the ordinary tokens, a share `rate` of each text on average.

    Words, or tokens, are taken in a random order until the share is reached. The last one is taken with
    a probability that makes the mean number of targets exact.

    Args:
        x: the texts, before anything is hidden.
        spec: their description.
        rate: the share of ordinary tokens to predict, in (0, 1).
        whole_words: whether all pieces of a word are targets together.
        rng: the source of randomness.
    """
    b, t = x.ids.shape
    draw = rng.uniform(b, t + 1)
    key, straddle, ordinary = draw[:, :t], draw[:, t:], x.ordinary()
    first = first_of_word(x, spec) if whole_words else torch.arange(t, device=key.device).expand(b, t)
    key = key.gather(1, first).masked_fill(~ordinary, 2.0)  # the pieces of a word stay together
    order = key.argsort(dim=1, stable=True)
    word = first.gather(1, order)
    rank = torch.arange(t, device=key.device).expand(b, t)
    fresh = F.pad(word[:, 1:] != word[:, :-1], (1, 0), value=True)
    start = torch.where(fresh, rank, 0).cummax(1).values  # rank of the word's first piece
    size = torch.zeros_like(rank).scatter_add_(1, first, ordinary.long()).gather(1, word)
    budget = rate * ordinary.sum(1, keepdim=True)
    taken = (start + straddle * size < budget) & ordinary.gather(1, order)
    limit = min(t, math.ceil(rate * t) + (_LONGEST_WORD if whole_words else 1))
    places = order[:, :limit]
    return Targets(places, x.ids.gather(1, places), taken[:, :limit].float())


def corrupt(x: Text, targets: Targets, spec: TextSpec, rng: Rng) -> Text:
    """Replace 80 % of the targets by [MASK] and 10 % by random ordinary tokens; 10 % stay.

    Each target is drawn for independently (Devlin et al. 2018, section 3.1).
    """
    draw = rng.uniform(*targets.places.shape, 2)
    other = len(SPECIALS) + (draw[..., 1] * (spec.vocabulary - len(SPECIALS))).long()
    new = torch.where(draw[..., 0] < 0.8, MASK, torch.where(draw[..., 0] < 0.9, other, targets.ids))
    return targets.put(x, new)


def draw_spans(n: int, length: int, k: int, max_span: int, rng: Rng) -> Tensor:
    """Draw spans of 1 to `max_span` places, a share 1 / `k` of all places on average.

    The places are divided into windows of `k` · L places, L uniform in 1..`max_span`, each with a
    span of L places at random (Yang et al. 2019, arXiv:1906.08237, appendix A). The first window begins
    before the first place, so that all places are as likely to be in a span.

    Returns:
        The number of the span that a place is in, or -1, int64 [n, length].
    """
    windows = length // k + 2
    draw = rng.uniform(n, 2 * windows + 1)
    size = 1 + (draw[:, :windows] * max_span).long()
    # A window over the first place is the longer the likelier, and begins at any of its places.
    lengths = torch.arange(1, max_span + 1, device=draw.device)
    size[:, 0] = lengths.repeat_interleave(lengths)[(draw[:, 0] * lengths.sum()).long()]
    window = k * size
    end = window.cumsum(1) - (draw[:, -1:] * window[:, :1]).long()
    begin = end - window + (draw[:, windows:-1] * (window - size + 1)).long()
    places = torch.arange(length, device=draw.device).repeat(n, 1)
    number = torch.searchsorted(end, places, right=True)
    begin, size = begin.gather(1, number), size.gather(1, number)
    return number.where((places >= begin) & (places < begin + size), -1)


class TokenHead(nn.Module):
    """Linear, GELU, LayerNorm, and an output tied to the embedding of tokens, with a bias.

    It maps states [..., d] to logits [..., V] (Devlin et al. 2018; BERT's `cls.predictions`).
    """

    def __init__(self, encoder: TransformersEncoder) -> None:
        super().__init__()
        embedding = encoder.embedding
        self.transform = nn.Linear(encoder.width, embedding.embedding_dim)
        self.norm = nn.LayerNorm(embedding.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        nn.init.normal_(self.transform.weight, std=0.02)
        nn.init.zeros_(self.transform.bias)

    def forward(self, states: Tensor, embedding: nn.Embedding) -> Tensor:
        """Return the logits [..., V]."""
        return F.linear(self.norm(F.gelu(self.transform(states))), embedding.weight, self.bias)


def at(states: Tensor, places: Tensor) -> Tensor:
    """Return the states [B, T, d] at places [B, K], [B, K, d]."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))


def mean_cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross entropy in nats over targets, and the share predicted right.

    Args:
        logits: [..., V].
        targets: the classes, int64 [...].
        weight: 1 for a target, 0 for a place that does not count, [...].
    """
    logits = full_precision(logits)
    each = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    right = (logits.detach().argmax(-1) == targets).flatten() * weight.flatten()
    number = weight.sum().clamp(min=1)
    return (each * weight.flatten()).sum() / number, right.sum() / number


def masked_loss(
    head: TokenHead, encoder: TransformersEncoder, states: Tensor, targets: Targets
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean cross entropy of masked tokens in nats, and its logs.

    Args:
        head: the head of tokens.
        encoder: the network, whose embedding the head is tied to.
        states: its states of the masked texts, [B, T, d].
        targets: the tokens that were masked.
    """
    logits = head(at(states, targets.places), encoder.embedding)  # [B, K, V]
    loss, accuracy = mean_cross_entropy(logits, targets.ids, targets.weight)
    return loss, {"masked": loss.detach(), "masked_accuracy": accuracy}


def share(weight: Tensor) -> Tensor:
    """Return the factor on a mean over the targets of this process that makes it one over all processes.

    It is for losses whose parts are means over different numbers; else `Losses.weight` does so.

    Args:
        weight: 1 for a target, 0 for a place that does not count, [...].
    """
    number = weight.sum()
    return distributed.world_size() * number / distributed.sum(number).clamp(min=1)
