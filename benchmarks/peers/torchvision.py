"""torchvision's transforms v2 in a `DataLoader` of two workers, NT-Xent in five lines, a plain loop.

Both views pass through the network at once. transforms v2 get what is faster for them, tensors for gray
images and PIL images for colour.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from ssl_zoo.nn import mlp
from ssl_zoo.runtime.device import Device
from ssl_zoo.views.functional import default_kernel_size

from .loop import Loop, Pictures, Tensors, Transform, Twice
from .setting import Setting, Views


def plain_nt_xent(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return NT-Xent, written in the straightforward way."""

    def loss(z0: Tensor, z1: Tensor) -> Tensor:
        z = F.normalize(torch.cat([z0, z1]).float(), dim=1)
        logits = z @ z.T / temperature
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
        positive = torch.arange(len(z), device=z.device).roll(len(z0))
        return F.cross_entropy(logits, positive)

    return loss


def torchvision_transform(views: Views, pictures: bool) -> Transform:
    """Build the same augmentation of transforms v2, without steps of probability 0."""
    blur = v2.RandomApply([v2.GaussianBlur(default_kernel_size(views.size), views.sigma)], views.blur_p)
    steps = [
        v2.RandomResizedCrop(views.size, scale=views.scale, antialias=True),
        *([v2.RandomHorizontalFlip(views.flip)] if views.flip else []),
        v2.RandomApply([v2.ColorJitter(*views.jitter)], views.jitter_p),
        *([v2.RandomGrayscale(views.grayscale_p)] if views.grayscale_p else []),
        *([blur] if views.blur_p else []),
        *([v2.ToImage()] if pictures else []),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(views.mean), list(views.std)),
    ]
    return Twice(v2.Compose(steps))


def build(setting: Setting, epochs: float, device: Device) -> Loop:
    """Return the loop with a new network and started workers."""
    images = setting.images()
    pictures = images.shape[1] == 3
    transform = torchvision_transform(setting.views, pictures)
    dataset = Pictures(images, transform) if pictures else Tensors(images, transform)
    criterion = plain_nt_xent(setting.temperature)
    return Loop(setting, dataset, mlp, criterion, device, epochs, both_at_once=True)
