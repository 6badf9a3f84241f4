"""Each loss against a slow, literal float64 reading of its paper's formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_zoo import nn
from ssl_zoo.nn import byol_loss, info_nce, nt_xent
from ssl_zoo_vision.masked.context import reconstruction_loss, weights
from tests.memory import Largest


def unit(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1)


def literal_nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> float:
    """Equation 1 of Chen et al. 2020, term by term: pairs (2k-1, 2k), a sum over k ≠ i."""
    z = [row for pair in zip(z1.tolist(), z2.tolist(), strict=True) for row in pair]

    def sim(u: list[float], v: list[float]) -> float:
        dot = sum(a * b for a, b in zip(u, v, strict=True))
        return dot / math.sqrt(sum(a * a for a in u)) / math.sqrt(sum(b * b for b in v))

    def ell(i: int, j: int) -> float:
        top = math.exp(sim(z[i], z[j]) / temperature)
        bottom = sum(math.exp(sim(z[i], z[k]) / temperature) for k in range(len(z)) if k != i)
        return -math.log(top / bottom)

    n = len(z1)
    return sum(ell(2 * k, 2 * k + 1) + ell(2 * k + 1, 2 * k) for k in range(n)) / (2 * n)


def literal_info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> float:
    """Equation 1 of He et al. 2019: the sum runs over one positive and K negatives."""
    total = 0.0
    for query, key in zip(q.tolist(), k.tolist(), strict=True):
        scores = [
            math.exp(sum(a * b for a, b in zip(query, other, strict=True)) / temperature)
            for other in [key, *queue.tolist()]
        ]
        total -= math.log(scores[0] / sum(scores))
    return total / len(q)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_nt_xent_is_the_papers_double_sum(n: int, temperature: float) -> None:
    z1, z2 = unit(n, 5, 1), unit(n, 5, 2)
    expected = literal_nt_xent(z1, z2, temperature)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_nt_xent_of_coinciding_embeddings_is_log_2n_minus_1() -> None:
    z = unit(1, 8, 0).expand(16, 8)
    assert nt_xent(z, z, 0.1).item() == pytest.approx(math.log(31))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 1000))
def test_nt_xent_ignores_the_order_of_pairs_and_of_views(order: list[int], seed: int) -> None:
    z1, z2 = unit(6, 4, seed), unit(6, 4, seed + 1)
    loss = nt_xent(z1, z2, 0.5)
    torch.testing.assert_close(nt_xent(z1[order], z2[order], 0.5), loss)
    torch.testing.assert_close(nt_xent(z2, z1, 0.5), loss)


def plain_nt_xent(z1: Tensor, z2: Tensor) -> Tensor:
    return nt_xent(z1, z2, 0.3)


def plain_info_nce(q: Tensor, k: Tensor) -> Tensor:
    return info_nce(q, k, unit(500, q.shape[1], 9, q.dtype), 0.3)


@pytest.mark.parametrize("loss", [plain_nt_xent, plain_info_nce])
def test_in_parts_a_loss_has_the_value_and_gradient_of_the_whole(
    loss: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = unit(37, 6, 5).requires_grad_(), unit(37, 6, 6).requires_grad_()
    whole = loss(a, b)
    gradients = torch.autograd.grad(whole, [a, b], allow_unused=True)
    monkeypatch.setattr(nn, "MAX_SCORES", 1000)
    parts = loss(a, b)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    in_parts = torch.autograd.grad(parts, [a, b], allow_unused=True)
    torch.testing.assert_close(in_parts, gradients, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("loss", ["nt_xent", "info_nce"])
def test_a_batch_of_4096_never_holds_its_whole_matrix(loss: str) -> None:
    a, b = (unit(4096, 4, seed, torch.float32).requires_grad_() for seed in (1, 2))
    with Largest() as largest:
        if loss == "nt_xent":
            nt_xent(a, b, 0.1).backward()
        else:
            info_nce(a, b.detach(), unit(65536, 4, 3, torch.float32), 0.1).backward()
    assert largest.elements <= nn.MAX_SCORES


def test_nt_xent_ignores_a_rotation_of_all_embeddings() -> None:
    z1, z2 = unit(6, 4, 3), unit(6, 4, 4)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    torch.testing.assert_close(nt_xent(z1 @ turn, z2 @ turn, 0.5), nt_xent(z1, z2, 0.5))


def test_nt_xent_pulls_positives_and_pushes_negatives() -> None:
    z1, z2 = unit(4, 8, 5).requires_grad_(), unit(4, 8, 6)
    nt_xent(z1, z2, 0.5).backward()
    before = nt_xent(z1, z2, 0.5)
    closer = F.normalize(z1.detach() - 0.1 * z1.grad, dim=1)
    assert nt_xent(closer, z2, 0.5) < before


@pytest.mark.parametrize("temperature", [0.07, 0.2])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_info_nce_is_the_papers_sum_over_the_queue(size: int, temperature: float) -> None:
    q, k, queue = unit(3, 6, 1), unit(3, 6, 2), unit(size, 6, 3)
    expected = literal_info_nce(q, k, queue, temperature)
    assert info_nce(q, k, queue, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_info_nce_ignores_the_order_of_the_queue() -> None:
    q, k, queue = unit(3, 6, 1), unit(3, 6, 2), unit(9, 6, 3)
    torch.testing.assert_close(info_nce(q, k, queue.flip(0), 0.2), info_nce(q, k, queue, 0.2))


def test_byol_loss_is_the_squared_distance_of_normalised_vectors() -> None:
    p = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 0.0
    for u, v in zip(p.tolist(), t.tolist(), strict=True):
        nu, nv = math.hypot(*u), math.hypot(*v)
        expected += sum((a / nu - b / nv) ** 2 for a, b in zip(u, v, strict=True))
    assert byol_loss(p, t).item() == pytest.approx(expected / 7, rel=1e-12)
    torch.testing.assert_close(
        byol_loss(p, 3 * p), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(byol_loss(p, -p), torch.tensor(4.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: nt_xent(F.normalize(a, dim=1), F.normalize(b, dim=1), 0.5),
        lambda a, b: info_nce(F.normalize(a, dim=1), F.normalize(b, dim=1), unit(5, 4, 9), 0.2),
        byol_loss,
        lambda a, b: reconstruction_loss(
            a.view(2, 1, 3, 2),
            b.view(2, 1, 3, 2),
            torch.rand(2, 1, 3, 2, dtype=torch.float64) + 0.1,
        ),
    ],
    ids=["nt_xent", "info_nce", "byol", "reconstruction"],
)
def test_gradients_are_those_of_finite_differences(loss) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    state = torch.get_rng_state()

    def seeded(x: Tensor, y: Tensor) -> Tensor:
        torch.set_rng_state(state)
        return loss(x, y)

    assert torch.autograd.gradcheck(seeded, (a, b))


def test_the_band_around_the_hole_weighs_more_and_the_rest_nothing() -> None:
    hidden = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    hidden[..., 3:6, 3:6] = True
    weight = weights(hidden, 1, 10.0)
    assert weight[0, 0, 4].tolist() == [0, 0, 10, 1, 1, 1, 10, 0, 0]
    assert weight[0, 0, 2].tolist() == [0, 0, 10, 10, 10, 10, 10, 0, 0]
    assert weight.sum() == 9 + 16 * 10


def test_reconstruction_is_the_mean_squared_error_over_the_hidden_pixels_alone() -> None:
    x, painted = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    hidden = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    hidden[0, :, 2:6, 2:6] = True
    hidden[1, :, :3, :5] = True
    total, count = 0.0, 0
    for b, c, i, j in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        if hidden[b, 0, i, j]:
            total += float(x[b, c, i, j] - painted[b, c, i, j]) ** 2
            count += 1
    loss = reconstruction_loss(x, painted, weights(hidden, 0, 10.0))
    assert loss.item() == pytest.approx(total / count, rel=1e-5)
    elsewhere = torch.where(hidden, painted, painted + 5)
    torch.testing.assert_close(reconstruction_loss(x, elsewhere, weights(hidden, 0, 10.0)), loss)
