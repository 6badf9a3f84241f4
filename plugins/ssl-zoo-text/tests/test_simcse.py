"""SimCSE: the conformance suite, what makes the views, and the loss against a literal one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import CASE, MODERN, SmallTexts, small_data
from ssl_zoo_text.segments import split_halves
from ssl_zoo_text.simcse import SimCSE
from ssl_zoo_text.spec import Text
from ssl_zoo_text.tokenizer import CLS, PAD, SEP
from torch import nn

from ssl_zoo.testing import Case, Check, checks_of, parametrize_with_checks
from ssl_zoo.tools.views import NEAREST, columns


@parametrize_with_checks(SimCSE, **CASE)
def test_conformance(check: Check) -> None:
    check()


@parametrize_with_checks(SimCSE, **MODERN)
def test_conformance_with_modernbert(check: Check) -> None:
    check()


@parametrize_with_checks(SimCSE, options={"positive": "halves"}, **CASE)
def test_conformance_with_halves(check: Check) -> None:
    check()


@pytest.mark.slow
def test_a_loss_that_begins_close_to_nothing_falls_on_a_small_batch() -> None:
    (check,) = [c for c in checks_of("simcse") if c.name == "small_batch_overfits"]
    assert check.outcome().status == "passed"


def test_two_passes_differ_by_dropout_and_features_do_not() -> None:
    case = Case.of(SimCSE, **CASE)
    task: Any = case.build()
    assert {m.p for m in task.encoder.modules() if isinstance(m, nn.Dropout)} == {0.1}
    x, again = case.views(task, 16)
    assert x is again
    assert 0.3 < float(task((x, x)).logs["similarity"]) < 0.9999
    task.eval()
    torch.testing.assert_close(task.features(x), task.features(x))
    losses = task((x, x))
    assert float(losses.logs["similarity"]) > 1 - 1e-5
    assert losses.total.item() < math.log(16) + 0.1


def test_the_loss_is_info_nce_of_the_texts_of_the_batch() -> None:
    case = Case.of(SimCSE, {"positive": "halves", "temperature": 0.07}, **CASE)
    task: Any = case.build().eval()
    views = case.views(task, 6)
    first, second = (task.head(task.encoder(x)).double() for x in views)
    losses = []
    for i in range(6):
        scores = [torch.cosine_similarity(first[i], second[j], dim=0) / 0.07 for j in range(6)]
        losses.append(torch.stack(scores).logsumexp(0) - scores[i])
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(task(views).total.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [16, 17])
def test_halves_are_those_of_a_literal_loop(length: int) -> None:
    lengths = torch.arange(3, length + 1)
    ids = torch.arange(len(lengths) * length).view(len(lengths), length) + 10
    x = Text(ids.masked_fill(~Text(ids, lengths).valid(), PAD), lengths)
    halves = split_halves(x)
    for row, n in enumerate(lengths.tolist()):
        body, size = ids[row, 1:n].tolist(), (n - 1) // 2
        for half, part in zip(halves, (body[:size], body[size : 2 * size]), strict=True):
            expected = [CLS, *part, SEP]
            assert half.lengths[row] == len(expected)
            assert half.ids[row].tolist() == expected + [PAD] * (length // 2 + 2 - len(expected))


@pytest.mark.parametrize("backbone", ["bert-tiny", "gpt2-tiny", "xlnet-tiny", "modernbert-tiny"])
def test_two_passes_differ_in_training_alone(backbone: str) -> None:
    case = Case.of(SimCSE, data=[SmallTexts(backbone)])
    task: Any = case.build()
    x, _ = case.views(task, 8)
    assert not task.encoder(x).equal(task.encoder(x))
    task.eval()
    assert task.encoder(x).equal(task.encoder(x))


@pytest.mark.parametrize("positive", ["dropout", "halves"])
def test_pictures_show_which_texts_are_nearest_by_the_embeddings_of_the_loss(positive: str) -> None:
    case = Case.of(SimCSE, {"positive": positive}, **CASE)
    task: Any = case.build()
    shown = columns(task, small_data(), rows=4, seed=1, trained=True)
    view, *others = [name for name in shown if name not in NEAREST and name != "source"][:-1]
    assert [view, *others] == (["text"] if positive == "dropout" else ["first half", "second half"])
    answers: Any = [column for caption, column in shown.items() if "nearest" in caption]
    assert len(answers) == 3
    first = answers[0]
    assert all(answer.shown in shown[others[0] if others else "source"] for answer in first)
    # Dropout makes views differ here as in training, and is the same each time.
    assert all(answer.similarity < 0.9999 for answer in first)
    assert columns(task, small_data(), rows=4, seed=1, trained=True) == shown
    assert not any(part.training for part in task.modules())
    views = case.views(task, 6)
    if positive == "halves":
        z, keys = map(task.compared, views)
        similarity = torch.cosine_similarity(z, keys).mean()
        torch.testing.assert_close(task(views).logs["similarity"], similarity.detach())
