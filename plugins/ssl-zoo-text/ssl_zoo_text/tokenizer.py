"""Tokenizers: trained on the train split alone, kept as JSON, and the tables that tasks look up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from ssl_zoo import UserError
from ssl_zoo.runs.backbone import read_spec

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The special tokens, which have the first ids."""
PAD, UNK, CLS, SEP, MASK = range(len(SPECIALS))
ALIASES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
"""The names of the special tokens in RoBERTa's and similar tokenizers."""

KINDS = ("bpe", "wordpiece")
"""The kinds of tokenizers that can be trained."""

_TRAINED_AT_ONCE = 10_000
"""The maximum number of characters that the trainer is given as one text; it keeps many in memory."""
_COVERAGE = 0.9995
"""The share of a text's characters that WordPiece knows, where rarer ones would take much of the
vocabulary; that of SentencePiece (Kudo and Richardson 2018, arXiv:1808.06226)."""


def cut_text(text: str, limit: int) -> Iterator[str]:
    """Yield a text in parts of at most `limit` characters, cut at white space where there is some."""
    begin = 0
    while len(text) - begin > limit:
        end = max(text.rfind(space, begin + 1, begin + limit) for space in " \t\n")
        end = begin + limit if end < 0 else end
        yield text[begin:end]
        begin = end + (end < begin + limit)  # without the space
    yield text[begin:]


def train_tokenizer(kind: str, texts: Sequence[str], vocabulary: int) -> str:
    """Train a tokenizer and return it as JSON, which `parse` reads.

    Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; on bytes as in GPT-2) spells any text without
    loss. WordPiece (as in BERT) lowers case, strips accents, and has [UNK] for unknown characters.

    Args:
        kind: one of `KINDS`.
        texts: the texts; equal ones in the same order give the same tokenizer, in any process.
        vocabulary: the maximum number of tokens, special ones included.
    """
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIALS[UNK]))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        # The trainer numbers "##c" in the order of a hash map, which differs from process to process. So
        # it is given all characters as special tokens, in order, and none of its own.
        characters = _characters(tokenizer, texts, vocabulary - len(SPECIALS))
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocabulary,
            special_tokens=[*SPECIALS, *characters],
            limit_alphabet=0,
            show_progress=False,
        )
    tokenizer.train_from_iterator(_parts(texts), trainer)
    frame(tokenizer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][: len(SPECIALS)]
    return str(Tokenizer.from_str(json.dumps(described)).to_str())


def _parts(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts in parts that the trainer can be given."""
    return (part for text in texts for part in cut_text(text, _TRAINED_AT_ONCE))


def _characters(tokenizer: Tokenizer, texts: Iterable[str], limit: int) -> list[str]:
    """Return the tokens of single characters: those that begin words, then those within, sorted.

    All characters are known if they take at most half of `limit`. Otherwise the rarest are left out,
    which would leave no place for words. Those that make up `_COVERAGE` of the text are known as long as
    they take at most `limit`.
    """
    words: Counter[str] = Counter()
    for text in _parts(texts):
        normalized = tokenizer.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized))
    counts: Counter[str] = Counter()
    for word, number in words.items():
        for character in word:
            counts[character] += number
    within = {character for word in words for character in word[1:]}
    tokens: list[str] = []
    seen, total = 0, counts.total()
    for character in sorted(counts, key=lambda c: (-counts[c], c)):
        spelt = [character, f"##{character}"] if character in within else [character]
        if len(tokens) + len(spelt) > (limit if seen < _COVERAGE * total else limit // 2):
            break
        tokens += spelt
        seen += counts[character]
    return sorted(tokens, key=lambda token: (len(token), token))


def frame(tokenizer: Tokenizer) -> None:
    """Let a tokenizer put [CLS] before a text, and [SEP] behind each text of one or two."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[CLS]} $A {SPECIALS[SEP]}",
        pair=f"{SPECIALS[CLS]} $A {SPECIALS[SEP]} $B:1 {SPECIALS[SEP]}:1",
        special_tokens=[(SPECIALS[i], i) for i in (CLS, SEP)],
    )


@lru_cache(maxsize=8)
def parse(content: str) -> Tokenizer:
    """Return the tokenizer that JSON describes; the name of a special token in a text is text to it."""
    tokenizer = Tokenizer.from_str(content)
    tokenizer.encode_special_tokens = True
    return tokenizer


def read_tokenizer(file: Path) -> str:
    """Return the tokenizer of a run, of its backbone.safetensors, or of a file of tokenizers', as JSON.

    Raises:
        UserError: it cannot be read, or is of an unknown kind.
    """
    if file.is_dir() or file.suffix == ".safetensors":
        try:
            content = getattr(read_spec(file), "tokenizer", "")
        except UserError as error:
            raise UserError(f"data.options.tokenizer: {error}") from error
        if not content:
            raise UserError(f"data.options.tokenizer: {file} was not trained on text")
        return str(content)
    try:
        content = file.read_text("utf-8")
        tokenizer = parse(content)
    except Exception as error:  # tokenizers raises plain Exception
        reason = str(error).splitlines()[0]
        raise UserError(f"data.options.tokenizer: {file} cannot be read ({reason})") from error
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    numbers = [tokenizer.token_to_id(token) for token in SPECIALS]
    if numbers == list(range(len(SPECIALS))) and special.issuperset(numbers):
        return content
    if (renumbered := adopt_specials(content)) is None:
        raise UserError(
            f"data.options.tokenizer: {file} is not WordPiece or byte-level BPE with the tokens "
            f"{' '.join(SPECIALS)}, or <pad> <unk> <s> </s> <mask>; train one here, or give a run"
        )
    return renumbered


def adopt_specials(content: str) -> str | None:
    """Return another's tokenizer with the special tokens named and numbered as here, the rest behind.

    Texts are divided as before; only the numbers of tokens are others, as training begins with new
    embeddings. Returns None for a kind that `tables` does not know, or without all special tokens.

    Args:
        content: the tokenizer as JSON, WordPiece or byte-level BPE.
    """
    described = json.loads(content)
    model, added = described["model"], described.get("added_tokens") or []
    known = '"ByteLevel"' in json.dumps(described.get("pre_tokenizer"))
    if model["type"] == "WordPiece":
        known = model.get("continuing_subword_prefix") == "##"
    if model["type"] not in ("BPE", "WordPiece") or not known:
        return None
    ids: dict[str, int] = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
    theirs = [a if a in ids else b for a, b in zip(SPECIALS, ALIASES, strict=True)]
    if not ids.keys() >= set(theirs):
        return None
    renamed = dict(zip(theirs, SPECIALS, strict=True))
    rest = sorted(ids.keys() - renamed.keys(), key=ids.__getitem__)
    numbers = {name: i for i, name in enumerate([*theirs, *rest])}

    model["vocab"] = {renamed.get(name, name): numbers[name] for name in model["vocab"]}
    model["unk_token"] = renamed.get(model.get("unk_token"), model.get("unk_token"))
    for token in added:
        name = token["content"]
        token.update(content=renamed.get(name, name), id=numbers[name])
        token["special"] |= name in renamed  # else its name in a text would be parsed
    added.sort(key=lambda token: token["id"])
    described["post_processor"] = None
    tokenizer = Tokenizer.from_str(json.dumps(described))
    frame(tokenizer)
    return str(tokenizer.to_str())


@dataclass(frozen=True)
class Tables:
    """Properties of the V tokens of a vocabulary, each [V].

    Attributes:
        begins: whether the token begins a word, where the token before it does not say so.
        joins: whether the next token may continue the word that this one ends with.
        ends_sentence: whether it has a full stop, a question mark or an exclamation mark.
        num_bytes: the number of bytes of text that it spells, int64, those of spaces that the tokenizer
            adds included; 0 for special tokens. For a tokenizer that is not byte-level, None.
    """

    begins: Tensor
    joins: Tensor
    ends_sentence: Tensor
    num_bytes: Tensor | None


@lru_cache(maxsize=8)
def tables(content: str) -> Tables:
    """Return the tables of the tokenizer that JSON describes."""
    tokenizer = parse(content)
    words = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    byte_level = json.loads(content)["model"]["type"] == "BPE"
    special = torch.arange(len(words)) < len(SPECIALS)
    if byte_level:  # Ġ stands for the space before a word; each character stands for a byte
        begins = [not _is_letter(word[:1]) for word in words]
    else:
        begins = [not word.startswith("##") for word in words]
    joins = [_is_letter(word[-1:]) or not byte_level for word in words]
    ends = [any(mark in word for mark in ".?!") for word in words]
    return Tables(
        begins=torch.tensor(begins) | special,
        joins=torch.tensor(joins) & ~special,
        ends_sentence=torch.tensor(ends) & ~special,
        num_bytes=torch.tensor([len(word) for word in words]) * ~special if byte_level else None,
    )


def _is_letter(character: str) -> bool:
    """Return whether a character of a byte-level token is a letter, a digit, or part of either."""
    return character not in ("", "Ġ", "Ċ", "ĉ", "č") and (character.isalnum() or ord(character) > 127)
