"""Autoencoders, denoising and variational: the image is reconstructed from its pooled features."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import CropOptions, Encoder, Field, ImageSpec, Losses, Rng, Task, Unsuitable
from ssl_zoo.nn import full_precision
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.decoders import UpDecoder
from ssl_zoo_vision.generative.gaussian import GaussianCode, kl_from_standard


class Autoencoder(Task):
    """An image is reconstructed: clean from a noisy one, or from a random code near its features.

    No connection but the code leads from the image to the output, which would copy it.
    """

    name = "autoencoder"
    paper = "Vincent et al. 2008, Denoising Autoencoders; Kingma & Welling 2013, VAE, arXiv:1312.6114"
    family = "generative"
    passes = 1
    recipe = {"train": {"optimizer": "adam", "lr": 1e-3, "lr_scaling": "none", "weight_decay": 0.0}}

    class Options(CropOptions):
        """The autoencoders' options."""

        kind: Literal["denoising", "variational"] = Field(
            "denoising", description="input with noise, or code with noise and a prior (VAE)"
        )
        noise: float = Field(0.5, ge=0, description="denoising: σ of the noise, in deviations of pixels")
        latent: int | None = Field(
            None, ge=1, description="variational: width of the code z; none: 256, or 128 up to 64 pixels"
        )
        beta: float = Field(1.0, ge=0, description="variational: weight β of the KL divergence")
        warmup: float = Field(0.1, gt=0, le=1, description="share of training in which β rises from 0")
        scale: float = Field(1.0, gt=0, description="variational: deviation s of pixels given z")
        evaluate_mean: bool = Field(False, description="evaluate μ in place of the pooled features")
        hidden: int = Field(256, ge=32, description="width of the decoder's first layer")
        crop_scale: tuple[float, float] = Field((0.5, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        variational = options.kind == "variational"
        if options.evaluate_mean and not variational:
            raise Unsuitable("task.evaluate_mean: there is no μ with kind=denoising; leave it out")
        latent = options.latent or (128 if is_small(spec) else 256)
        self.posterior = GaussianCode(encoder.width, latent) if variational else None
        code = latent if variational else encoder.width
        rows, columns = (max(4, round(side / 32)) for side in (spec.height, spec.width))
        self.decoder = nn.Sequential(
            nn.Linear(code, options.hidden * rows * columns),
            nn.Unflatten(1, (options.hidden, rows, columns)),
            UpDecoder(options.hidden, (rows, columns), spec.size, spec.channels, options.hidden),
        )
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return images [B, C, H, W], and them with noise, or the noise ε [B, code] of the codes."""
        x = self.augment(batch, rng)
        if self.posterior is not None:
            return x, rng.normal(len(x), self.posterior.code)
        return x, x + self.options.noise * rng.normal(*x.shape)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean squared error of the clean image, or the negative evidence bound in nats."""
        x, noise = views
        if self.posterior is None:
            return Losses(F.mse_loss(full_precision(self.decoder(self.encoder(noise))), x))
        mean, log_variance = self.posterior(self.encoder(x))
        output = full_precision(self.decoder(mean + (0.5 * log_variance).exp() * noise))
        # Sums: a mean over pixels beside a sum over z would weigh the prior so much that codes collapse.
        error = (output - x).square().flatten(1).sum(1).mean() / (2 * self.options.scale**2)
        units = kl_from_standard(mean, log_variance).mean(0)  # [code]
        kl, rise = units.sum(), min(1.0, self.progress / self.options.warmup)
        logs = {"reconstruction": error, "kl": kl, "active_units": (units > 0.01).float().sum()}
        return Losses(error + self.options.beta * rise * kl, {k: v.detach() for k, v in logs.items()})

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features [B, D], or μ; never a drawn code."""
        features = super().features(x)
        return self.posterior(features)[0] if self.posterior and self.options.evaluate_mean else features

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image, and the input of the network where it is another."""
        return {"image": views[0]} | ({} if self.posterior else {"input": views[1]})

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the output for the input, or for the code μ."""
        features = self.encoder(views[0 if self.posterior else 1])
        return {"output": self.decoder(self.posterior(features)[0] if self.posterior else features)}
