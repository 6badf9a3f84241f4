"""From documents to samples: sentences, passages to evaluate on, and packed blocks to train on."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_zoo import Field, Notice, UserError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import ArraySplit, DataSet, SourceOptions
from ssl_zoo.data.holdout import group_by_name, merge_groups, stratified_split
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.text import error_reason, printable
from ssl_zoo_text.coding import Blocks, Coded, IntArray, Recent, count, digest, encode
from ssl_zoo_text.spec import TextSpec, collate
from ssl_zoo_text.tokenizer import (
    CLS,
    KINDS,
    SEP,
    SPECIALS,
    UNK,
    cut_text,
    parse,
    read_tokenizer,
    tables,
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
    order, number_train = torch.cat([train, test]), len(train)
    labels, documents = labels[order], [documents[i] for i in order.tolist()]  # to train on first
    texts = [document.text for document in documents]
    content = _tokenizer(options, texts[:number_train])
    coded = _encoded(content, texts, config)
    spec = TextSpec(length=options.length, tokenizer=content, classes=len(classes) if labelled else None)

    stream = coded.ids[: coded.start(number_train)]
    blocks = Blocks.of(stream, options.length)
    label_of = labels[coded.owners(blocks.middles)]
    block_labels = label_of if labelled and bool((label_of >= 0).all()) else None
    if len(blocks) < 2:
        raise UserError(
            f"data.source: {name} has {len(stream):,} tokens to train on, fewer than two samples of "
            f"{options.length}; give more text, or a smaller data.options.length"
        )
    trained_on = _passages(coded, range(number_train), options.length)
    found = _passages(coded, range(number_train, len(documents)), options.length)
    unseen = found[~np.isin(_hashes(coded, found, content), _hashes(coded, trained_on, content))]
    known = labels if labelled else None
    if labelled:
        trained_on = trained_on[labels.numpy()[trained_on[:, 0]] >= 0]
    names = [document.name for document in documents]
    bank = _split(coded, _spread(trained_on, options.passages), names, known, options.length)
    held = _split(coded, _spread(unseen, max(2, options.passages // 4)), names, known, options.length)
    counts = count(stream, spec.vocabulary)
    unknown = int(counts[UNK]) / max(1, len(stream))
    counts[: len(SPECIALS)] = 0
    cut = float(np.mean(coded.sentences > options.length - 2))
    spec = replace(spec, counts=tuple(counts.tolist()))
    CORPUS(
        f"{name}: {_count(number, documents, owners)}, "
        f"{len(stream):,} tokens to train on in blocks of {options.length}, {spec.vocabulary:,} "
        f"tokens in the vocabulary{_origin(options)}, {unknown:.2%} unknown; "
        "evaluated on passages of whole sentences, "
        f"{cut:.1%} of the sentences cut at {options.length - 2} tokens"
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
        Blocks(blocks.rows, block_labels, unreadable).to(device),
        held.to(device) if len(held) else None,
        bank.to(device),
        tuple(classes) if labelled else None,
        facts,
    )


def _cut(document: Document) -> Iterator[Document]:
    """Yield a document with single spaces between words, in pieces if it is too long."""
    for piece in cut_text(document.text, MAX_DOCUMENT):
        text = " ".join(piece.split())
        yield document if text == document.text else document._replace(text=text)


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


def _passages(coded: Coded, documents: range, length: int) -> IntArray:
    """Return the passages of documents, int64 [P, 5].

    The columns are the document, the passage's number in it, the number of these, and where in the ids
    it begins and ends.
    """
    found = array("q")
    for i in documents:
        start, spans = coded.start(i), join_sentences(coded.sentence_ends(i), length - 2)
        for k, (begin, end) in enumerate(spans):
            found.extend((i, k, len(spans), start + begin, start + end))
    return np.array(found, np.int64).reshape(-1, 5)


def _hashes(coded: Coded, passages: IntArray, content: str) -> IntArray:
    """Return a hash of the text of each passage, uint64 [P].

    Of byte-level tokens these are joined, as the ids of one text may differ: within a document it begins
    with a space.

    Args:
        coded: the documents.
        passages: the passages, int64 [P, 5].
        content: the tokenizer as JSON.
    """
    tokenizer, joint = parse(content), " " if tables(content).num_bytes is None else ""
    tokens = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    rows = (coded.ids[begin:end].tolist() for *_, begin, end in passages.tolist())
    texts = (joint.join([tokens[i] for i in ids]).removeprefix("Ġ") for ids in rows)
    digests = (blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def _spread(passages: IntArray, limit: int) -> IntArray:
    """Return at most `limit` passages, evenly spread."""
    if len(passages) <= limit:
        return passages
    chosen: IntArray = passages[torch.linspace(0, len(passages) - 1, limit).long().numpy()]
    return chosen


def _split(
    coded: Coded, passages: IntArray, names: Sequence[str], labels: Tensor | None, length: int
) -> ArraySplit:
    """Return passages with the labels and the names of their documents."""
    text = collate([[CLS, *coded.ids[b:e].tolist(), SEP] for *_, b, e in passages.tolist()], length)
    groups = [names[i] for i in passages[:, 0].tolist()]
    named = [
        f"{name}[{k}]" if n > 1 else name
        for name, (_, k, n, *_) in zip(groups, passages.tolist(), strict=True)
    ]
    owners = torch.from_numpy(passages[:, 0].copy())
    return ArraySplit(text, None if labels is None else labels[owners], names=named, groups=groups)


def _say_seen(number: int) -> str:
    """Return how many passages to evaluate on are left out, as a part of a sentence."""
    return f", {number:,} left out that equal one trained on" if number else ""


def _origin(options: TextOptions) -> str:
    """Return where the tokenizer is from, if it is not trained here, as a part of a sentence."""
    choice = options.tokenizer
    return "" if choice in KINDS or choice.startswith("{") else f" of {printable(choice)}"


def _tokenizer(options: TextOptions, texts: Sequence[str]) -> str:
    """Return the tokenizer that the options ask for, trained on these texts if on any."""
    choice, number = options.tokenizer, options.vocabulary
    if choice in KINDS:
        key = (choice, number, digest(texts))
        return _TOKENIZERS.get(key, lambda: train_tokenizer(choice, texts, number))
    if choice.startswith("{"):  # as `TextSpec.data_settings` gives it
        return choice
    return read_tokenizer(user_path("data.options.tokenizer", choice))


_TOKENIZERS: Recent[str] = Recent()
_CODED: Recent[Coded] = Recent()


def _encoded(content: str, texts: Sequence[str], config: DataConfig) -> Coded:
    """Return texts as ids, in a file if there is a folder for it, ``data.cache``.

    Raises:
        UserError: the file cannot be written.
    """
    folder = None if config.cache is None else user_path("data.cache", str(config.cache))
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        key = (content, digest(texts), folder)
        return _CODED.get(key, lambda: encode(content, texts, folder))
    except OSError as error:
        raise UserError(
            f"data.cache: cannot write into {printable(str(folder))}: {error_reason(error)}; "
            "name another folder, or leave data.cache out"
        ) from error
