"""From documents to samples: sentences, passages to evaluate on, and packed blocks to train on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_zoo import Field, Notice, UserError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import ArraySplit, DataSet, SourceOptions
from ssl_zoo.data.holdout import merge_groups, stratified_split
from ssl_zoo.data.summary import SourceFacts
from ssl_zoo_text.spec import Text, TextSpec, collate
from ssl_zoo_text.tokenizer import CLS, KINDS, SEP, SPECIALS, UNK, parse, read_tokenizer, train_tokenizer

CORPUS = Notice(
    "text-corpus",
    "Documents are cut into sentences, these joined to passages to evaluate on, and packed into blocks "
    "to train on; duplicates are left out.",
    "data.options.length, data.options.passages",
)
MAX_DOCUMENT = 1_000_000
"""Longer documents are cut, between words where possible, into documents of so many characters."""


class Document(NamedTuple):
    """A text with its name, such as ``notes.txt:3``, and the name of its class, None if unknown."""

    text: str
    name: str
    label: str | None = None


class TextOptions(SourceOptions):
    """The options of a source of texts."""

    length: int = Field(64, ge=8, le=8192, description="tokens of a sample, special ones included")
    tokenizer: str = Field(
        "bpe", description="bpe or wordpiece: trained on the train split; or a tokenizer.json to use"
    )
    vocabulary: int = Field(4096, ge=300, le=2**20, description="tokens that a tokenizer is trained for")
    passages: int = Field(
        4096, ge=2, description="most passages to learn an evaluation from; a quarter to evaluate on"
    )


@dataclass(frozen=True)
class _Coded:
    """A document as token ids [n] of its sentences, one after the other, each as a list."""

    sentences: list[list[int]]
    name: str


def build(
    name: str,
    documents: Sequence[Document],
    config: DataConfig,
    device: torch.device,
    options: TextOptions,
) -> DataSet:
    """Return the data set of documents.

    Equal documents count once. A share of the documents is held out, never a part of one. The tokenizer
    is trained on the others. These are joined with [SEP] and cut into blocks, the train split; the
    sentences of each document are joined to passages of at most `length` tokens, the samples that
    evaluation learns from and is done on. A block has the label of the document of its middle token.

    Args:
        name: the name of the data.
        documents: the documents, each with a label or none.
        config: the ``data`` section.
        device: the device of the samples.
        options: the validated options.

    Raises:
        UserError: there are fewer than two documents, or less text than two samples need.
    """
    found, documents = len(documents), list({d.text: d for d in _cut(documents) if d.text}.values())
    if len(documents) < 2:
        raise UserError(
            f"data.source: {name} has {'one document' if documents else 'no text'}, and two are needed, "
            "one to train and one to evaluate on; separate documents by a blank line, or give more"
        )
    classes = sorted({d.label for d in documents if d.label is not None})
    labels = torch.tensor([classes.index(d.label) if d.label is not None else -1 for d in documents])
    labelled = bool(classes) and bool((labels >= 0).all())
    groups = merge_groups(len(documents), [])
    train, test = stratified_split(labels if labelled else labels * 0, groups, config.holdout)
    content = _tokenizer(options, tuple(documents[i].text for i in train.tolist()))
    coded = _encode(content, tuple(documents))
    spec = TextSpec(length=options.length, tokenizer=content, classes=len(classes) if labelled else None)

    streams = [[t for s in [*coded[i].sentences, [SEP]] for t in s] for i in train.tolist()]
    stream = [t for part in streams for t in part]
    blocks = pack(stream, options.length)
    owners = labels[train].repeat_interleave(torch.tensor([len(part) for part in streams]))
    if len(blocks.ids) < 2:
        raise UserError(
            f"data.source: {name} has {len(stream):,} tokens to train on, fewer than two samples of "
            f"{options.length}; give more text, or a smaller data.options.length"
        )
    bank = _passages(coded, train, labels if labelled else None, options.length, options.passages)
    seen = {row.tobytes() for row in bank[0].ids.numpy()}
    held = _passages(
        coded, test, labels if labelled else None, options.length, max(2, options.passages // 4), seen
    )
    counts = torch.tensor(stream).bincount(minlength=spec.vocabulary)
    unknown = int(counts[UNK]) / max(1, len(stream))
    counts[: len(SPECIALS)] = 0
    spec = replace(spec, counts=tuple(counts.tolist()))
    CORPUS(
        f"{name}: {len(documents):,} documents ({found - len(documents):,} empty or duplicates left "
        f"out), {len(stream):,} tokens to train on in blocks of {options.length}, {spec.vocabulary:,} "
        f"tokens in the vocabulary, {unknown:.2%} unknown; evaluated on passages of whole sentences, "
        f"{_share_cut(coded, options.length):.1%} of the sentences cut at {options.length - 2} tokens; "
        f"unigram entropy {spec.unigram_entropy():.2f} nats"
    )
    facts = SourceFacts(
        held_out=f"{len(test):,} of {len(documents):,} documents",
        no_labels="" if labelled or not classes else "some documents have none",
    )
    return DataSet(
        name,
        spec,
        ArraySplit(blocks, middle(owners, options.length) if labelled else None).to(device),
        ArraySplit(held[0], held[1], names=held[2]).to(device) if len(held[2]) else None,
        ArraySplit(bank[0], bank[1], names=bank[2]).to(device),
        tuple(classes) if labelled else None,
        facts,
    )


def _cut(documents: Iterable[Document]) -> Iterable[Document]:
    """Yield documents with single spaces between words, those that are too long in parts."""
    for text, name, label in documents:
        text = " ".join(text.split())
        while len(text) > MAX_DOCUMENT:
            end = text.rfind(" ", 1, MAX_DOCUMENT) if " " in text[:MAX_DOCUMENT] else MAX_DOCUMENT
            yield Document(text[:end], name, label)
            text = text[end:].lstrip()
        yield Document(text, name, label)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text: they end with a full stop, question or exclamation mark.

    Closing quotes and brackets belong to the sentence. An abbreviation such as "Dr." ends one too.
    """
    return [s for s in re.split(r"(?<=[.?!])\s+|(?<=[.?!][\"')\]])\s+", text) if s]


def pack(stream: Sequence[int], length: int) -> Text:
    """Cut a stream of ids into blocks [N, length], each [CLS] and `length` - 1 ids; the rest goes."""
    number = len(stream) // (length - 1)
    body = torch.tensor(stream[: number * (length - 1)], dtype=torch.long).view(number, length - 1)
    ids = torch.cat([torch.full((number, 1), CLS), body], 1)
    return Text(ids, torch.full((number,), length))


def middle(values: Tensor, length: int) -> Tensor:
    """Return the value of the middle id of each block that `pack` cuts a stream of values [n] into."""
    number = len(values) // (length - 1)
    return values[: number * (length - 1)].view(number, length - 1)[:, (length - 1) // 2]


def join_sentences(sentences: Iterable[Sequence[int]], limit: int) -> list[list[int]]:
    """Join sentences to passages of at most `limit` ids; a longer sentence is cut into several."""
    passages: list[list[int]] = []
    for sentence in sentences:
        pieces = [sentence[i : i + limit] for i in range(0, len(sentence), limit)]
        for piece in pieces:
            if passages and len(passages[-1]) + len(piece) <= limit:
                passages[-1] += piece
            else:
                passages.append(list(piece))
    return passages


def _passages(
    coded: Sequence[_Coded],
    indices: Tensor,
    labels: Tensor | None,
    length: int,
    most: int,
    seen: Iterable[bytes] = (),
) -> tuple[Text, Tensor | None, list[str]]:
    """Return at most so many passages, evenly spread, with labels and names; none that was seen."""
    rows, owners, names = [], [], []
    for i in indices.tolist():
        parts = join_sentences(coded[i].sentences, length - 2)
        rows += [[CLS, *part, SEP] for part in parts]
        owners += [i] * len(parts)
        name = coded[i].name
        names += [name] if len(parts) == 1 else [f"{name}[{k}]" for k in range(len(parts))]
    text = collate(rows, length)
    seen = set(seen)
    fresh = torch.tensor([row.tobytes() not in seen for row in text.ids.numpy()], dtype=torch.bool)
    chosen = fresh.nonzero().flatten()
    if len(chosen):
        chosen = chosen[torch.linspace(0, len(chosen) - 1, min(most, len(chosen))).long()]
    own = None if labels is None else labels[torch.tensor(owners, dtype=torch.long)[chosen]]
    return Text(text.ids[chosen], text.lengths[chosen]), own, [names[i] for i in chosen.tolist()]


def _share_cut(coded: Sequence[_Coded], length: int) -> float:
    long = [len(sentence) > length - 2 for document in coded for sentence in document.sentences]
    return sum(long) / max(1, len(long))


def _tokenizer(options: TextOptions, texts: tuple[str, ...]) -> str:
    """Return the tokenizer that the options ask for, trained on these texts if on any."""
    choice = options.tokenizer
    if choice in KINDS:
        return _trained(choice, options.vocabulary, texts)
    if choice.startswith("{"):  # as `TextSpec.data_settings` gives it
        return choice
    return read_tokenizer(user_path("data.options.tokenizer", choice))


@lru_cache(maxsize=2)
def _trained(kind: str, vocabulary: int, texts: tuple[str, ...]) -> str:
    return train_tokenizer(kind, texts, vocabulary)


@lru_cache(maxsize=2)
def _encode(content: str, documents: tuple[Document, ...]) -> list[_Coded]:
    """Return the documents as ids."""
    sentences = [split_sentences(document.text) for document in documents]
    flat = parse(content).encode_batch_fast(
        [s for part in sentences for s in part], add_special_tokens=False
    )
    rows = iter(flat)
    return [
        _Coded([next(rows).ids for _ in part], document.name)
        for part, document in zip(sentences, documents, strict=True)
    ]


def source_name(path: Path) -> str:
    """Return the name of data in a file or folder."""
    return path.resolve().name
