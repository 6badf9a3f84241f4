"""The properties that tell a right loss of redundancy reduction from a nearly right one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssl_zoo_vision.redundancy.barlow_twins import barlow_twins_loss


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
