"""The contrastive losses against slow, literal sums in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import nn
from ssl_zoo.nn import contrastive_loss, info_nce, nt_xent, sup_con


def unit(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def literal(
    anchors: Tensor,
    candidates: list[list[Tensor]],
    positives: list[list[int]],
    temperature: float,
    decoupled: bool,
) -> float:
    """Return the formula of `contrastive_loss`, term by term, with a list of candidates per anchor."""
    total = 0.0
    for a, others, mine in zip(anchors, candidates, positives, strict=True):
        scores = [math.exp(float(a @ c) / temperature) for c in others]
        bottom = sum(s for j, s in enumerate(scores) if not (decoupled and j in mine))
        total += sum(-math.log(scores[p] / bottom) for p in mine) / max(1, len(mine))
    return total / len(anchors)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("way", ["column", "labels", "own"])
def test_info_nce_is_its_sum_over_positives_and_candidates(way: str, decoupled: bool) -> None:
    a, c, keys = unit(4, 6, 0), unit(7, 6, 1), unit(4, 6, 2)
    labels = torch.tensor([0, 1, 1, 0, 1, 3, 3])
    excluded = torch.tensor([[1, 6], [0, 5], [2, 6], [4, 1]])
    lists = [[x for j, x in enumerate(c) if j not in out] for out in excluded.tolist()]
    kept = [[j for j in range(7) if j not in out] for out in excluded.tolist()]
    if way == "own":
        lists = [[k, *c] for k in keys]
        positives, positive, given = [[0]] * 4, torch.zeros(4, dtype=torch.long), {"own": keys}
    elif way == "labels":
        positive = torch.tensor([0, 1, 3, 7])  # the last has no positive
        chosen = [[j for j in range(7) if labels[j] == y] for y in positive.tolist()]
        positives = [[k.index(j) for j in js if j in k] for k, js in zip(kept, chosen, strict=True)]
        given = {"labels": labels, "excluded": excluded}
    else:
        positive = torch.tensor([0, 4, 3, 2])
        positives = [[k.index(j)] for k, j in zip(kept, positive.tolist(), strict=True)]
        given = {"excluded": excluded}
    loss = contrastive_loss(a, c, positive, 0.2, decoupled=decoupled, **given)
    assert loss.item() == pytest.approx(literal(a, lists, positives, 0.2, decoupled), rel=1e-12)


def test_nt_xent_decoupled_leaves_the_positive_out_of_the_denominator() -> None:
    z1, z2 = unit(5, 6, 1), unit(5, 6, 2)
    z, n = torch.cat([z1, z2]), 5
    lists = [[x for j, x in enumerate(z) if j != i] for i in range(10)]
    positives = [[(i + n) % 10 - ((i + n) % 10 > i)] for i in range(10)]
    expected = literal(z, lists, positives, 0.3, decoupled=True)
    assert nt_xent(z1, z2, 0.3, decoupled=True).item() == pytest.approx(expected, rel=1e-12)


def test_decoupled_has_the_values_and_the_gradient_of_its_paper() -> None:
    same = unit(1, 8, 0).expand(16, 8)
    assert nt_xent(same, same, 0.1, decoupled=True).item() == pytest.approx(math.log(30))
    aligned = torch.eye(8, dtype=torch.float64)
    assert nt_xent(aligned, aligned, 0.5, True).item() == pytest.approx(-2 + math.log(14))
    # The pull on a positive is -1 / τ, whatever the negatives.
    q, k = unit(3, 5, 1).requires_grad_(), unit(3, 5, 2)
    zeros = torch.zeros(3, dtype=torch.long)
    loss = contrastive_loss(q, unit(9, 5, 3), zeros, 0.2, own=k, decoupled=True)
    without = contrastive_loss(q, unit(9, 5, 3), zeros, 0.2, own=0 * k, decoupled=True)
    pull = torch.autograd.grad(loss, q)[0] - torch.autograd.grad(without, q)[0]
    torch.testing.assert_close(pull, -k / 0.2 / 3)


def test_info_nce_without_a_queue_has_the_other_keys_as_negatives() -> None:
    q, k = unit(6, 5, 1), unit(6, 5, 2)
    expected = literal(q, [list(k)] * 6, [[i] for i in range(6)], 0.2, decoupled=False)
    assert info_nce(q, k, None, 0.2).item() == pytest.approx(expected, rel=1e-12)


def test_sup_con_is_the_papers_mean_over_positives_outside_the_logarithm() -> None:
    views, labels = [unit(5, 6, i) for i in range(3)], torch.tensor([0, 1, 0, 2, 1])
    z, y = torch.cat(views), labels.repeat(3)
    total = 0.0
    for i in range(15):
        bottom = sum(math.exp(float(z[i] @ z[a]) / 0.2) for a in range(15) if a != i)
        mine = [p for p in range(15) if p != i and y[p] == y[i]]
        total -= sum(math.log(math.exp(float(z[i] @ z[p]) / 0.2) / bottom) for p in mine) / len(mine)
    assert sup_con(views, labels, 0.2).item() == pytest.approx(total / 15, rel=1e-12)


def test_sup_con_of_labels_that_all_differ_is_nt_xent() -> None:
    z1, z2 = unit(6, 5, 1), unit(6, 5, 2)
    loss = sup_con([z1, z2], torch.arange(6), 0.3)
    torch.testing.assert_close(loss, nt_xent(z1, z2, 0.3), rtol=1e-12, atol=0)
    one = unit(1, 5, 3).expand(8, 5)
    same = sup_con([one, one], torch.zeros(8, dtype=torch.long), 0.1)
    assert same.item() == pytest.approx(math.log(15))


def test_an_anchor_without_a_positive_counts_as_0_and_is_finite() -> None:
    z = unit(3, 5, 1).requires_grad_()
    loss = sup_con([z], torch.arange(3), 0.1)
    loss.backward()
    assert loss == 0
    assert z.grad is not None
    assert z.grad.eq(0).all()


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: nt_xent(z[:20], z[20:], 0.3, decoupled=True),
        lambda z: sup_con([z[:20], z[20:]], torch.arange(20) % 3, 0.3),
        lambda z: info_nce(z[:20], z[20:], None, 0.3),
    ],
    ids=["decoupled", "sup_con", "keys"],
)
def test_in_parts_a_contrastive_loss_is_that_of_the_whole(
    loss: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z = unit(40, 6, 5).requires_grad_()
    whole = loss(z)
    (gradient,) = torch.autograd.grad(whole, z)
    monkeypatch.setattr(nn, "MAX_SCORES", 200)
    parts = loss(z)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(parts, z)[0], gradient, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_contrastive_loss_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    z1, z2 = (unit(16, 8, i).to(dtype) for i in (1, 2))
    for decoupled in (False, True):
        expected = nt_xent(z1.float(), z2.float(), 0.01, decoupled)
        with torch.autocast("cpu", torch.bfloat16):
            loss = nt_xent(z1, z2, 0.01, decoupled)
        assert loss.dtype == torch.float32
        assert loss.equal(expected)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sup_con([z1, z2], torch.arange(16) % 4, 0.01)
    assert loss.equal(sup_con([z1.float(), z2.float()], torch.arange(16) % 4, 0.01))
