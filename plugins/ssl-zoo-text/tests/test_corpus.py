"""From documents to samples: the bundled text, splits, tokenizers, and the description of texts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import OPTIONS, SmallTexts, small_data, small_spec
from ssl_zoo_text import coding, corpus
from ssl_zoo_text.bert import BERT
from ssl_zoo_text.coding import Blocks, Coded, count, encode, split_sentences
from ssl_zoo_text.corpus import (
    Document,
    TextOptions,
    build,
    join_sentences,
)
from ssl_zoo_text.kjv import PARTS, chapters
from ssl_zoo_text.spec import Text, TextSpec, compact
from ssl_zoo_text.tokenizer import (
    ALIASES,
    CLS,
    KINDS,
    MASK,
    PAD,
    SEP,
    SPECIALS,
    UNK,
    parse,
    read_tokenizer,
    tables,
    train_tokenizer,
)
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from ssl_zoo import Rng, UserError
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import Source
from ssl_zoo.testing import Case, Check, parametrize_with_source_checks

SMALL = Source(
    lambda config, device, options: build("small", chapters()[::40], config, device, options),
    "text",
    TextOptions,
)


def byte_level(*steps: Any, normalizer: Any = None) -> str:
    """Return the tokenizer of `small_data` with other steps before BPE, those of GPT-2 by default."""
    tokenizer = Tokenizer.from_str(small_spec().tokenizer)
    steps = steps or (pre_tokenizers.ByteLevel(add_prefix_space=False),)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps)) if steps[1:] else steps[0]
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return str(tokenizer.to_str())


def test_the_bundled_text_has_all_verses_of_seven_parts() -> None:
    documents = chapters()
    assert len(documents) == 1189
    assert {d.label for d in documents} == set(PARTS)
    assert documents[0].text.startswith("In the beginning God created the heaven and the earth.")
    assert documents[-1].name == "Rev 22"


def test_documents_are_held_out_whole_and_train_the_tokenizer_alone() -> None:
    data, spec = small_data(), small_spec()
    assert data.test is not None
    train = {name.partition("[")[0] for name in data.bank.names or ()}
    assert not train & {name.partition("[")[0] for name in data.test.names or ()}
    texts = [d.text for d in chapters()[::20] if d.name in train]
    assert spec.tokenizer == train_tokenizer("bpe", texts, OPTIONS.vocabulary)


def test_pieces_of_a_document_and_groups_of_documents_lie_on_one_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT", 60)
    words = [" ".join(f"d{i}w{j}." for j in range(40)) for i in range(12)]
    documents = [Document(text, f"author{i % 4}/{i}") for i, text in enumerate(words)]

    def sides(documents: list[Document], groups: str | None = None) -> list[set[str]]:
        config = DataConfig(holdout=0.3, groups=groups)
        options = TextOptions(length=16, vocabulary=300, passages=8000)
        data = build("x", documents, config, torch.device("cpu"), options)
        assert data.test is not None
        assert data.facts.held_out
        names = [split.names or () for split in (data.bank, data.test)]
        return [{name.partition("[")[0] for name in part} for part in names]

    train, test = sides(documents)
    assert (len(train | test), train & test) == (12, set())
    authors = [{name.partition("/")[0] for name in side} for side in (train, test)]
    assert authors[0] & authors[1]
    for rule in ("folder", r"^(\w+)/"):
        train, test = ({name.partition("/")[0] for name in side} for side in sides(documents, rule))
        assert (len(train | test), train & test) == (4, set())
    assert sides(documents[:1]) == [{"author0/0"}] * 2, "the only document is divided"


@pytest.mark.parametrize("tokenizer", ["bpe", "gpt2"])
def test_no_passage_is_evaluated_on_that_is_trained_on(
    tokenizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ssl_zoo.notices")
    # Each document shares five sentences with the next one, and has five of its own.
    shared = [[f"Sentence {j} of both {i} and the next." for j in range(5)] for i in range(20)]
    own = [[f"Sentence {j} of {i} and none other." for j in range(5)] for i in range(20)]
    texts = [" ".join([*shared[i - 1], *own[i], *shared[i]]) for i in range(20)]
    documents = [Document(text, str(i)) for i, text in enumerate(texts)]
    # To GPT-2's the first passage of a document has no space before it, unlike an equal one within.
    choice = byte_level() if tokenizer == "gpt2" else tokenizer

    def passages(limit: int) -> tuple[set[str], set[str]]:
        options = TextOptions(length=20, vocabulary=300, passages=limit, tokenizer=choice)
        data = build("x", documents, DataConfig(holdout=0.3), torch.device("cpu"), options)
        assert data.test is not None
        splits = (data.bank, data.test)
        return tuple({*data.spec.show(s.batch(torch.arange(len(s))))} for s in splits)  # type: ignore[return-value]

    trained_on, _ = passages(8000)
    bank, held_out = passages(40)
    assert len(trained_on) > 2 * len(bank)
    assert len(held_out) > 4
    assert not held_out & trained_on
    assert "left out that equal one trained on" in caplog.text


def test_blocks_hold_the_train_documents_in_order() -> None:
    data, spec = small_data(), small_spec()
    blocks = data.train.batch(torch.arange(len(data.train)))
    assert (blocks.ids[:, 0] == CLS).all()
    assert (blocks.lengths == spec.length).all()
    stream = blocks.ids[:, 1:].flatten().tolist()
    first = stream[: stream.index(SEP)]
    assert spec.decode(first) == chapters()[0].text
    assert sum(spec.counts) >= len(stream) - stream.count(SEP)


def test_a_block_has_the_label_of_its_middle_token() -> None:
    owners = torch.arange(103) // 10
    literal = [int(owners[start + 7]) for start in range(0, 103 - 14, 15)]
    ids, none = np.zeros(103, np.int32), np.zeros(0, np.int64)
    coded = Coded(ids, np.append(np.arange(10, 101, 10), 103), none, none)
    assert coded.owners(Blocks.of(ids, 16).middles).tolist() == literal
    data = small_data()
    assert data.train.labels is not None
    assert len(data.train.labels) == len(data.train)
    assert set(data.train.labels.tolist()) == set(range(len(PARTS)))


def test_the_unigram_entropy_is_that_of_counting() -> None:
    spec = small_spec()
    assert spec.counts[: len(SPECIALS)] == (0,) * len(SPECIALS)
    p = torch.tensor(spec.counts).double()
    p = p[p > 0] / p.sum()
    assert math.isclose(spec.unigram_entropy(), -float((p * p.log()).sum()), rel_tol=1e-12)


def test_tokens_of_bytes_spell_any_text_and_know_its_number_of_bytes() -> None:
    spec = small_spec()
    text = "Naïve “quotes” 數!"
    longer = Text(*spec.preprocess(text))
    assert spec.show(longer) == [text]
    num_bytes = tables(spec.tokenizer).num_bytes
    assert num_bytes is not None
    assert int(num_bytes[longer.ids].sum()) == len(text.encode()) + 1, (
        "with a space before the first word"
    )


def test_sentences_are_joined_to_passages_and_longer_ones_cut() -> None:
    assert split_sentences('He said. "Go!" And? yes') == ["He said.", ' "Go!"', " And?", " yes"]
    # Sentences of 2, 1, 5, 0 and 1 tokens.
    assert join_sentences([2, 3, 8, 8, 9], 3) == [(0, 3), (3, 6), (6, 9)]
    assert join_sentences([2, 4], 3) == [(0, 2), (2, 4)]


@pytest.mark.parametrize(("dtype", "first"), [(np.uint16, 65_529), (np.int32, 70_000)])
def test_blocks_are_cut_from_a_stream_of_small_or_large_ids(dtype: type, first: int) -> None:
    stream = np.arange(first, first + 7, dtype=dtype)
    blocks = Blocks.of(stream, 4).to(torch.device("cpu"))
    x = blocks.batch(torch.tensor([1, 0]))
    rows = [[CLS, *range(first + 3, first + 6)], [CLS, *range(first, first + 3)]]
    assert (x.ids.tolist(), x.lengths.tolist(), len(blocks)) == (rows, [4, 4], 2)
    assert blocks.subset(torch.tensor([1])).batch(torch.tensor([0])).ids.tolist() == rows[:1]


def test_documents_are_coded_in_parts_alike_in_memory_and_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(coding, "CHARACTERS_AT_ONCE", 3000)
    texts, tokenizer = [d.text for d in chapters()[:9]], parse(small_spec().tokenizer)
    expected, places = [], []
    for text in texts:
        sentences = [tokenizer.encode(s, add_special_tokens=False).ids for s in split_sentences(text)]
        places.append([sum(map(len, sentences[: k + 1])) for k in range(len(sentences))])
        expected.append([i for ids in sentences for i in ids])
    for folder in (None, tmp_path):
        coded = encode(small_spec().tokenizer, texts, folder)
        assert coded.ids.dtype == np.uint16
        starts = [coded.start(i) for i in range(10)]
        assert [coded.ids[a : b - 1].tolist() for a, b in itertools.pairwise(starts)] == expected
        assert (coded.ids[coded.ends - 1] == SEP).all()
        assert [coded.sentence_ends(i) for i in range(9)] == places
        literal = Counter([*itertools.chain(*expected), *[SEP] * 9])
        assert count(coded.ids, 500).tolist() == [literal[i] for i in range(500)]
    assert isinstance(coded.ids, np.memmap)
    assert not list(tmp_path.iterdir())


SENTENCES = [
    'He said. "Go!" (And?)',
    "'Tis 12 o'clock... It's [MASK]. 's 3.5!",
    "数は文章。です. 文? naïve. end",
]
"""Texts of two or more sentences, some without spaces within."""
LLAMA = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
"""How Llama 3 divides texts, but for contractions."""


def coded_alike(content: str) -> TextSpec:
    """Assert that documents have the ids of `preprocess`; return the description of such texts."""
    spec = dataclasses.replace(small_spec(), tokenizer=content, length=128)
    rows = [spec.preprocess(text).ids[0].tolist() for text in SENTENCES]
    bodies = [row[1 : row.index(SEP) + 1] for row in rows]
    assert encode(content, SENTENCES).ids.tolist() == list(itertools.chain(*bodies))
    return spec


def test_documents_have_the_ids_of_whole_texts() -> None:
    for kind in KINDS:
        coded_alike(train_tokenizer(kind, SENTENCES, 300))
    # This one adds a space to each word and mark, so that it does not give the text back.
    coded_alike(byte_level(pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel()))


@pytest.mark.parametrize(
    ("content", "added"),
    [
        (lambda: byte_level(), 0),
        (lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)), 1),
        (lambda: byte_level(normalizer=normalizers.NFC()), 0),
        (
            lambda: byte_level(
                pre_tokenizers.Split(Regex(LLAMA), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ),
            0,
        ),
    ],
    ids=["gpt2", "with a space", "modernbert", "llama"],
)
def test_another_tokenizer_spells_the_spaces_between_sentences(
    content: Callable[[], str], added: int
) -> None:
    spec = coded_alike(content())
    coded, num_bytes = encode(spec.tokenizer, SENTENCES), spec.tables.num_bytes
    assert num_bytes is not None
    for i, text in enumerate(SENTENCES):
        ids = coded.ids[coded.start(i) : coded.start(i + 1)].tolist()
        assert spec.decode(ids) == text
        assert int(num_bytes[ids].sum()) == len(text.encode()) + added
        spans = itertools.pairwise([0, *coded.sentence_ends(i)])
        sentences = [spec.decode(ids[begin:end]) for begin, end in spans]
        assert len(sentences) > 1
        assert " ".join(sentences) == text


def test_dropped_tokens_leave_no_gap() -> None:
    x = Text(torch.tensor([[2, 7, 8, 3], [2, 9, 3, PAD]]), torch.tensor([4, 3]))
    keep = torch.tensor([[1, 0, 1, 1], [1, 0, 1, 0]]).bool()
    y = compact(x, keep)
    assert y.ids.tolist() == [[2, 8, 3, 0], [2, 3, 0, 0]]
    assert y.lengths.tolist() == [3, 2]


def test_special_tokens_show_in_all_places_but_around_a_text() -> None:
    spec = small_spec()
    word = spec.preprocess("God").ids[0]
    (token,) = word[(word != CLS) & (word != SEP) & (word != PAD)].tolist()
    inner = [SEP, token, MASK, MASK, CLS, token, PAD, SEP, token, SEP]
    shown = "| God [MASK] [MASK] [CLS] God [PAD] | God"
    assert spec.decode([CLS, *inner, PAD, PAD]) == shown
    assert spec.decode(inner[:-1]) == shown
    assert spec.decode([CLS, SEP, SEP]) == "|"
    assert spec.decode([CLS]) == spec.decode([]) == ""


def test_what_is_predicted_keeps_the_ends_of_documents() -> None:
    case = Case.of(BERT, data=[SmallTexts()])
    task: Any = case.build().eval()
    blocks = small_data().train.batch(torch.arange(len(small_data().train)))
    some = (blocks.ids[:, :-1] == SEP).any(1)
    x = Text(blocks.ids[some], blocks.lengths[some])
    assert len(x.ids) > 10
    views = task.views(x, Rng(0))
    for shown in (task.gallery(views)["masked"], task.reconstructions(views)["predicted"]):
        assert (shown.ids[x.ids == SEP] == SEP).all()
        for ids, line in zip(shown.ids[:, :-1], task.spec.show(shown), strict=True):
            assert line.count("|") == (ids == SEP).sum()


def test_raw_features_are_weighted_counts() -> None:
    spec = small_spec()
    x = spec.preprocess("And God said, God")
    raw, total = spec.raw(x)[0], sum(spec.counts)
    expected = torch.zeros(spec.vocabulary, dtype=torch.float64)
    for token in x.ids[0][1 : int(x.lengths) - 1].tolist():
        expected[token] += math.log((1 + total) / (1 + spec.counts[token]))
    torch.testing.assert_close(raw.double(), expected / expected.norm(), rtol=1e-5, atol=1e-6)


def test_wordpiece_is_trained_too() -> None:
    options = OPTIONS.model_copy(update={"tokenizer": "wordpiece"})
    data = build("small", chapters()[::60], DataConfig(), torch.device("cpu"), options)
    (shown,) = data.spec.show(data.spec.preprocess("In the beginning God"))
    assert shown == "in the beginning god"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_each_process_trains_the_same_tokenizer(kind: str) -> None:
    program = (
        "from ssl_zoo_text.kjv import chapters\n"
        "from ssl_zoo_text.tokenizer import train_tokenizer\n"
        f"print(train_tokenizer({kind!r}, [d.text for d in chapters()[::60]], 600))"
    )
    one, other = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert one.stdout == other.stdout
    assert len(json.loads(one.stdout)["model"]["vocab"]) == 600


@pytest.mark.parametrize("vocabulary", [300, 1000, 4096])
def test_wordpiece_leaves_out_the_rarest_characters_where_not_all_fit(vocabulary: int) -> None:
    # Character k of 1200 occurs 1 + 1200 // (k + 1) times; the tokenizer takes each by itself.
    signs = [chr(0x4E00 + k) for k in range(1200)]
    text = "".join(sign * (1 + 1200 // (k + 1)) for k, sign in enumerate(signs))
    content = train_tokenizer("wordpiece", [text], vocabulary)
    known = min(vocabulary - len(SPECIALS), len(signs))
    assert json.loads(content)["model"]["vocab"] == {
        token: i for i, token in enumerate([*SPECIALS, *signs[:known]])
    }
    assert [token["content"] for token in json.loads(content)["added_tokens"]] == list(SPECIALS)
    ids = parse(content).encode(signs[0] + "\N{SNOWMAN}", add_special_tokens=False).ids
    assert ids == [len(SPECIALS), UNK]


def test_rare_characters_take_at_most_half_of_a_wordpiece_vocabulary() -> None:
    signs = " ".join(chr(0x2190 + k) for k in range(120))
    letters = "".join(d.text for d in chapters()[::10])
    assert len(letters.replace(" ", "")) > 120 / 0.0005
    vocabulary = json.loads(train_tokenizer("wordpiece", [letters, signs], 300))["model"]["vocab"]
    assert len(vocabulary) == 300
    assert {*"abcdefghijklmnopqrstuvwxyz"} <= vocabulary.keys()
    assert sum(len(token.removeprefix("##")) == 1 for token in vocabulary) == (300 - 5) // 2


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_names_of_special_tokens_in_a_text_are_text(kind: str) -> None:
    text = " ".join([*SPECIALS, *ALIASES, "[MASK][SEP]", "a[CLS]b"])
    options = OPTIONS.model_copy(update={"tokenizer": kind, "length": 256})
    documents = [*chapters()[::60], Document(text, "names"), Document(f"{text} again", "names too")]
    spec: Any = build("small", documents, DataConfig(), torch.device("cpu"), options).spec
    x = spec.preprocess(text)
    inner = x.ids[0, 1 : int(x.lengths) - 1]
    assert int(inner.min()) >= len(SPECIALS)
    assert bool(x.ordinary()[0, 1 : len(inner) + 1].all())
    coded = encode(spec.tokenizer, [text])
    assert coded.ids.tolist() == [*inner.tolist(), SEP]
    if kind == "bpe":
        assert spec.show(x) == [text]
        assert int(tables(spec.tokenizer).num_bytes[inner].sum()) == len(text.encode()) + 1


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize("names", [SPECIALS, ALIASES])
def test_tokenizers_of_others_are_renumbered(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    ours = train_tokenizer(kind, [d.text for d in chapters()[:3]], 400)
    described, last = json.loads(ours), parse(ours).get_vocab_size() - 1
    renamed = dict(zip(SPECIALS, names, strict=True))
    model = described["model"]
    model["vocab"] = {renamed.get(name, name): last - i for name, i in model["vocab"].items()}
    if model.get("unk_token"):
        model["unk_token"] = names[UNK]
    for token in described["added_tokens"]:
        token.update(content=renamed[token["content"]], id=last - token["id"])
    described["added_tokens"].reverse()
    described["added_tokens"][0]["special"] = False  # a mistake of some
    described["post_processor"] = None
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(described))
    theirs, read = Tokenizer.from_file(str(file)), parse(read_tokenizer(file))
    text = "And God said, Let there be light."
    assert read.encode(text).tokens == ["[CLS]", *theirs.encode(text).tokens, "[SEP]"]
    assert [read.token_to_id(name) for name in SPECIALS] == [0, 1, 2, 3, 4]
    assert sorted(read.get_vocab().values()) == list(range(last + 1))
    for name in {*names, *SPECIALS}:
        assert set(read.encode(name).ids[1:-1]).isdisjoint({PAD, CLS, SEP, MASK}), "names are text"

    del described["added_tokens"][0], described["model"]["vocab"][names[MASK]]
    file.write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"^data\.options\.tokenizer: .* train one here, or give a run$"):
        read_tokenizer(file)


@pytest.mark.parametrize("documents", [[], [Document(" ", "a")], [Document("One.", "a")] * 3])
def test_too_little_text_is_one_line(documents: list[Document]) -> None:
    with pytest.raises(
        UserError, match=r"data\.source: x has (no text|one document), and two are needed"
    ):
        build("x", documents, DataConfig(), torch.device("cpu"), OPTIONS)


@parametrize_with_source_checks(SMALL, {"options": OPTIONS.model_dump()})
def test_conformance_of_the_data(check: Check) -> None:
    check()
