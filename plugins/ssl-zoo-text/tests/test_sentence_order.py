"""Sentence order: the conformance suite, the permutations, and what they leave unsaid."""

from __future__ import annotations

import math
from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
from helpers import CASE, MODERN
from ssl_zoo_text.segments import equal_spans, permute, sentence_spans
from ssl_zoo_text.sentence_order import SentenceOrder
from ssl_zoo_text.spec import Text
from ssl_zoo_text.tokenizer import CLS, PAD, SEP

from ssl_zoo.testing import Case, Check, parametrize_with_checks
from ssl_zoo.views import Rng


@parametrize_with_checks(SentenceOrder, **CASE)
def test_conformance(check: Check) -> None:
    check()


@parametrize_with_checks(SentenceOrder, **MODERN)
def test_conformance_with_modernbert(check: Check) -> None:
    check()


@parametrize_with_checks(SentenceOrder, options={"k": 3, "mlm_weight": 0.0}, **CASE)
def test_conformance_of_order_alone(check: Check) -> None:
    check()


def texts(n: int, length: int, seed: int = 0) -> Text:
    """Return n texts of different tokens and of random lengths, padded to `length`."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(length // 2, length + 1, (n,), generator=generator)
    ids = torch.arange(n * length).view(n, length) + 10
    ids[:, 0] = CLS
    return Text(ids * Text(ids, lengths).valid(), lengths)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_segments_are_those_of_a_literal_loop(k: int) -> None:
    x = texts(40, 37)
    order = torch.stack([torch.randperm(k) for _ in range(40)])
    y = permute(x, order, *equal_spans(x, k))
    for row in range(40):
        length = int(x.lengths[row])
        size = (length - k) // k  # [CLS] and k - 1 [SEP] stand between the segments
        body = x.ids[row, 1:length].tolist()
        segments = [body[i * (size + 1) : i * (size + 1) + size] for i in range(k)]
        expected = [CLS]
        for place, segment in enumerate(order[row].tolist()):
            expected += ([SEP] if place else []) + segments[segment]
        assert int(y.lengths[row]) == len(expected)
        assert y.ids[row].tolist() == expected + [PAD] * (37 - len(expected))


def literal_spans(body: list[int], ends: list[bool], key: list[float]) -> list[list[int]] | None:
    """Return segments of whole sentences of the tokens behind [CLS], None if there are too few.

    There are as many as numbers in `key`; those of the smallest have the sentences that are left over.
    """
    k = len(key)
    cuts = [i + 1 for i, end in enumerate(ends) if end and i + 1 >= k - 1]
    sentences = [body[a:b] for a, b in pairwise(cuts)]
    if len(sentences) < k:
        return None
    more = sorted(range(k), key=lambda i: key[i])[: len(sentences) % k]
    numbers = [len(sentences) // k + (i in more) for i in range(k)]
    rest = iter(sentences)
    return [[token for _ in range(number) for token in next(rest)] for number in numbers]


def ends_of(x: Text, seed: int, share: float = 0.15) -> torch.Tensor:
    """Return random ends of sentences, bool [B, T], none at [CLS]."""
    ends = torch.rand(x.ids.shape, generator=torch.Generator().manual_seed(seed)) < share
    ends[:, 0] = False
    return ends


@pytest.mark.parametrize("k", [2, 3, 4])
def test_segments_are_whole_sentences_where_there_are_enough(k: int) -> None:
    x = texts(200, 37)
    ends, key = ends_of(x, k), torch.rand(200, k, generator=torch.Generator().manual_seed(0))
    order = torch.stack([torch.randperm(k) for _ in range(200)])
    y, equal = (permute(x, order, *t) for t in (sentence_spans(x, ends, key), equal_spans(x, k)))
    number = 0
    for row in range(200):
        length = int(x.lengths[row])
        body, inner = x.ids[row, 1:length].tolist(), ends[row, 1:length].tolist()
        segments = literal_spans(body, inner, key[row].tolist())
        if segments is None:
            assert y.ids[row].equal(equal.ids[row])
            assert y.lengths[row] == equal.lengths[row]
            continue
        number += 1
        expected = [CLS]
        for place, segment in enumerate(order[row].tolist()):
            expected += ([SEP] if place else []) + segments[segment]
        assert int(y.lengths[row]) == len(expected) <= length
        assert y.ids[row].tolist() == expected + [PAD] * (37 - len(expected))
    assert 20 < number < 200


def test_segments_of_a_text_of_one_token_are_empty() -> None:
    x = Text(torch.tensor([[CLS, 9, SEP, PAD, PAD, PAD]]), torch.tensor([3]))
    y = permute(x, torch.tensor([[2, 0, 3, 1]]), *equal_spans(x, 4))
    assert y.ids.tolist() == [[CLS, SEP, SEP, SEP, PAD, PAD]]
    assert y.lengths.tolist() == [4]


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_sentences_in_another_order_have_the_segments_in_that_order(k: int) -> None:
    """So that of independent sentences, all orders of which are as likely, none tells the segments'."""
    x = Text(torch.ones(500, 64, dtype=torch.int64), torch.full((500,), 64))
    ends, key = ends_of(x, 0), torch.rand(500, k)
    begin, size = sentence_spans(x, ends, key)
    moved = 0
    for row in range(500):
        segments = [ends[row, a : a + n] for a, n in zip(begin[row], size[row], strict=True)]
        if not all(segment.any() for segment in segments) or begin[row, 0] == 1:
            continue  # too few sentences
        order = torch.randperm(k)
        other = ends[row].clone()
        other[begin[row, 0] : begin[row, -1] + size[row, -1]] = torch.cat([segments[i] for i in order])
        first, again = sentence_spans(Text(*(t[:1] for t in x)), other[None], key[row, order][None])
        assert again[0].equal(size[row, order])
        assert first[0, 0] == begin[row, 0]
        moved += 1
    assert moved > 300


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_inverse_order_restores_the_block_and_no_order_moves_sep(k: int) -> None:
    x = texts(30, 41)
    same = torch.arange(k).expand(30, k)
    spans = equal_spans(x, k)
    plain = permute(x, same, *spans)
    for order in permutations(range(k)):
        drawn = torch.tensor(order).expand(30, k)
        y = permute(x, drawn, *spans)
        assert (y.ids == SEP).equal(plain.ids == SEP)
        assert y.lengths.equal(plain.lengths)
        restored = permute(y, drawn.argsort(1), *equal_spans(y, k))
        assert restored.ids.equal(plain.ids)


def test_padding_adds_nothing() -> None:
    x = texts(20, 33)
    order = torch.stack([torch.randperm(3) for _ in range(20)])
    wide = Text(torch.nn.functional.pad(x.ids, (0, 9), value=PAD), x.lengths)
    narrow, padded = (permute(t, order, *equal_spans(t, 3)) for t in (x, wide))
    assert padded.ids[:, :33].equal(narrow.ids)
    assert (padded.ids[:, 33:] == PAD).all()
    assert padded.lengths.equal(narrow.lengths)
    case = Case.of(SentenceOrder, {"mlm_weight": 0.0}, **CASE)
    task: Any = case.build().eval()
    y, number = case.views(task, 16)
    y = Text(y.ids.masked_fill(torch.arange(y.ids.shape[1]) >= 20, PAD), torch.full((16,), 20))
    torch.testing.assert_close(task((y, number)).total, task((task.spec.pad(y, 7), number)).total)


def test_orders_are_uniform_and_the_target_is_the_order_of_the_text() -> None:
    case = Case.of(SentenceOrder, {"k": 4, "mlm_weight": 0.0}, **CASE)
    task: Any = case.build()
    x = Text(case.data.batch(1).ids.expand(24_000, -1), case.data.batch(1).lengths.expand(24_000))
    y, number = task.views(x, Rng(0))
    counts = number.bincount(minlength=24)
    # Pearson's statistic with 23 degrees of freedom exceeds 58 once in 10,000.
    assert len(counts) == 24
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 58
    orders = torch.tensor(list(permutations(range(4))))
    some = Text(x.ids[:100], x.lengths[:100])
    spans = sentence_spans(some, task.spec.tables.ends_sentence[some.ids], torch.rand(100, 4))
    assert spans[0].equal(equal_spans(some, 4)[0]), "of too few sentences"
    assert y.ids[:100].equal(permute(some, orders[number[:100]], *spans).ids)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_losses_begin_at_ln_k_factorial_and_ln_v(k: int) -> None:
    case = Case.of(SentenceOrder, {"k": k, "mlm_weight": 0.5}, **CASE)
    task: Any = case.build()
    losses = task(case.views(task, 64))
    order, masked = float(losses.logs["order"]), float(losses.logs["masked"])
    assert abs(order - math.log(math.factorial(k))) < 0.1
    assert abs(masked - math.log(task.spec.vocabulary)) < 0.1
    assert losses.total.item() == pytest.approx(order + 0.5 * masked, rel=1e-5)
