"""BERT: the conformance suite, then what is hidden, what is predicted, and where gradients belong."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from helpers import CASE, MODERN, SmallTexts, small_spec
from ssl_zoo_text.bert import BERT
from ssl_zoo_text.coding import Blocks, encode
from ssl_zoo_text.masking import choose_targets, corrupt, first_of_word, mean_cross_entropy
from ssl_zoo_text.segments import exchange
from ssl_zoo_text.spec import Text, TextSpec
from ssl_zoo_text.tokenizer import CLS, MASK, PAD, SEP, SPECIALS, train_tokenizer

from ssl_zoo import Unsuitable
from ssl_zoo.testing import Case, Check, parametrize_with_checks
from ssl_zoo.views import Rng


@parametrize_with_checks(BERT, **CASE)
def test_conformance(check: Check) -> None:
    check()


@parametrize_with_checks(BERT, **MODERN)
def test_conformance_with_modernbert(check: Check) -> None:
    check()


@parametrize_with_checks(BERT, options={"next_sentence": True, "whole_words": True}, **CASE)
def test_conformance_with_pairs_of_sentences(check: Check) -> None:
    check()


def texts(n: int, length: int = 64, seed: int = 0) -> Text:
    """Return texts [CLS] … [SEP] of random lengths up to `length`."""
    spec = small_spec()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(SPECIALS), spec.vocabulary, (n, length), generator=generator)
    lengths = torch.randint(length // 2, length + 1, (n,), generator=generator)
    ids[:, 0] = CLS
    ids[torch.arange(n), lengths - 1] = SEP
    x = Text(ids, lengths)
    return Text(ids * x.valid(), lengths)


@lru_cache(maxsize=1)
def chinese() -> tuple[Text, TextSpec]:
    """Return 4000 blocks of sentences of 5 to 80 characters without spaces, and their description."""
    draw = random.Random(0)
    characters = [chr(0x4E00 + 7 * k) for k in range(300)]
    shares = [1 / (k + 1) for k in range(300)]
    sentences = ("".join(draw.choices(characters, shares, k=draw.randint(5, 80))) for _ in range(9000))
    text = "。".join(sentences)
    spec = TextSpec(tokenizer=train_tokenizer("bpe", [text[:50_000]], 800))
    blocks = Blocks.of(encode(spec.tokenizer, [text]).ids, spec.length)
    return blocks.batch(torch.arange(4000)), spec


@pytest.mark.parametrize(
    ("source", "whole_words"),
    [
        (lambda: (texts(4000), small_spec()), False),
        (lambda: (texts(4000), small_spec()), True),
        (chinese, True),
    ],
    ids=["tokens", "words", "chinese"],
)
def test_15_percent_are_targets_of_which_80_10_10_percent_are_hidden_replaced_kept(
    source: Callable[[], tuple[Text, TextSpec]], whole_words: bool
) -> None:
    (x, spec), rng = source(), Rng(0)
    targets = choose_targets(x, spec, 0.15, whole_words, rng)
    hidden, number = targets.hidden(x), x.ordinary().sum()
    assert number > 1e5
    assert not (hidden & ~x.ordinary()).any()
    assert abs(hidden.sum() / number - 0.15) < 0.002
    new = corrupt(x, targets, spec, rng).ids
    masked = (new == MASK) & hidden
    changed = (new != x.ids) & ~masked
    assert not (changed & ~hidden).any()
    assert abs(masked.sum() / number - 0.12) < 0.002
    # A random token is the old one once in V times.
    assert abs(changed.sum() / number - 0.015 * (1 - 1 / spec.vocabulary)) < 0.002
    assert not torch.isin(new[changed], torch.arange(len(SPECIALS))).any()
    per_text = torch.stack([masked.sum(1), changed.sum(1)]).float()
    assert per_text[0].std() > 0.5, "drawn for each target, not for each text"
    assert torch.equal(
        x.ids.gather(1, targets.places)[targets.weight > 0], targets.ids[targets.weight > 0]
    )


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_the_pieces_of_a_word_are_targets_together(rate: float) -> None:
    spec = small_spec()
    x = spec.preprocess("unknowable Nebuchadnezzar, said (perhaps).")
    first = first_of_word(x, spec)[0].tolist()
    words: dict[int, list[int]] = {}
    for place, start in enumerate(first[: int(x.lengths)]):
        words.setdefault(start, []).append(int(x.ids[0, place]))
    spelled = [spec.decode(ids) for ids in words.values()]
    expected = ["unknowable", "Nebuchadnezzar", ",", "said", "(", "perhaps", ")", "."]
    assert [word for word in spelled if word] == expected
    for seed in range(50):
        targets = choose_targets(x, spec, rate, True, Rng(seed))
        hidden = targets.hidden(x)[0].tolist()
        for start in words:
            own = [hidden[place] for place, s in enumerate(first[: int(x.lengths)]) if s == start]
            assert len(set(own)) == 1


def test_a_run_without_spaces_is_hidden_in_parts_of_at_most_8_pieces() -> None:
    x, spec = chinese()
    first = first_of_word(x, spec)
    size = torch.zeros_like(first).scatter_add_(1, first, torch.ones_like(first))
    assert size.max() == 8
    for seed in range(5):
        hidden = choose_targets(x, spec, 0.15, True, Rng(seed)).hidden(x)
        number = torch.zeros_like(first).scatter_add_(1, first, hidden.long())
        assert ((number == 0) | (number == size)).all(), "the pieces of a part are targets together"


def test_only_runs_of_more_pieces_than_a_word_has_are_divided() -> None:
    spec = small_spec()  # which spells each of these characters by three pieces, as it knows none
    for characters, firsts in ((5, [3] * 15), (6, [3] * 8 + [11] * 8 + [19] * 2)):
        x = spec.preprocess("(" + "数" * characters + ")")  # behind [CLS], a space and a bracket
        assert first_of_word(x, spec)[0, 3 : 3 + 3 * characters].tolist() == firsts


def test_the_loss_begins_at_ln_v_and_has_a_gradient_at_targets_alone() -> None:
    case = Case.of(BERT, **CASE)
    task: Any = case.build()
    views = case.views(task, 32)
    assert abs(task(views).total.item() - math.log(task.spec.vocabulary)) < 0.1
    logits = torch.randn(3, 7, 11, requires_grad=True, dtype=torch.float64)
    ids, weight = torch.randint(11, (3, 7)), (torch.rand(3, 7) < 0.5).double()
    loss, _ = mean_cross_entropy(logits, ids, weight)
    each = [-logits[b, k].log_softmax(0)[ids[b, k]] for b in range(3) for k in range(7) if weight[b, k]]
    torch.testing.assert_close(loss.double(), sum(each) / len(each), rtol=1e-6, atol=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(-1) > 0).equal(weight > 0)


def test_the_loss_is_that_of_the_targets_at_their_own_places() -> None:
    task: Any = Case.of(BERT, **CASE).build().eval()
    x = texts(6, 32)
    masked, targets = task.views(x, Rng(3))
    states = task.encoder.tokens(masked)
    hidden, each, right = targets.hidden(x), [], []
    for row in range(6):
        for place in range(32):
            if hidden[row, place]:
                scores = task.head(states[row, place], task.encoder.embedding).double()
                each.append(-scores.log_softmax(0)[x.ids[row, place]])
                right.append(int(scores.argmax()) == x.ids[row, place])
    losses = task((masked, targets))
    torch.testing.assert_close(losses.total.double(), torch.stack(each).mean(), rtol=1e-5, atol=1e-5)
    assert float(losses.logs["masked_accuracy"]) == pytest.approx(sum(right) / len(right))
    assert losses.weight is not None
    assert int(losses.weight) == len(each) > 10


def test_second_halves_are_exchanged_between_two_samples_with_labels_that_say_so() -> None:
    ids = torch.arange(5 * 8).view(5, 8) + 10
    own = torch.tensor([True, False, False, True, False])
    x, label = exchange(Text(ids, torch.full((5,), 8)), own)
    assert label.tolist() == [1, 0, 0, 1, 1], "the last has no partner"
    assert (x.ids[:, 4] == SEP).all()
    assert x.ids[:, :4].equal(ids[:, :4])
    for row, source in enumerate([0, 0, 3, 3, 4]):
        assert x.ids[row, 5:].equal(ids[source, 5:])


def test_texts_of_all_lengths_are_cut_at_half_of_their_own() -> None:
    x = texts(40, 31)
    own = torch.rand(40, generator=torch.Generator().manual_seed(0)) < 0.5
    y, label = exchange(x, own)
    assert label.bool().equal(own)
    for row in range(40):
        other = row if own[row] else row ^ 1
        first, second = (x.ids[i, : x.lengths[i]].tolist() for i in (row, other))
        expected = [*first[: len(first) // 2], SEP, *second[len(second) // 2 + 1 :]]
        assert y.lengths[row] == len(expected)
        assert y.ids[row].tolist() == expected + [PAD] * (31 - len(expected))


def test_the_loss_of_pairs_begins_at_ln_2() -> None:
    case = Case.of(BERT, {"next_sentence": True}, **CASE)
    logs = case.build()(case.views(case.build(), 64)).logs
    assert abs(float(logs["next_sentence"]) - math.log(2)) < 0.1


def test_a_causal_network_is_refused() -> None:
    case = Case.of(BERT, data=[SmallTexts("gpt2-tiny")])
    with pytest.raises(Unsuitable, match="a network of the family gpt2; choose bert-micro"):
        case.construct(case.data)
