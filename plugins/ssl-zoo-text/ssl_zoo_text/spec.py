"""Batches of text, and the description that sources, backbones and tasks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Spec, UserError
from ssl_zoo.text import error_reason, printable
from ssl_zoo_text.decoding import READ_ERRORS, Decoder, replace_surrogates
from ssl_zoo_text.tokenizer import CLS, MASK, PAD, SEP, Tables, parse, tables


class Text(NamedTuple):
    """Token ids int64 [B, T], [PAD] behind the end of each text; and the lengths int64 [B].

    A text begins with [CLS]. One that is evaluated ends with [SEP]; a block that is trained on has
    [SEP] between documents.
    """

    ids: Tensor
    lengths: Tensor

    def valid(self) -> Tensor:
        """Return which places are no padding, bool [B, T]."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        return places < self.lengths[:, None]

    def ordinary(self) -> Tensor:
        """Return which places have tokens of the text itself, neither special nor padding, [B, T].

        [MASK] and [UNK] stand for such tokens.
        """
        return (self.ids != PAD) & (self.ids != CLS) & (self.ids != SEP)

    def total(self, *values: Tensor) -> Tensor:
        """Return the sums of N values [B, T] of each token over those that a likelihood is of, [B, N].

        These are all but the first, [CLS], and [SEP] at the end: it ends each passage that is evaluated,
        but in training documents alone.
        """
        end = (self.lengths - 1)[:, None]
        closes = torch.zeros_like(self.valid()).scatter(1, end, self.ids.gather(1, end) == SEP)
        counted = self.valid() & ~closes
        return torch.stack([(value * counted)[:, 1:].sum(1) for value in values], 1)


def collate(rows: Sequence[Sequence[int]], length: int) -> Text:
    """Return lists of ids as a batch [B, length], cut or padded."""
    lengths = torch.tensor([min(len(row), length) for row in rows])
    ids = torch.full((len(rows), length), PAD)
    for row, target in zip(rows, ids, strict=True):
        kept = torch.tensor(row[:length], dtype=torch.long)
        target[: len(kept)] = kept
    return Text(ids, lengths)


def compact(x: Text, keep: Tensor) -> Text:
    """Return the texts without the places where `keep` [B, T] is false; the others move up."""
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    lengths = keep.sum(1)
    ids = x.ids.gather(1, order)
    return Text(ids.masked_fill(~Text(ids, lengths).valid(), PAD), lengths)


@dataclass(frozen=True)
class TextSpec(Spec):
    """The description of texts of at most `length` tokens.

    Attributes:
        length: T, the number of tokens of a sample, special ones included.
        tokenizer: the tokenizer as JSON; `ssl_zoo_text.tokenizer.parse` reads it.
        counts: how often each of the V tokens occurs in the train split; () if unknown.
    """

    raw_name: ClassVar[str | None] = "bag of words"
    raw_note: ClassVar[str] = "how often each token occurs, weighted by the log of its rarity, length 1"
    noun: ClassVar[str] = "texts"

    modality: str = "text"
    length: int = 64
    tokenizer: str = ""
    counts: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> int:
        """The number V of tokens."""
        return parse(self.tokenizer).get_vocab_size()

    @property
    def tables(self) -> Tables:
        """The properties of the tokens."""
        return tables(self.tokenizer)

    def unigram_entropy(self) -> float:
        """Return the entropy in nats of ordinary tokens drawn by their frequency in the train split.

        A network that predicts tokens by their frequency alone has this loss.
        """
        total = sum(self.counts)
        return -sum(c / total * math.log(c / total) for c in self.counts if c)

    def unigram_likelihood(self, x: Text) -> Tensor:
        """Return for each text the nats of its tokens by frequency and the bytes they spell, [B, 2].

        A token has the probability (1 + n_v) / (V + n), n_v its count among n tokens of the train split,
        so that one which does not occur there is not impossible (Laplace's rule of succession).

        Raises:
            TypeError: the tokens are not made of bytes, or their counts are unknown.
        """
        num_bytes = self.tables.num_bytes
        if num_bytes is None or not self.counts:
            raise TypeError("tokens without numbers of bytes, or without counts, have no likelihood")
        counts = 1 + torch.tensor(self.counts, dtype=torch.float64)
        nats = -(counts / counts.sum()).log().float()
        return x.total(*(table.to(x.ids.device)[x.ids] for table in (nats, num_bytes)))

    def example(self, n: int = 2) -> Text:
        """Return texts of one and the same token, to find shapes."""
        ids = torch.full((n, self.length), len(self.tokenizer) and MASK)
        ids[:, 0], ids[:, -1] = CLS, SEP
        return Text(ids, torch.full((n,), self.length))

    def pad(self, x: Text, places: int) -> Text:
        """Return texts with more padding."""
        return Text(F.pad(x.ids, (0, places), value=PAD), x.lengths)

    def vary(self, batch: Text, generator: torch.Generator) -> Text:
        """Return the texts without a tenth of their tokens, drawn at random."""
        drop = torch.rand(batch.ids.shape, generator=generator).to(batch.ids.device) < 0.1
        return compact(batch, batch.valid() & ~(drop & batch.ordinary()))

    def raw(self, batch: Text) -> Tensor:
        """Return the weighted counts of tokens [B, V], each row of length 1.

        The weight of token v is log((1 + n) / (1 + n_v)), n_v its count among n tokens of the train
        split; all are 1 where counts are unknown.
        """
        real = batch.ordinary().float()
        counts = real.new_zeros(len(real), self.vocabulary).scatter_add_(1, batch.ids, real)
        if self.counts:
            seen = torch.tensor(self.counts, dtype=torch.float64, device=counts.device)
            counts = counts * ((1 + seen.sum()) / (1 + seen)).log().float()
        return F.normalize(counts)

    def show(self, x: Text) -> list[str]:
        """Return each text as `decode` spells it."""
        return [self.decode(ids) for ids in x.ids.tolist()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that token ids spell, special tokens by name, and [SEP] as a bar.

        What frames a text is left out: [CLS] at the beginning, padding, and one [SEP] at the end.
        Elsewhere these show too, as a network may predict them.
        """
        end = len(ids)
        while end and ids[end - 1] == PAD:
            end -= 1
        end -= end > 0 and ids[end - 1] == SEP
        begin = int(end > 0 and ids[0] == CLS)
        tokenizer, names = parse(self.tokenizer), {PAD: "[PAD]", CLS: "[CLS]", SEP: "|", MASK: "[MASK]"}
        parts = []
        for name, run in groupby(ids[begin:end], names.get):
            tokens = list(run)
            spelled = tokenizer.decode(tokens, skip_special_tokens=False)
            parts += [spelled] if name is None else [name] * len(tokens)
        return " ".join(" ".join(parts).split())

    def preprocess(self, source: str | Path) -> Text:
        """Return a string, or the content of a file given as a `Path`, as a batch of one text.

        A file is decoded as those that are trained on. What is not valid Unicode becomes U+FFFD.

        Raises:
            UserError: the file cannot be read.
        """
        if isinstance(source, Path):
            decoder = Decoder()
            try:
                source = decoder.read(source, source.name)
            except READ_ERRORS as error:
                raise UserError(f"{printable(source)} cannot be read: {error_reason(error)}") from error
            decoder.warn()
        text, _ = replace_surrogates(source)
        ids = parse(self.tokenizer).encode(" ".join(text.split()), add_special_tokens=False).ids
        return collate([[CLS, *ids[: self.length - 2], SEP]], self.length)

    def data_settings(self) -> dict[str, Any]:
        """Return the length and the tokenizer."""
        return {"options": {"length": self.length, "tokenizer": self.tokenizer}}

    def start_settings(self, file: str) -> dict[str, Any]:
        """Return the length, and the run or file that has the tokenizer."""
        return {"options": {"length": self.length, "tokenizer": file}}

    def kept_files(self) -> dict[str, bytes]:
        """Return the tokenizer, so that another run that it is from may go."""
        return {"tokenizer.json": self.tokenizer.encode()}

    def adopt(self, other: Spec) -> TextSpec:
        """Return this description for other texts of the same tokens.

        Raises:
            UserError: they are not texts, or of other tokens or another length.
        """
        if isinstance(other, TextSpec):
            if other.tokenizer != self.tokenizer:
                raise UserError(
                    "has another tokenizer than the network was trained with, so that its tokens would "
                    "mean others; leave data.options.tokenizer and data.options.vocabulary out"
                )
            other = replace(other, counts=self.counts)
        return super().adopt(other)
