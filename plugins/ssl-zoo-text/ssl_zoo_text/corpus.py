"""From documents to samples: sentences, passages to evaluate on, and packed blocks to train on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo import Field, Notice, UserError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import ArraySplit, DataSet, SourceOptions
from ssl_zoo.data.holdout import group_by_name, merge_groups, stratified_split
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.text import printable
from ssl_zoo_text.spec import Text, TextSpec, collate
from ssl_zoo_text.tokenizer import (
    CLS,
    KINDS,
    SEP,
    SPECIALS,
    UNK,
    cut_text,
    parse,
    read_tokenizer,
    train_tokenizer,
)

CORPUS = Notice(
    "text-corpus",
    "Documents are cut into sentences, these joined to passages to evaluate on, and packed into blocks "
    "to train on; duplicates are left out.",
    "data.options.length, data.options.passages",
)
MAX_DOCUMENT = 1_000_000
"""Documents of more characters are cut into pieces of at most this length, between words if possible."""


IntArray: TypeAlias = NDArray[np.integer[Any]]


class Document(NamedTuple):
    """A text with its name, such as ``notes.txt:3``.

    Attributes:
        text: the text.
        name: its name.
        label: the name of its class, None if unknown.
        split: ``"test"`` to evaluate on, ``"unlabelled"`` to train on alone; any other to train on, with
            a share held out where no document is of the split ``"test"``.
    """

    text: str
    name: str
    label: str | None = None
    split: str | None = None


class TextOptions(SourceOptions):
    """The options of a source of texts."""

    length: int = Field(64, ge=8, le=8192, description="tokens of a sample, special ones included")
    tokenizer: str = Field(
        "bpe",
        description="bpe or wordpiece: trained on the train split; or a run or tokenizer.json with one",
    )
    vocabulary: int = Field(4096, ge=300, le=2**20, description="tokens that a tokenizer is trained for")
    passages: int = Field(
        4096, ge=2, description="maximum number of passages to evaluate with; a quarter of it to test on"
    )


@dataclass(frozen=True)
class _Coded:
    """A document as tokens.

    Attributes:
        ids: the ids of its sentences, one after the other, int32 [n].
        ends: the number of ids up to the end of each sentence, int64 [s].
        name: the name of the document.
    """

    ids: IntArray
    ends: IntArray
    name: str


def build(
    name: str,
    documents: Sequence[Document],
    config: DataConfig,
    device: torch.device,
    options: TextOptions,
    facts: SourceFacts = NO_FACTS,
    unreadable: Mapping[str, str] | None = None,
) -> DataSet:
    """Return the data set of documents.

    Equal documents count once. A share of the documents is held out, never a part of one unless there is
    but one, nor a part of a group (``data.groups``). The tokenizer is trained on the others. These are
    joined with [SEP] and cut into blocks, the train split; the sentences of each document are joined to
    passages of at most `length` tokens, the samples that evaluation learns from and is done on. A block
    has the label of the document of its middle token.

    Args:
        name: the name of the data.
        documents: the documents, each with a label or none.
        config: the ``data`` section.
        device: the device of the samples.
        options: the validated options.
        facts: what is known of the source.
        unreadable: the reason for each file that cannot be read, by name.

    Raises:
        UserError: there are fewer than two documents, or less text than two samples need.
    """
    # Of equal documents the first is kept: one to train on, rather than to evaluate on.
    documents = sorted(documents, key=lambda d: {"unlabelled": 1, "test": 2}.get(d.split or "", 0))
    number, (documents, owners) = len(documents), _distinct(documents)
    if len(documents) < 2:
        raise UserError(
            f"data.source: {name} has {'one document' if documents else 'no text'}, and two are needed, "
            "one to train and one to evaluate on; separate documents by a blank line, or give more"
        )
    classes = sorted({d.label for d in documents if d.label is not None})
    labels = torch.tensor([classes.index(d.label) if d.label is not None else -1 for d in documents])
    labelled = bool(classes) and all(d.label is not None or d.split == "unlabelled" for d in documents)
    train, test = _sides(documents, owners, labels if labelled else labels * 0, config)
    content = _tokenizer(options, tuple(documents[i].text for i in train.tolist()))
    coded = _encode(content, tuple(documents))
    spec = TextSpec(length=options.length, tokenizer=content, classes=len(classes) if labelled else None)

    end = np.array([SEP], dtype=np.int32)
    stream = np.concatenate([end[:0], *(ids for i in train.tolist() for ids in (coded[i].ids, end))])
    blocks = pack(stream, options.length)
    lengths = torch.tensor([len(coded[i].ids) + 1 for i in train.tolist()], dtype=torch.long)
    label_of = middle(labels[train].repeat_interleave(lengths), options.length)
    block_labels = label_of if labelled and bool((label_of >= 0).all()) else None
    if len(blocks.ids) < 2:
        raise UserError(
            f"data.source: {name} has {len(stream):,} tokens to train on, fewer than two samples of "
            f"{options.length}; give more text, or a smaller data.options.length"
        )
    trained_on = _passages(coded, train, options.length)
    seen = {passage.ids.tobytes() for passage in trained_on}
    found = _passages(coded, test, options.length)
    unseen = [passage for passage in found if passage.ids.tobytes() not in seen]
    known = labels if labelled else None
    if labelled:
        trained_on = [passage for passage in trained_on if labels[passage.document] >= 0]
    bank = _split(trained_on, known, options.length, options.passages)
    held = _split(unseen, known, options.length, max(2, options.passages // 4))
    counts = np.bincount(stream, minlength=spec.vocabulary)
    unknown = int(counts[UNK]) / max(1, len(stream))
    counts[: len(SPECIALS)] = 0
    spec = replace(spec, counts=tuple(counts.tolist()))
    CORPUS(
        f"{name}: {_count(number, documents, owners)}, "
        f"{len(stream):,} tokens to train on in blocks of {options.length}, {spec.vocabulary:,} "
        f"tokens in the vocabulary{_origin(options)}, {unknown:.2%} unknown; "
        "evaluated on passages of whole sentences, "
        f"{_share_cut(coded, options.length):.1%} of the sentences cut at {options.length - 2} tokens"
        f"{_say_seen(len(found) - len(unseen))}; "
        f"unigram entropy {spec.unigram_entropy():.2f} nats"
    )
    noun = "documents" if len(documents) == len(set(owners)) else "pieces of documents"
    held_out = bool(len(test)) and not any(d.split == "test" for d in documents)
    facts = replace(
        facts,
        held_out=f"{len(test):,} of {len(documents):,} {noun}" if held_out else "",
        no_labels="" if labelled or not classes else "some documents have none",
    )
    return DataSet(
        name,
        spec,
        ArraySplit(blocks, block_labels, unreadable).to(device),
        held.to(device) if len(held) else None,
        bank.to(device),
        tuple(classes) if labelled else None,
        facts,
    )


def _cut(document: Document) -> Iterator[Document]:
    """Yield a document with single spaces between words, in pieces if it is too long."""
    for piece in cut_text(document.text, MAX_DOCUMENT):
        yield document._replace(text=" ".join(piece.split()))


def _distinct(documents: Iterable[Document]) -> tuple[list[Document], list[int]]:
    """Return the different pieces of documents that are not empty, and the document each is of."""
    found: dict[str, tuple[Document, int]] = {}
    for number, document in enumerate(documents):
        for piece in _cut(document):
            if piece.text:
                found.setdefault(piece.text, (piece, number))
    return [piece for piece, _ in found.values()], [number for _, number in found.values()]


def _sides(
    pieces: Sequence[Document], owners: Sequence[int], labels: Tensor, config: DataConfig
) -> tuple[Tensor, Tensor]:
    """Return the indices of the pieces to train on and to evaluate on, each sorted.

    Raises:
        SettingError: ``data.groups`` is wrong.
    """
    test = torch.tensor([piece.split == "test" for piece in pieces])
    if not test.any():
        free = [i for i, piece in enumerate(pieces) if piece.split != "unlabelled"]
        groups = _groups([pieces[i] for i in free], [owners[i] for i in free], config.groups)
        _, held = stratified_split(labels[free], groups, config.share_to_hold_out(needed=True))
        test[torch.tensor(free)[held]] = True
    return (~test).nonzero().flatten(), test.nonzero().flatten()


def _groups(pieces: Sequence[Document], owners: Sequence[int], rule: str | None) -> Tensor:
    """Return the number of each piece's group, int64 [N], which is held out whole or not at all.

    Pieces of one document are in one group, unless there is no other document, and so are those of
    documents whose names have the same group by ``data.groups``.

    Raises:
        SettingError: the rule is wrong.
    """
    sets: list[list[int]] = []
    if len(set(owners)) > 1:
        members: dict[int, list[int]] = {}
        for i, owner in enumerate(owners):
            members.setdefault(owner, []).append(i)
        sets += members.values()
    if rule is not None:
        sets += group_by_name([piece.name for piece in pieces], rule)
    return merge_groups(len(pieces), sets)


def _count(number: int, pieces: Sequence[Document], owners: Sequence[int]) -> str:
    """Return how many documents there are, how many are left out, and how many pieces are cut."""
    kept = len(set(owners))
    text = f"{kept:,} documents ({number - kept:,} empty or duplicates left out)"
    if len(pieces) > kept:
        text += f", cut into {len(pieces):,} pieces of at most {MAX_DOCUMENT:,} characters"
    return text


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text: they end with a full stop, question or exclamation mark.

    Closing quotes and brackets belong to the sentence. An abbreviation such as "Dr." ends one too.
    """
    return [s for s in re.split(r"(?<=[.?!])\s+|(?<=[.?!][\"')\]])\s+", text) if s]


def pack(stream: Sequence[int] | IntArray, length: int) -> Text:
    """Cut a stream of ids into blocks [N, length], each [CLS] and `length` - 1 ids; the rest goes."""
    number = len(stream) // (length - 1)
    ids = torch.full((number, length), CLS)
    body = np.asarray(stream)[: number * (length - 1)].reshape(number, length - 1)
    ids[:, 1:] = torch.from_numpy(body)
    return Text(ids, torch.full((number,), length))


def middle(values: Tensor, length: int) -> Tensor:
    """Return the value of the middle id of each block that `pack` cuts a stream of values [n] into."""
    number = len(values) // (length - 1)
    return values[: number * (length - 1)].view(number, length - 1)[:, (length - 1) // 2]


def join_sentences(ends: Iterable[int], limit: int) -> list[tuple[int, int]]:
    """Join sentences to passages of at most `limit` ids; a longer sentence is cut into several.

    Args:
        ends: the number of ids up to the end of each sentence.
        limit: the maximum number of ids.

    Returns:
        Where each passage begins and ends.
    """
    passages: list[tuple[int, int]] = []
    begin = 0
    for end in ends:
        for piece in range(begin, end, limit):
            stop = min(piece + limit, end)
            if passages and stop - passages[-1][0] <= limit:
                passages[-1] = (passages[-1][0], stop)
            else:
                passages.append((piece, stop))
        begin = end
    return passages


class _Passage(NamedTuple):
    """Some sentences of a document: its number, the passage's name, and the ids, int32 [n]."""

    document: int
    name: str
    ids: IntArray


def _passages(coded: Sequence[_Coded], indices: Tensor, length: int) -> list[_Passage]:
    """Return all passages of the documents with these indices, in order."""
    found: list[_Passage] = []
    for i in indices.tolist():
        document = coded[i]
        spans = join_sentences(document.ends.tolist(), length - 2)
        for k, (begin, end) in enumerate(spans):
            name = f"{document.name}[{k}]" if len(spans) > 1 else document.name
            found.append(_Passage(i, name, document.ids[begin:end]))
    return found


def _split(passages: list[_Passage], labels: Tensor | None, length: int, limit: int) -> ArraySplit:
    """Return at most `limit` passages, evenly spread, with the labels of their documents and names."""
    if len(passages) > limit:
        passages = [passages[k] for k in torch.linspace(0, len(passages) - 1, limit).long().tolist()]
    text = collate([[CLS, *passage.ids.tolist(), SEP] for passage in passages], length)
    owners = torch.tensor([passage.document for passage in passages], dtype=torch.long)
    names = [passage.name for passage in passages]
    return ArraySplit(text, None if labels is None else labels[owners], names=names)


def _say_seen(number: int) -> str:
    """Return how many passages to evaluate on are left out, as a part of a sentence."""
    return f", {number:,} left out that equal one trained on" if number else ""


def _share_cut(coded: Sequence[_Coded], length: int) -> float:
    """Return the share of sentences that do not fit into a sample."""
    long = sum(int((np.diff(d.ends, prepend=0) > length - 2).sum()) for d in coded)
    return long / max(1, sum(len(d.ends) for d in coded))


def _origin(options: TextOptions) -> str:
    """Return where the tokenizer is from, if it is not trained here, as a part of a sentence."""
    choice = options.tokenizer
    return "" if choice in KINDS or choice.startswith("{") else f" of {printable(choice)}"


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
    tokenizer, coded = parse(content), []
    for batch in _batches(documents):
        sentences = [split_sentences(document.text) for document in batch]
        flat = tokenizer.encode_batch_fast(
            [s for part in sentences for s in part], add_special_tokens=False
        )
        rows = iter(flat)
        for document, part in zip(batch, sentences, strict=True):
            ids = [np.array(next(rows).ids, dtype=np.int32) for _ in part]
            coded.append(
                _Coded(np.concatenate(ids), np.cumsum([len(row) for row in ids]), document.name)
            )
    return coded


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield documents in turn, together of some `MAX_DOCUMENT` characters.

    The tokenizer keeps some hundred bytes a token until they are read.
    """
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= MAX_DOCUMENT:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
