"""Sentence order: the conformance suite, the permutations, and what they leave unsaid."""

from __future__ import annotations

import math
from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
from helpers import CASE
from ssl_zoo_text.segments import permute
from ssl_zoo_text.sentence_order import SentenceOrder
from ssl_zoo_text.spec import Text
from ssl_zoo_text.tokenizer import CLS, PAD, SEP

from ssl_zoo.testing import Case, Check, parametrize_with_checks
from ssl_zoo.views import Rng


@parametrize_with_checks(SentenceOrder, **CASE)
def test_conformance(check: Check) -> None:
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
    y = permute(x, order)
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


def literal_spans(body: list[int], ends: list[bool], k: int, room: int) -> list[list[int]] | None:
    """Return k segments of whole sentences of the tokens behind [CLS], None if there are too few."""
    cuts = [i + 1 for i, end in enumerate(ends) if end]
    if not cuts or cuts[-1] - cuts[0] + k > room:
        return None
    ideal = [cuts[0] + (cuts[-1] - cuts[0]) * i / k for i in range(k + 1)]
    chosen = [min(cuts, key=lambda cut: abs(cut - share)) for share in ideal]
    segments = [body[a:b] for a, b in pairwise(chosen)]
    return segments if all(segments) else None


@pytest.mark.parametrize("k", [2, 3, 4])
def test_segments_are_whole_sentences_where_there_are_enough(k: int) -> None:
    x = texts(200, 37)
    ends = torch.rand(x.ids.shape, generator=torch.Generator().manual_seed(k)) < 0.15
    ends[:, 0] = False
    order = torch.stack([torch.randperm(k) for _ in range(200)])
    y, equal, number = permute(x, order, ends), permute(x, order), 0
    for row in range(200):
        length = int(x.lengths[row])
        body, inner = x.ids[row, 1:length].tolist(), ends[row, 1:length].tolist()
        segments = literal_spans(body, inner, k, length)
        if segments is None:
            assert y.ids[row].equal(equal.ids[row])
            assert y.lengths[row] == equal.lengths[row]
            continue
        number += 1
        expected = [CLS]
        for place, segment in enumerate(order[row].tolist()):
            expected += ([SEP] if place else []) + segments[segment]
        assert int(y.lengths[row]) == len(expected)
        assert y.ids[row].tolist() == expected + [PAD] * (37 - len(expected))
    assert 20 < number < 200


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_inverse_order_restores_the_block_and_no_order_moves_sep(k: int) -> None:
    x = texts(30, 41)
    same = torch.arange(k).expand(30, k)
    plain = permute(x, same)
    for order in permutations(range(k)):
        drawn = torch.tensor(order).expand(30, k)
        y = permute(x, drawn)
        assert (y.ids == SEP).equal(plain.ids == SEP)
        assert y.lengths.equal(plain.lengths)
        restored = permute(y, drawn.argsort(1))
        assert restored.ids.equal(plain.ids)


def test_padding_adds_nothing() -> None:
    x = texts(20, 33)
    order = torch.stack([torch.randperm(3) for _ in range(20)])
    wide = Text(torch.nn.functional.pad(x.ids, (0, 9), value=PAD), x.lengths)
    narrow, padded = permute(x, order), permute(wide, order)
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
    ends = task.spec.tables.ends_sentence[some.ids]
    assert y.ids[:100].equal(permute(some, orders[number[:100]], ends).ids)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_losses_begin_at_ln_k_factorial_and_ln_v(k: int) -> None:
    case = Case.of(SentenceOrder, {"k": k, "mlm_weight": 0.5}, **CASE)
    task: Any = case.build()
    losses = task(case.views(task, 64))
    order, masked = float(losses.logs["order"]), float(losses.logs["masked"])
    assert abs(order - math.log(math.factorial(k))) < 0.1
    assert abs(masked - math.log(task.spec.vocabulary)) < 0.1
    assert losses.total.item() == pytest.approx(order + 0.5 * masked, rel=1e-5)
