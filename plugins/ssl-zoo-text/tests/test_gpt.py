"""GPT: the conformance suite, causality, the one shift, and bits per byte by counting."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import OPTIONS, SmallTexts, small_data
from ssl_zoo_text.corpus import build
from ssl_zoo_text.gpt import GPT
from ssl_zoo_text.kjv import chapters
from ssl_zoo_text.likelihood import LIKELIHOOD, measure
from ssl_zoo_text.spec import Text
from ssl_zoo_text.tokenizer import CLS, SEP, SPECIALS, parse

from ssl_zoo import Rng, Unsuitable
from ssl_zoo.backbones.build import create_encoder
from ssl_zoo.config.schema import DataConfig, TrainConfig
from ssl_zoo.evaluation import Subject, scored_protocols
from ssl_zoo.runtime.device import Device
from ssl_zoo.testing import Case, Check, checks_of, parametrize_with_checks

CASE: dict[str, Any] = {"backbone": {"name": "gpt2-tiny"}, "data": [SmallTexts("gpt2-tiny")]}


@parametrize_with_checks(GPT, **CASE)
def test_conformance(check: Check) -> None:
    check()


@pytest.mark.slow
def test_the_default_network_tells_texts_apart_after_it_has_learnt_the_frequencies_of_tokens() -> None:
    (check,) = [c for c in checks_of("gpt") if c.name == "representations_do_not_collapse"]
    assert check.outcome().status == "passed"


def task_and_batch() -> tuple[Any, Text]:
    case = Case.of(GPT, **CASE)
    return case.build().eval(), case.data.batch(8)


def test_logits_before_a_token_do_not_depend_on_it_and_those_behind_do() -> None:
    task, x = task_and_batch()
    for j in (1, 13, x.ids.shape[1] - 2):
        ids = x.ids.clone()
        ids[:, j] = (ids[:, j] + 7) % task.spec.vocabulary
        change = (task.logits(Text(ids, x.lengths)) - task.logits(x)).abs().amax((0, 2))
        # Row t of the logits predicts token t + 1, from tokens up to t.
        assert change[:j].max() < 1e-5
        assert (change[j:] > 1e-5).all()


def test_the_loss_begins_at_ln_v_and_is_that_of_one_shift() -> None:
    task, x = task_and_batch()
    losses = task((x,))
    assert abs(losses.total.item() - math.log(task.spec.vocabulary)) < 0.1
    states = task.encoder.tokens(x).double()
    weight = task.encoder.embedding.weight.double()
    each = [
        -(states[b, t] @ weight.T).log_softmax(0)[x.ids[b, t + 1]]
        for b in range(len(x.ids))
        for t in range(x.ids.shape[1] - 1)
    ]
    torch.testing.assert_close(losses.total.double(), sum(each) / len(each), rtol=1e-5, atol=1e-5)


DEVICE = Device.choose(TrainConfig(device="cpu"))


def bits_per_byte_by_counting(log_p: dict[int, float]) -> float:
    """Return the bits per byte of the small corpus under a unigram model, token by token."""
    data = small_data()
    assert data.test is not None
    nats, number = 0.0, 0
    for ids, length in zip(*data.test.batch(torch.arange(len(data.test))), strict=True):
        assert ids[int(length) - 1] == SEP
        spelled = ids[1 : int(length) - 1].tolist()
        nats -= sum(log_p[token] for token in spelled)
        number += len(parse(data.spec.tokenizer).decode(spelled).encode())  # type: ignore[attr-defined]
    return nats / math.log(2) / number


def test_bits_per_byte_of_a_unigram_model_are_those_of_counting() -> None:
    task, _ = task_and_batch()
    log_p = torch.randn(task.spec.vocabulary).log_softmax(0)

    def unigram(x: Text) -> torch.Tensor:
        return log_p.expand(len(x.ids), x.ids.shape[1] - 1, -1)

    task.logits = unigram
    score = measure(Subject.of_task(task, small_data(), DEVICE))
    expected = bits_per_byte_by_counting(dict(enumerate(log_p.tolist())))
    assert score["bits-per-byte"] == pytest.approx(expected, rel=1e-5)


def test_the_bag_of_words_has_the_bits_per_byte_of_the_frequencies_trained_on() -> None:
    data, (task, _) = small_data(), task_and_batch()
    total = sum(task.spec.counts) + task.spec.vocabulary
    # Some tokens do not occur alone: their parts were joined to longer ones.
    assert 0 in task.spec.counts[len(SPECIALS) :]
    log_p = {v: math.log((1 + n) / total) for v, n in enumerate(task.spec.counts)}
    raw = Subject.raw(data, DEVICE)
    assert raw is not None
    score = LIKELIHOOD(raw)["bits-per-byte"]
    assert score == pytest.approx(bits_per_byte_by_counting(log_p), rel=1e-5)

    def unigram(x: Text) -> torch.Tensor:
        nats = torch.tensor([log_p[v] for v in range(task.spec.vocabulary)])
        return nats.expand(len(x.ids), x.ids.shape[1] - 1, -1)

    task.logits = unigram
    assert LIKELIHOOD(Subject.of_task(task, data, DEVICE))["bits-per-byte"] == pytest.approx(score)


def test_what_has_no_bits_per_byte_has_one_line_that_says_what_to_do() -> None:
    data, (task, _) = small_data(), task_and_batch()
    network = Subject.of_encoder(task.encoder, data, DEVICE, "random-init")
    untested = Subject.of_task(task, replace(data, test=None), DEVICE)
    uncounted = Subject.raw(replace(data, spec=replace(task.spec, counts=())), DEVICE)
    assert uncounted is not None
    for subject, reason in [
        (network, "random-init is a network without a head; evaluate a run of gpt"),
        (untested, "small has no text that was not trained on; raise data.holdout"),
        (uncounted, "how often the tokens of small occur is unknown; evaluate a run"),
    ]:
        assert LIKELIHOOD.no_scores(subject) == reason
        assert LIKELIHOOD(subject) == {}
        assert scored_protocols(["likelihood", "health"], subject) == ["health"]
    language_model = Subject.of_task(task, data, DEVICE)
    assert scored_protocols(["likelihood", "health"], language_model) == ["likelihood", "health"]


def test_sep_between_documents_has_a_likelihood_and_at_the_end_none() -> None:
    task, _ = task_and_batch()
    nats = torch.arange(1.0, task.spec.vocabulary + 1)
    ids = torch.tensor([[CLS, 9, SEP, 7, SEP, 0], [CLS, 9, SEP, 7, 8, 0], [CLS, SEP, 0, 0, 0, 0]])
    x = Text(ids, torch.tensor([5, 5, 2]))
    # Logits of which every token v has the nats v + 1 + log Σ exp(-n).
    task.logits = lambda x: -nats.expand(len(x.ids), x.ids.shape[1] - 1, -1)
    normaliser = float((-nats).logsumexp(0))
    expected = [sum(nats[i] + normaliser for i in row) for row in ([9, SEP, 7], [9, SEP, 7, 8], [])]
    torch.testing.assert_close(task.likelihood(x)[:, 0], torch.tensor(expected))


def test_tokens_that_do_not_spell_bytes_have_no_bits_per_byte() -> None:
    # WordPiece lowers case and strips accents, so that its tokens do not give the text back.
    options = OPTIONS.model_copy(update={"tokenizer": "wordpiece"})
    data = build("small", chapters()[::60], DataConfig(), torch.device("cpu"), options)
    assert data.spec.show(data.spec.preprocess("Caf\N{LATIN SMALL LETTER E WITH ACUTE}")) == ["cafe"]
    encoder: Any = create_encoder(SmallTexts("gpt2-tiny").config, data.spec)
    spec: Any = data.spec
    task = GPT(encoder, GPT.Options(), spec)
    assert task(task.views(data.train.batch(torch.arange(4)), Rng(0))).logs.keys() == {
        "next_token_accuracy"
    }
    subject = Subject.of_task(task, data, DEVICE)
    assert LIKELIHOOD(subject) == {}
    assert LIKELIHOOD.no_scores(subject).startswith("tokens of small spell no bytes; train with")
    with pytest.raises(TypeError, match="not made of bytes"):
        task.likelihood(data.train.batch(torch.arange(4)))


def test_a_network_that_sees_both_sides_is_refused() -> None:
    case = Case.of(GPT, data=[SmallTexts()])
    with pytest.raises(Unsuitable, match="a network of the family bert; choose gpt2-micro"):
        case.construct(case.data)
