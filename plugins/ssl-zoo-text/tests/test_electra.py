"""ELECTRA: the conformance suite, the samples, the labels, and where gradients go."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import SmallTexts
from ssl_zoo_text.electra import ELECTRA
from ssl_zoo_text.replacement import sample
from ssl_zoo_text.spec import Text
from ssl_zoo_text.tokenizer import CLS, MASK, PAD, SEP

from ssl_zoo import Unsuitable
from ssl_zoo.testing import Case, Check, parametrize_with_checks

CASE: dict[str, Any] = {
    "backbone": {"name": "electra-tiny"},
    "data": [SmallTexts("electra-tiny"), SmallTexts("modernbert-tiny")],
}


@parametrize_with_checks(ELECTRA, **CASE)
def test_conformance(check: Check) -> None:
    check()


def build(backbone: str = "electra-tiny") -> tuple[Any, Any]:
    case = Case.of(ELECTRA, data=[SmallTexts(backbone)])
    task = case.build()
    return task, case.views(task, 32)


def test_samples_follow_the_softmax() -> None:
    n = 200_000
    logits = torch.tensor(
        [[0.0, 1.0, -30.0, 2.0, 0.5, -torch.inf], [3.0, 3.0, 0.0, 0.0, -1.0, -torch.inf]]
    )
    u = torch.rand(2, n, generator=torch.Generator().manual_seed(0))
    drawn = sample(logits[:, None].expand(2, n, 6), u)
    for row in range(2):
        p = logits[row].double().softmax(0)
        frequency = drawn[row].bincount(minlength=6) / n
        # Five standard deviations of a frequency.
        assert ((frequency - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-9).all()


def test_a_sample_is_the_first_token_whose_sum_exceeds_u() -> None:
    logits = torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = sample(logits, u)
    for b in range(3):
        for k in range(4):
            p, total, token = logits[b, k].softmax(0), 0.0, 0
            while (total := total + float(p[token])) <= u[b, k]:
                token += 1
            assert int(drawn[b, k]) == token
    edge = torch.tensor([0.0, 1 - 2**-24])
    never = torch.tensor([-torch.inf, 0.0, 0.0])
    assert sample(never.expand(2, 3), edge).tolist() == [1, 2], "a token of probability 0"


@pytest.mark.parametrize("backbone", ["electra-tiny", "bert-tiny", "modernbert-tiny"])
def test_the_losses_begin_at_ln_v_and_ln_2(backbone: str) -> None:
    task, views = build(backbone)
    losses = task(views)
    mlm, disc = (float(losses.logs[name]) for name in ("generator", "discriminator"))
    assert abs(mlm - math.log(task.spec.vocabulary)) < 0.1
    assert abs(disc - math.log(2)) < 0.05
    assert losses.total.item() == pytest.approx(mlm + 5 * disc, rel=1e-5)


def test_all_targets_are_masked_and_a_sample_equal_to_the_original_is_labelled_original() -> None:
    task, (masked, targets, u) = build()
    assert (masked.ids == MASK).equal(targets.hidden(masked))

    def replaced(tokens: torch.Tensor) -> float:
        # A generator that is sure of these tokens draws them, whatever u is.
        one_hot = torch.nn.functional.one_hot(tokens, task.spec.vocabulary) * 1e3
        task.generate = lambda *_: one_hot
        return float(task((masked, targets, u)).logs["replaced"])

    assert replaced(targets.ids) == 0
    share = float(targets.weight.sum() / targets.put(masked, targets.ids).ordinary().sum())
    other = 5 + (targets.ids - 4) % (task.spec.vocabulary - 5)
    assert replaced(other) == pytest.approx(share)


def test_the_discriminator_is_asked_about_every_token_of_the_text_and_no_padding() -> None:
    task, (masked, targets, u) = build()
    task.eval()
    lengths = torch.arange(len(masked.ids)) % 20 + 8
    masked = Text(masked.ids * Text(masked.ids, lengths).valid(), lengths)
    targets = targets._replace(weight=targets.weight * (targets.places < lengths[:, None]))
    original = targets.put(masked, targets.ids)
    seen = targets.put(masked, sample(task.generate(masked, targets), u))
    scores = task.head(task.encoder.tokens(seen))[..., 0].double()
    each, right = [], []
    for row, length in enumerate(lengths.tolist()):
        for place in range(length):
            if original.ids[row, place] not in (CLS, SEP):
                replaced = bool(seen.ids[row, place] != original.ids[row, place])
                p = scores[row, place].sigmoid()  # that it is replaced
                each.append(-(p if replaced else 1 - p).log())
                right.append(bool(p > 0.5) == replaced)
    logs = task((masked, targets, u)).logs
    torch.testing.assert_close(
        logs["discriminator"].double(), torch.stack(each).mean(), rtol=1e-5, atol=1e-5
    )
    assert float(logs["discriminator_accuracy"]) == pytest.approx(sum(right) / len(right))
    assert float(logs["replaced"]) > 0.05
    assert (original.ids == SEP).any()


def test_the_discriminator_has_no_gradient_to_the_generator() -> None:
    task, views = build()
    own = {id(p) for p in task.generator.parameters()} - {id(p) for p in task.encoder.parameters()}
    rest = [*task.token_head.parameters(), *(p for p in task.parameters() if id(p) in own)]
    grads = []
    for weight in (1.0, 50.0):
        task.options = task.options.model_copy(update={"weight": weight})
        grads.append(torch.autograd.grad(task(views).total, rest, allow_unused=True))
    assert any(g is not None and g.abs().sum() > 0 for g in grads[0])
    for one, fifty in zip(*grads, strict=True):
        assert (one is None and fifty is None) or one.equal(fifty)


def test_the_generator_is_narrower_and_shares_embeddings() -> None:
    for backbone in ("electra-tiny", "bert-tiny", "modernbert-tiny"):
        task, _ = build(backbone)
        assert task.generator.width == task.encoder.width // 2
        assert task.generator.embedding.weight is task.encoder.embedding.weight
        assert len(task.generator.parameter_layers()) == len(task.encoder.parameter_layers())
        assert task.exported_encoder is task.encoder


def test_padding_adds_nothing() -> None:
    task, (masked, targets, u) = build()
    lengths = torch.full_like(masked.lengths, 20)
    x = Text(masked.ids * Text(masked.ids, lengths).valid(), lengths)
    targets = targets._replace(weight=targets.weight * (targets.places < 20))
    assert (x.ids[:, 20:] == PAD).all()
    short = task((x, targets, u))
    padded = task((task.spec.pad(x, 9), targets, u))
    torch.testing.assert_close(padded.total, short.total)


def test_a_causal_network_is_refused() -> None:
    case = Case.of(ELECTRA, data=[SmallTexts("gpt2-tiny")])
    with pytest.raises(Unsuitable, match="a network of the family gpt2; choose modernbert-micro"):
        case.construct(case.data)
