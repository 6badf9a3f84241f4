"""A small task of another modality that passes every check: sentences with lengths and padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Losses, Rng, Spec, Task
from ssl_zoo.nn import full_precision
from ssl_zoo.testing import CheckData

LONGEST = 16


class Text(NamedTuple):
    """Sentences: tokens int64 [B, T], padded with 0, and the number of tokens of each, int64 [B]."""

    tokens: Tensor
    length: Tensor


@dataclass(frozen=True)
class TokenSpec(Spec):
    """Sentences of up to `LONGEST` tokens from 1 to `vocabulary` - 1."""

    modality: str = "text"
    vocabulary: int = 12

    def example(self, n: int = 2) -> Text:
        return Text(torch.ones(n, LONGEST, dtype=torch.long), torch.full((n,), LONGEST))

    def pad(self, x: Text, places: int) -> Text:
        return Text(F.pad(x.tokens, (0, places)), x.length)

    def show(self, x: Text) -> list[str]:
        pairs = zip(x.tokens.tolist(), x.length.tolist(), strict=True)
        return [" ".join(map(str, tokens[:length])) for tokens, length in pairs]


class Causal(Encoder):
    """A layer of a transformer with causal attention."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.width = 32
        self.embedding = nn.Embedding(vocabulary, self.width)
        self.position = nn.Parameter(0.1 * torch.randn(4 * LONGEST, self.width))
        self.layer = nn.TransformerEncoderLayer(self.width, 4, 64, dropout=0, batch_first=True)

    def feature_map(self, x: Text, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        places = x.tokens.shape[1]
        unseen = torch.ones(places, places, dtype=torch.bool).triu(1)
        tokens = self.embedding(x.tokens) + self.position[:places]
        seen: Tensor = self.layer(tokens, unseen, is_causal=True)  # padding follows, and is not seen
        return seen.transpose(1, 2)

    def valid(self, x: Text) -> Tensor:
        return torch.arange(x.tokens.shape[1]) < x.length[:, None]

    def forward(self, x: Text) -> Tensor:
        valid = self.valid(x)[:, None]
        return (self.feature_map(x) * valid).sum(2) / valid.sum(2)


class PoolingPadding(Causal):
    """The mean is over padding too."""

    def forward(self, x: Text) -> Tensor:
        return self.feature_map(x).mean(2)


@dataclass(frozen=True)
class Sentences(CheckData):
    """Sequences that count in steps of different sizes, some of them short."""

    kind: type[Causal] = Causal

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec()

    def encoder(self) -> Encoder:
        return self.kind(self.spec.vocabulary)

    def batch(self, n: int, seed: int = 0) -> Text:
        generator = torch.Generator().manual_seed(seed)
        first, by = torch.randint(11, (2, n, 1), generator=generator)
        length = torch.randint(8, LONGEST + 1, (n,), generator=generator)
        tokens = 1 + (first + by * torch.arange(LONGEST)) % 11
        return Text(tokens * (torch.arange(LONGEST) < length[:, None]), length)


class NextToken(Task):
    """Each token is predicted from those before it."""

    name = "next-token"
    modality = "text"

    def __init__(self, encoder: Encoder, options: Any, spec: TokenSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, spec.vocabulary)

    def views(self, batch: Text, rng: Rng) -> tuple[Text, ...]:
        return (batch,)

    def loss(self, views: tuple[Text, ...]) -> Losses:
        (x,) = views
        tokens = self.encoder.feature_map(Text(x.tokens[:, :-1], x.length - 1)).transpose(1, 2)
        logits = full_precision(self.head(tokens))  # [B, T - 1, vocabulary]
        target, valid = x.tokens[:, 1:], self.encoder.valid(x)[:, 1:]
        return Losses(F.cross_entropy(logits[valid], target[valid]), weight=valid.sum())

    def gallery(self, views: tuple[Text, ...]) -> dict[str, Text]:
        return {"text": views[0]}
