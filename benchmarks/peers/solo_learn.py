"""SimCLR as solo-learn does it, written anew, as its releases need a torch of 2021.

torchvision's first transforms on PIL images, with PIL's own blur, one pipeline called twice, in a
`DataLoader` of two workers; a head without normalisation; one pass for each view, float32; a loss with
masks of images over exponentials. These parts of it are left out, to its advantage: Lightning around the
loop, the linear classifier that it trains beside, the index and the label of each image, and the
conversion of gray images to colour. Its default optimiser, LARS, is replaced by the shared one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision import transforms

from .loop import Loop, Pictures, Transform, Twice, plain
from .setting import Setting, Views


@dataclass(frozen=True)
class PillowBlur:
    """A Gaussian blur by Pillow, with σ drawn evenly from a range, in pixels."""

    sigma: tuple[float, float]

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the blurred image."""
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.sigma)))


def solo_transform(views: Views) -> Transform:
    """Build the augmentation in its order, without steps of probability 0."""
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [
        transforms.RandomResizedCrop(views.size, scale=views.scale, interpolation=bicubic),
        transforms.RandomApply([transforms.ColorJitter(*views.jitter)], views.jitter_p),
        *([transforms.RandomGrayscale(views.grayscale_p)] if views.grayscale_p else []),
        *([transforms.RandomApply([PillowBlur(views.sigma)], views.blur_p)] if views.blur_p else []),
        *([transforms.RandomHorizontalFlip(views.flip)] if views.flip else []),
        transforms.ToTensor(),
        transforms.Normalize(list(views.mean), list(views.std)),
    ]
    return Twice(transforms.Compose(steps))


def masked_nt_xent(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return NT-Xent with masks of positive and negative pairs over all exponentials."""

    def loss(z0: Tensor, z1: Tensor) -> Tensor:
        z = F.normalize(torch.cat([z0, z1]), dim=1)
        weights = (z @ z.T / temperature).exp()
        image = torch.arange(len(z0), device=z.device).repeat(2)
        same_image = image[:, None] == image
        positives = (weights * same_image.fill_diagonal_(False)).sum(1)
        negatives = (weights * (image[:, None] != image)).sum(1)
        return -(positives / (positives + negatives)).log().mean()

    return loss


def plain_head(widths: Sequence[int]) -> nn.Module:
    """Build two linear layers with ReLU between them."""
    inputs, hidden, out = widths
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, out))


def build(setting: Setting, epochs: float) -> Loop:
    """Return the loop with a new network and started workers."""
    dataset = Pictures(setting.images(), solo_transform(setting.views))
    criterion = masked_nt_xent(setting.temperature)
    return Loop(setting, dataset, plain_head, criterion, plain(setting), epochs, both_at_once=False)
