"""Statistics of a batch of embeddings against slow, literal sums in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import nn
from ssl_zoo.nn import covariance, cross_correlation, koleo, off_diagonal, sigreg, whiten


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_covariance_is_the_unbiased_one_and_ignores_a_shift() -> None:
    z = normal(9, 4)
    expected = torch.from_numpy(np.cov(z.numpy().T))
    torch.testing.assert_close(covariance(z), expected)
    torch.testing.assert_close(covariance(z + 5), expected)
    assert covariance(z[:1]).eq(0).all()


def test_what_is_off_the_diagonal_is_all_but_the_diagonal() -> None:
    matrix = torch.arange(9.0).view(3, 3)
    assert off_diagonal(matrix).tolist() == [1, 2, 3, 5, 6, 7]
    assert off_diagonal(torch.ones(1, 1)).numel() == 0


def test_a_cross_correlation_is_that_of_each_pair_of_columns() -> None:
    a, b = normal(12, 3), normal(12, 3, seed=1)
    for i in range(3):
        for j in range(3):
            expected = np.corrcoef(a[:, i].numpy(), b[:, j].numpy())[0, 1]
            assert cross_correlation(a, b, eps=0)[i, j].item() == pytest.approx(expected, rel=1e-12)
    scaled = a * torch.tensor([2.0, 0.5, 7.0]) + 3
    torch.testing.assert_close(cross_correlation(scaled, b, eps=0), cross_correlation(a, b, eps=0))
    # Constant columns correlate with nothing, nor with themselves.
    assert cross_correlation(torch.ones(8, 3), torch.ones(8, 3)).eq(0).all()


def test_whitened_embeddings_have_the_identity_as_covariance_in_each_slice() -> None:
    z = normal(2, 32, 6) @ normal(6, 6, seed=1) + 3
    for part in whiten(z):
        torch.testing.assert_close(covariance(part), torch.eye(6, dtype=torch.float64))
        torch.testing.assert_close(part.mean(0), torch.zeros(6, dtype=torch.float64))


def test_whitening_is_by_the_inverse_of_choleskys_factor() -> None:
    z = normal(20, 3)
    cov = np.cov(z.numpy().T)
    factor = np.linalg.cholesky(0.9 * cov + 0.1 * np.eye(3))
    expected = np.linalg.solve(factor, (z - z.mean(0)).numpy().T).T
    torch.testing.assert_close(whiten(z, eps=0.1), torch.from_numpy(expected))
    # A lower-triangular map with a positive diagonal is undone.
    lower = normal(3, 3, seed=1).tril(-1) + torch.diag(torch.tensor([0.5, 2.0, 3.0]).double())
    torch.testing.assert_close(whiten(z @ lower.T), whiten(z))


def test_two_samples_can_be_whitened_with_an_epsilon_and_in_half_precision() -> None:
    z = normal(2, 4).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        w = whiten(z, eps=0.01)
    assert w.dtype == torch.float32
    w.pow(2).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def literal_koleo(z: Tensor) -> float:
    x = [row / row.norm() for row in z]
    nearest = [min(float((a - b).norm()) for b in x if b is not a) for a in x]
    return -sum(math.log(d + 1e-8) for d in nearest) / len(x)


def test_koleo_is_the_mean_logarithm_of_the_distance_to_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    z = normal(11, 4)
    assert koleo(z).item() == pytest.approx(literal_koleo(z), rel=1e-9)
    monkeypatch.setattr(nn, "MAX_SCORES", 30)
    assert koleo(z).item() == pytest.approx(literal_koleo(z), rel=1e-9)


def test_koleo_has_its_known_values() -> None:
    assert koleo(torch.eye(5).double()).item() == pytest.approx(-math.log(2) / 2)
    # With a diagonal of -1, each of two antipodes would be its own neighbour.
    antipodes = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    assert koleo(antipodes).item() == pytest.approx(-math.log(2))
    assert koleo(antipodes[:1]) == 0


def test_koleo_of_duplicates_in_half_precision_is_finite_with_its_gradient() -> None:
    z = torch.ones(4, 8, dtype=torch.bfloat16, requires_grad=True)
    loss = koleo(z)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8))
    assert z.grad is not None
    assert z.grad.isfinite().all()


def literal_sigreg(z: Tensor, directions: Tensor) -> float:
    """Return the mean over directions of the trapezoidal rule over [-3, 3], point by point."""
    t = np.linspace(-3, 3, 33)
    window, total = np.exp(-(t**2) / 2), 0.0
    for a in directions.numpy():
        x = z.numpy() @ (a / np.linalg.norm(a))
        pairs = zip(t, window, strict=True)
        error = [abs(np.exp(1j * s * x).mean() - w) ** 2 * w for s, w in pairs]
        total += len(z) * sum((u + v) / 2 * (t[1] - t[0]) for u, v in pairwise(error))
    return total / len(directions)


def test_sigreg_is_the_weighted_distance_of_characteristic_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    z, directions = 1.5 * normal(10, 4) + 0.3, normal(7, 4, seed=1)
    expected = literal_sigreg(z, directions)
    assert sigreg(z, directions).item() == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(nn, "MAX_SCORES", 300)
    assert sigreg(z, directions).item() == pytest.approx(expected, rel=1e-12)


def test_sigreg_has_its_known_values() -> None:
    directions = normal(256, 8, seed=1)
    assert sigreg(torch.zeros(50, 8).double(), directions).item() == pytest.approx(0.4020 * 50, rel=1e-3)
    values = [sigreg(normal(256, 8, seed=s), directions).item() for s in range(20)]
    assert np.mean(values) == pytest.approx(1.0525, abs=0.1)
    assert sigreg(2 * normal(256, 8), directions).item() == pytest.approx(63, abs=4)


@pytest.mark.parametrize("name", ["koleo", "whiten", "sigreg", "covariance", "cross_correlation"])
def test_gradients_of_moments_are_those_of_finite_differences(name: str) -> None:
    functions = {
        "koleo": koleo,
        "whiten": lambda z: whiten(z, 0.1),
        "sigreg": lambda z: sigreg(z, normal(3, 3, seed=2)),
        "covariance": covariance,
        "cross_correlation": lambda z: cross_correlation(z, F.normalize(z, dim=1)),
    }
    assert torch.autograd.gradcheck(functions[name], normal(5, 3).requires_grad_())
