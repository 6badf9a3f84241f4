"""Statistics of a batch of embeddings: covariance, whitening, and regularisers of the distribution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import ssl_zoo.nn
from ssl_zoo import distributed
from ssl_zoo.nn.parts import full_precision, sum_over_rows, unit


def covariance(z: Tensor) -> Tensor:
    """Return the unbiased covariance [D, D] of embeddings over the joint batch, with gradient.

    Cov = Σ_n (z_n - z̄)(z_n - z̄)ᵀ / (N - 1), N the joint number of rows. Source: VICReg,
    arXiv:2105.04906, equation 3.

        c = off_diagonal(covariance(z)).pow(2).sum() / z.shape[1]

    Args:
        z: embeddings [B, D] of this process; B is the same in all.
    """
    with torch.autocast(z.device.type, enabled=False):
        z, n = full_precision(z), len(z) * distributed.world_size()
        z = z - distributed.sum(z.sum(0)) / n
        return distributed.sum(z.T @ z) / max(1, n - 1)


def cross_correlation(z1: Tensor, z2: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the correlation [D, D] of two views' columns over the joint batch, with gradient.

    C = ẑ₁ᵀẑ₂ / N with ẑ the columns at mean 0 and (biased) variance 1, as a batch norm makes them, and
    N the joint number of rows. Source: Barlow Twins, arXiv:2103.03230, equation 2.

        c = cross_correlation(z1, z2)
        loss = (c.diagonal() - 1).pow(2).sum() + 0.0051 * off_diagonal(c).pow(2).sum()

    Args:
        z1: embeddings of the first views [B, D] of this process; B is the same in all.
        z2: embeddings of the second views [B, D], in the same order.
        eps: added to the variances, so that constant columns correlate with nothing.
    """
    n = len(z1) * distributed.world_size()

    def standardise(z: Tensor) -> Tensor:
        z = z - distributed.sum(z.sum(0)) / n
        return z * (distributed.sum(z.pow(2).sum(0)) / n + eps).rsqrt()

    with torch.autocast(z1.device.type, enabled=False):
        a, b = standardise(full_precision(z1)), standardise(full_precision(z2))
        return distributed.sum(a.T @ b) / n


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return the elements off the diagonal of a matrix [D, D], as [D · (D - 1)]."""
    d = len(matrix)
    return matrix.flatten()[1:].view(d - 1, d + 1)[:, :-1].flatten()


def whiten(z: Tensor, eps: float = 0.0) -> Tensor:
    """Return embeddings with mean 0 and the identity as covariance, by Cholesky's factor.

    w = L⁻¹(z - z̄) with LLᵀ = (1 - ε) Cov + ε I, Cov with n - 1; with gradient, in float32. Source:
    W-MSE, arXiv:2007.06346, section 3, and the authors' code. Nothing is gathered: gather the embeddings
    and draw slices of the joint batch before.

        slices = distributed.all_gather(z)[permutation].unflatten(0, (-1, 128))  # [S, 128, D]
        w = whiten(slices)

    Args:
        z: embeddings [..., n, D]; each slice of n rows is whitened by itself.
        eps: ε in [0, 1]. With n ≤ D the covariance is singular, and needs one above 0.

    Raises:
        torch.linalg.LinAlgError: the covariance is singular.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = full_precision(z)
        z = z - z.mean(-2, keepdim=True)
        cov = z.mT @ z / max(1, z.shape[-2] - 1)
        eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        factor = torch.linalg.cholesky((1 - eps) * cov + eps * eye)
        whitened: Tensor = torch.linalg.solve_triangular(factor, z.mT, upper=False).mT
        return whitened


@torch.no_grad()
def principal_components(x: Tensor, number: int, eps: float = 1e-6) -> Tensor:
    """Return the first principal components of rows, each of variance 1 (PCA whitening).

    w = Λ^(-1/2) Vᵀ(x - x̄) with the largest eigenvalues Λ of the covariance, with n - 1, and their
    eigenvectors V. Columns are uncorrelated, so that no direction of much variance decides over
    distances. Source: DeepCluster, arXiv:1807.05520, section 4.1.

        z = principal_components(bank.features, 256)

    Args:
        x: rows [n, D], the same in every process.
        number: d, the number of components, at most D.
        eps: the least variance of a component that is divided by, as a share of the largest.

    Returns:
        [n, d] in float32; double precision stays.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = full_precision(x)
        x = x - x.mean(0)
        variances, axes = torch.linalg.eigh(x.T @ x / max(1, len(x) - 1))  # the largest last
        variances, axes = variances[-number:].flip(0), axes[:, -number:].flip(1)
        least = (eps * variances[0]).clamp(min=torch.finfo(x.dtype).tiny)
        components: Tensor = (x @ axes) * variances.clamp(min=least).rsqrt()
        return components


def koleo(z: Tensor, eps: float = 1e-8) -> Tensor:
    """Return the Kozachenko-Leonenko regulariser, which spreads embeddings over the sphere.

    -mean_i log(‖x_i - x_nn(i)‖ + ε), x = u(z) of unit length, nn(i) the nearest other row of the joint
    batch; in float32, with gradient for both. Negative values are right. Source: DINOv2,
    arXiv:2304.07193, section 4 (there over the batch of one GPU).

        loss = loss + 0.1 * sum(koleo(z) for z in class_tokens)  # one [B, D] for each large crop

    Args:
        z: embeddings [B, D] of this process, of different images; B is the same in all.
        eps: ε, which bounds the value for coinciding rows.

    Returns:
        The mean over this process's rows; 0 if there is no other row at all.
    """
    with torch.autocast(z.device.type, enabled=False):
        x = unit(z)
        joint = distributed.all_gather(x)
        if len(joint) < 2:
            return 0 * x.sum()
        own = distributed.rank() * len(x) + torch.arange(len(x), device=x.device)
        limit = max(1, ssl_zoo.nn.MAX_SCORES // len(joint))
        with torch.no_grad():
            nearest = torch.cat(
                [
                    (rows @ joint.T).scatter(1, itself.unsqueeze(1), -torch.inf).argmax(1)
                    for rows, itself in zip(x.split(limit), own.split(limit), strict=True)
                ]
            )
        distance = torch.linalg.vector_norm(x - joint[nearest], dim=1)
        loss: Tensor = -(distance + eps).log().mean()
        return loss


def sigreg(z: Tensor, directions: Tensor, knots: int = 17, limit: float = 3.0) -> Tensor:
    """Return how far embeddings are from a standard normal distribution, by random projections.

    For a unit direction a: T = N ∫ |φ(t) - e^{-t²/2}|² e^{-t²/2} dt over [-limit, limit], where
    φ(t) = mean_n e^{i t z_n·a} over the N rows of the joint batch (Epps-Pulley). The integral is a
    trapezoidal rule on [0, limit], doubled. Source: LeJEPA, arXiv:2511.08544, section 4, and the
    authors' code. It is 0.4020 · N at z = 0, and 1.0525 on average for a standard normal z.

        directions = rng.shared.normal(1024, width)  # in views: new each step, the same in all processes
        loss = (1 - lam) * invariance + lam * torch.stack([sigreg(z, directions) for z in views]).mean()

    Args:
        z: embeddings [B, D] of this process, not normalised; B is the same in all.
        directions: [M, D] of any length, the same in every process.
        knots: the number of points of the rule.
        limit: the end of the integral.

    Returns:
        The mean over directions, in float32 for half precision.
    """
    with torch.autocast(z.device.type, enabled=False):
        z, n = full_precision(z), len(z) * distributed.world_size()
        axes = F.normalize(directions.to(z.dtype), dim=1).T  # [D, M]
        t = torch.linspace(0, limit, knots, dtype=z.dtype, device=z.device)
        window = (-t.pow(2) / 2).exp()
        steps = torch.full_like(t, 2 * limit / (knots - 1))
        steps[[0, -1]] /= 2

        def moments(z: Tensor) -> Tensor:
            angles = (z @ axes).unsqueeze(-1) * t  # [rows, M, knots]
            return torch.stack([angles.cos().sum(0), angles.sin().sum(0)])

        real, imaginary = distributed.sum(sum_over_rows(moments, z, columns=axes.shape[1] * knots)) / n
        error = (real - window).pow(2) + imaginary.pow(2)  # [M, knots]
        statistic: Tensor = n * (error * window * steps).sum(1)
        return statistic.mean()
