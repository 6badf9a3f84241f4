"""Autoencoders: the losses of networks whose output is known, and what evaluation sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ssl_zoo import Encoder, ImageSpec, Rng, Unsuitable
from ssl_zoo.testing import Check, parametrize_with_checks
from ssl_zoo_vision.generative.autoencoder import Autoencoder
from ssl_zoo_vision.generative.gaussian import GaussianCode, kl_from_standard
from tests.vision.small_tasks import build, photos, views

SMALL = {"hidden": 32}
VARIATIONAL = {"kind": "variational", "latent": 16, **SMALL}


@parametrize_with_checks(Autoencoder, options=SMALL)
def test_denoising_autoencoder(check: Check) -> None:
    check()


@parametrize_with_checks(Autoencoder, options={**VARIATIONAL, "evaluate_mean": True})
def test_variational_autoencoder(check: Check) -> None:
    check()


class Pixels(Encoder):
    """All pixels of an image as its features."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.width = spec.channels * spec.height * spec.width

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def feature_map(
        self, x: Tensor, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> Tensor:
        return x


class MeanColour(Encoder):
    """The mean colour of an image as its features, whatever its size."""

    width = 3

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def feature_map(
        self, x: Tensor, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> Tensor:
        return x


def square(size: int) -> ImageSpec:
    return ImageSpec(channels=3, size=size, mean=(0.5,) * 3, std=(0.25,) * 3)


def test_the_loss_of_a_network_that_changes_nothing_is_the_variance_of_the_noise() -> None:
    spec = square(8)
    task = Autoencoder(Pixels(spec), Autoencoder.Options(noise=0.3), spec)
    task.decoder = nn.Sequential(nn.Unflatten(1, (3, 8, 8)))
    x, noisy = task.views(photos(64), Rng(0))
    torch.testing.assert_close(task.loss((x, noisy)).total, (noisy - x).square().mean())
    assert task.loss((x, noisy)).total.item() == pytest.approx(0.09, rel=0.03)
    signs = (noisy - x).sign()  # of mean square 1
    assert task.loss((x, x + 0.25 * signs)).total.item() == pytest.approx(0.0625, rel=1e-6)


def test_denoising_asks_for_the_clean_image() -> None:
    spec = square(8)
    task = Autoencoder(Pixels(spec), Autoencoder.Options(), spec)
    x, noisy = task.views(photos(4), Rng(0))
    task.decoder = nn.Sequential(Constant(x))
    assert task.loss((x, noisy)).total == 0
    assert task.loss((x, -noisy)).total == 0
    assert task.loss((noisy, noisy)).total > 0


class Constant(nn.Module):
    """A layer whose output does not depend on its input."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    mean = torch.tensor([0.0, 0.0, -1.5, 2.0], dtype=torch.float64)
    deviation = torch.tensor([1.0, 0.1, 3.0, 0.7], dtype=torch.float64)
    expected = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_from_standard(mean, 2 * deviation.log()), expected)
    assert kl_from_standard(mean, 2 * deviation.log())[0] == 0


def variational(size: int, decoder: nn.Module, posterior: GaussianCode) -> Autoencoder:
    options = Autoencoder.Options(kind="variational", latent=5, beta=0.5, scale=0.4)
    task = Autoencoder(MeanColour(), options, square(size))
    task.decoder, task.posterior = nn.Sequential(decoder), posterior
    return task


def test_twice_the_resolution_is_four_times_the_reconstruction_and_the_same_divergence() -> None:
    torch.manual_seed(0)
    paint = nn.Sequential(nn.Linear(5, 3 * 64), nn.Unflatten(1, (3, 8, 8)))
    posterior = GaussianCode(3, 5)
    small = variational(8, paint, posterior)
    large = variational(16, nn.Sequential(paint, nn.Upsample(scale_factor=2)), posterior)
    x, noise = small.views(photos(4), Rng(0))
    doubled = nn.functional.interpolate(x, scale_factor=2)
    few, many = small.loss((x, noise)).logs, large.loss((doubled, noise)).logs
    torch.testing.assert_close(many["reconstruction"], 4 * few["reconstruction"])
    torch.testing.assert_close(many["kl"], few["kl"])
    assert few["kl"] > 0


def test_the_variational_loss_is_a_sum_over_pixels_and_units_and_a_mean_over_images() -> None:
    torch.manual_seed(0)
    paint = nn.Sequential(nn.Linear(5, 3 * 64), nn.Unflatten(1, (3, 8, 8)))
    task = variational(8, paint, GaussianCode(3, 5))
    x, noise = task.views(photos(4), Rng(0))
    mean, log_variance = task.posterior(task.encoder(x))
    deviation = log_variance.mul(0.5).exp()
    errors = (task.decoder(mean + deviation * noise) - x).square() / (2 * 0.4**2)
    divergence = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0))
    for progress, beta in [(0.0, 0.0), (0.05, 0.25), (0.1, 0.5), (1.0, 0.5)]:
        task.before_step(progress)
        expected = sum(errors[i].sum() + beta * divergence[i].sum() for i in range(4)) / 4
        torch.testing.assert_close(task.loss((x, noise)).total, expected)


def test_units_that_only_repeat_the_prior_are_not_active() -> None:
    posterior = GaussianCode(3, 5)
    nn.init.zeros_(posterior.linear.weight)
    nn.init.zeros_(posterior.linear.bias)
    posterior.linear.bias.data[:2] = 1.0  # μ of two units
    task = variational(8, nn.Sequential(nn.Linear(5, 3 * 64), nn.Unflatten(1, (3, 8, 8))), posterior)
    logs = task.loss(task.views(photos(4), Rng(0))).logs
    assert logs["active_units"] == 2
    assert logs["kl"].item() == pytest.approx(1.0)


def test_evaluation_sees_pooled_features_or_means_but_never_a_drawn_code() -> None:
    pooled = build(Autoencoder, **VARIATIONAL).eval()
    mean = build(Autoencoder, **VARIATIONAL, evaluate_mean=True).eval()
    x, _ = views(pooled)
    assert torch.equal(pooled.features(x), pooled.encoder(x))
    assert torch.equal(mean.features(x), mean.posterior(mean.encoder(x))[0])
    with pytest.raises(Unsuitable, match=r"^task.evaluate_mean: there is no μ"):
        build(Autoencoder, evaluate_mean=True)


# --- pictures ---


def test_denoisings_picture_is_the_output_for_the_noisy_input() -> None:
    spec = square(8)
    task = Autoencoder(Pixels(spec), Autoencoder.Options(), spec)
    task.decoder = nn.Sequential(nn.Unflatten(1, (3, 8, 8)))
    x, noisy = task.views(photos(4), Rng(0))
    assert not torch.equal(x, noisy)
    shown = task.gallery((x, noisy))
    assert [*shown] == ["image", "input"]
    assert torch.equal(shown["image"], x)
    assert torch.equal(shown["input"], noisy)
    (output,) = task.reconstructions((x, noisy)).values()
    assert torch.equal(output, noisy)  # of a network that changes nothing


def test_the_variational_picture_is_the_output_for_the_mean_whatever_the_noise() -> None:
    posterior = GaussianCode(3, 5)
    to_code = torch.zeros(10, 3)
    to_code[:3] = 2 * torch.eye(3)  # μ is twice the mean colour, then 0; log σ² is 0.7
    posterior.linear.weight.data = to_code
    posterior.linear.bias.data = torch.tensor([0.0] * 5 + [0.7] * 5)
    decoder = nn.Sequential(nn.Unflatten(1, (5, 1, 1)), nn.Upsample(size=(8, 8)))
    task = variational(8, decoder, posterior)
    x, noise = task.views(photos(4), Rng(0))
    assert task.gallery((x, noise)).keys() == {"image"}
    (output,) = task.reconstructions((x, 100 * noise)).values()
    expected = 2 * x.mean((2, 3)).view(4, 3, 1, 1).expand(4, 3, 8, 8)
    torch.testing.assert_close(output[:, :3], expected)
    assert not output[:, 3:].any()


@pytest.mark.parametrize("options", [SMALL, VARIATIONAL])
def test_a_decoder_that_only_has_a_bias_paints_its_colour_everywhere(options: dict[str, Any]) -> None:
    task = build(Autoencoder, **options)
    last, colour = task.decoder[-1].up[-1], torch.tensor([0.3, -1.0, 2.0])
    nn.init.zeros_(last.weight)
    last.bias.data = colour
    (output,) = task.reconstructions(views(task)).values()
    assert torch.equal(output, colour.view(1, 3, 1, 1).expand(8, 3, 16, 16))
