"""The properties that tell a right loss of redundancy reduction from a nearly right one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo_vision.redundancy.barlow_twins import BarlowTwins, barlow_twins_loss
from ssl_zoo_vision.redundancy.lejepa import LeJEPA, invariance
from ssl_zoo_vision.redundancy.tico import SecondMoment, tico_loss
from ssl_zoo_vision.redundancy.vicreg import VICReg, regularisers
from ssl_zoo_vision.redundancy.w_mse import WMSE, w_mse_loss
from tests.vision.small_tasks import build, views


class Constant(torch.nn.Module):
    """A last layer that maps everything to one value."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, z: Tensor) -> Tensor:
        return 0 * z + self.value


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uncorrelated(n: int, d: int) -> Tensor:
    """Columns of mean 0 and variance 1 (biased) that are orthogonal."""
    z = normal(n, d)
    return torch.linalg.qr(z - z.mean(0))[0] * n**0.5


def test_barlow_twins_is_d_for_constant_embeddings_and_0_for_equal_uncorrelated_ones() -> None:
    constant = torch.full((8, 5), 3.0, dtype=torch.float64)
    assert barlow_twins_loss(constant, constant).item() == pytest.approx(5)
    z = uncorrelated(64, 5)
    # 1e-5 of the batch norm's variance remains in C_ii, squared in the loss.
    assert barlow_twins_loss(z, z).item() == pytest.approx(0, abs=1e-8)


def test_barlow_twins_of_equal_columns_is_lambda_d_d_minus_1() -> None:
    z = normal(64, 1).expand(-1, 5)
    assert barlow_twins_loss(z, z, lam=0.01).item() == pytest.approx(0.01 * 5 * 4, rel=1e-4)


def test_barlow_twins_ignores_the_scale_and_shift_of_columns() -> None:
    z1, z2 = normal(64, 5, 1), normal(64, 5, 2)
    scale, shift = 1 + normal(1, 5, 3).abs(), normal(1, 5, 4)
    loss = barlow_twins_loss(100 * z1, 100 * z2)
    torch.testing.assert_close(
        barlow_twins_loss(100 * z1 * scale + shift, 100 * z2), loss, rtol=1e-8, atol=0
    )


@pytest.mark.parametrize(("given", "expected"), [({}, 0.024), ({"bias_rate": 1.0}, 1.0)])
def test_barlow_twins_has_a_rate_of_its_own_for_biases_and_norms(
    given: dict[str, float], expected: float
) -> None:
    task = build(BarlowTwins, hidden=16, out=8, **given)
    rates = {p.ndim == 1: task.lr_scale(name) for name, p in task.named_parameters()}
    assert rates == {True: expected, False: 1.0}


@pytest.mark.parametrize(("variance", "expected"), [(25, 24.75), (50, 49.5)])
def test_vicreg_of_constant_embeddings_is_24_75_and_with_the_papers_weight_49_5(
    variance: float, expected: float
) -> None:
    """A variance of 0 costs 0.99 rather than 1, as 0.0001 is added to it under the root.

    The authors' code halves both views' variance terms, the paper's equation 6 does not.
    """
    task = build(VICReg, hidden=16, out=8, variance=variance)
    task.head = torch.nn.Sequential(task.head, Constant())
    assert task.loss(views(task)).total.item() == pytest.approx(expected)


def test_vicregs_terms_are_those_of_the_unbiased_covariance_over_d() -> None:
    z = 0.1 * normal(16, 4)
    v, c = regularisers(z)
    deviation = (z.var(0) + 1e-4).sqrt()
    assert v.item() == pytest.approx((1 - deviation).clamp(min=0).mean().item())
    cov = torch.cov(z.T)
    assert c.item() == pytest.approx(((cov**2).sum() - (cov.diagonal() ** 2).sum()).item() / 4)


def test_vicreg_ignores_a_constant_that_is_added_to_all_embeddings() -> None:
    z = normal(16, 4)
    torch.testing.assert_close(regularisers(z + normal(1, 4, 1)), regularisers(z))


def test_w_mse_is_unchanged_by_a_triangular_matrix_with_a_positive_diagonal_and_not_by_any_other() -> (
    None
):
    z1, z2, order = normal(64, 4, 1), normal(64, 4, 2), torch.randperm(64)
    z2 = z1 + 0.5 * z2
    general = normal(4, 4, 3) + 3 * torch.eye(4, dtype=torch.float64)
    triangular = general.tril()
    triangular.diagonal().abs_()
    loss = w_mse_loss([z1, z2], order, 32)
    same = w_mse_loss([z1 @ triangular.T, z2 @ triangular.T], order, 32)
    torch.testing.assert_close(same, loss)
    assert (w_mse_loss([z1 @ general.T, z2 @ general.T], order, 32) - loss).abs() > 1e-3


def test_w_mse_of_independent_views_is_about_2() -> None:
    loss = w_mse_loss([normal(4096, 8, 1), normal(4096, 8, 2)], torch.randperm(4096), 128)
    assert loss.item() == pytest.approx(2, abs=0.05)


def test_w_mse_whitens_each_slice_by_itself() -> None:
    z, order = [normal(64, 4, 1), normal(64, 4, 2)], torch.arange(64)
    halves = [w_mse_loss([x[rows] for x in z], order[:32], 32) for rows in (order[:32], order[32:])]
    torch.testing.assert_close(w_mse_loss(z, order, 32), torch.stack(halves).mean())


def test_w_mse_has_a_gradient_on_both_sides() -> None:
    """Detaching one side, as a peer does, leaves another gradient."""
    z1, z2 = normal(16, 4, 1).requires_grad_(), normal(16, 4, 2).requires_grad_()
    order = torch.arange(16)
    both = torch.autograd.grad(w_mse_loss([z1, z2], order, 16), [z1, z2])
    swapped = torch.autograd.grad(w_mse_loss([z2, z1], order, 16), [z1, z2])
    torch.testing.assert_close(both, swapped)
    assert min(gradient.abs().max() for gradient in both) > 1e-4


def test_w_mse_goes_on_where_a_direction_of_the_embedding_has_shrunk_to_nothing() -> None:
    """The loss does not see how long a column is, so nothing keeps it from shrinking."""
    z = [normal(64, 4, seed).float() * torch.tensor([1, 1, 1, 1e-9]) for seed in (1, 2)]
    z = [view @ normal(4, 4, 3).float() for view in z]
    task = build(WMSE)
    assert w_mse_loss(z, torch.arange(64), 32, task.options.eps).isfinite()
    with pytest.raises(torch.linalg.LinAlgError):
        w_mse_loss(z, torch.arange(64), 32, 0.0)


def test_tico_starts_at_a_tenth_of_rho_for_constant_embeddings() -> None:
    z = F.normalize(torch.ones(6, 4), dim=1)
    moment = SecondMoment(4, 0.9)
    assert tico_loss(z, z, moment(z), rho=8).item() == pytest.approx(0.8)
    moment.update()  # twice the same batch: 0.9 · 0.1 + 0.1
    assert tico_loss(z, z, moment(z), rho=8).item() == pytest.approx(0.19 * 8)


def test_ticos_covariance_contrast_of_an_isotropic_batch_is_rho_over_d() -> None:
    z = torch.cat([torch.eye(5), -torch.eye(5)]).double()
    assert tico_loss(z, z, z.T @ z / 10, rho=8).item() == pytest.approx(8 / 5)


def test_ticos_gradient_does_not_go_through_the_second_moment() -> None:
    z = F.normalize(normal(6, 4), dim=1).requires_grad_()
    moment = SecondMoment(4, 0.9).double()
    (gradient,) = torch.autograd.grad(tico_loss(z, z.detach(), moment(z), rho=8), z)
    c = 0.1 * z.T @ z / 6
    torch.testing.assert_close(gradient, ((-z + 16 * z @ c) / 6).detach())


def test_lejepa_pulls_small_crops_to_the_centre_of_the_large_ones() -> None:
    """A centre of the small crops alone is a fault that other implementations had."""
    large, small = [normal(6, 4, 1), normal(6, 4, 2)], normal(6, 4, 3)
    centre = (large[0] + large[1]) / 2
    expected = torch.stack([(z - centre) ** 2 for z in [*large, small]]).mean()
    torch.testing.assert_close(invariance([*large, small], 2), expected)


def test_lejepas_regulariser_is_0_4020_n_for_embeddings_of_0_and_is_taken_of_each_view() -> None:
    task = build(LeJEPA, hidden=16, out=8)
    task.head = torch.nn.Sequential(task.head, Constant(0.0))
    losses = task.loss(views(task, 8))
    assert losses.logs["sigreg"].item() == pytest.approx(0.4020 * 8, rel=1e-3)
    assert losses.total.item() == pytest.approx(0.05 * 0.4020 * 8, rel=1e-3)
