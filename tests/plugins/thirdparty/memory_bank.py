"""Instance discrimination with a memory bank (Wu et al. 2018, arXiv:1805.01978)."""

import torch
import torch.nn.functional as F

from ssl_zoo import Field, Losses, Task, TaskOptions, distributed
from ssl_zoo.nn import full_precision
from ssl_zoo.views import Compose, Normalise, RandomResizedCrop


class MemoryBank(Task):
    """Tell each image from all others by a bank with one embedding of each."""

    name = "memory-bank"
    paper = "Wu et al. 2018, arXiv:1805.01978"
    needs = ("index",)

    class Options(TaskOptions):
        """The options of the memory bank."""

        width: int = Field(32, ge=1, description="width of the embeddings")
        temperature: float = Field(0.1, gt=0, description="temperature of the similarities")
        momentum: float = Field(0.5, ge=0, lt=1, description="share that a row keeps of itself")

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        self.head = torch.nn.Linear(encoder.width, options.width)
        bank = F.normalize(torch.randn(spec.samples, options.width), dim=1)
        self.register_buffer("bank", bank)
        self.seen = None

    def views(self, images, rng):
        crop = RandomResizedCrop(self.spec.size, scale=(0.2, 1.0), flip=0.5 * self.spec.mirror)
        return (Compose(crop, Normalise(self.spec))(images, rng),)

    def before_step(self, progress):
        super().before_step(progress)
        self.seen = None

    def loss(self, views):
        x, index = views
        z = F.normalize(full_precision(self.head(self.encoder(x))), dim=1)  # [B, d]
        self.seen = z.detach(), index
        return Losses(F.cross_entropy(z @ self.bank.T / self.options.temperature, index))

    def after_step(self, progress):
        if self.seen is not None:
            z, index = map(distributed.all_gather, self.seen)
            kept = self.options.momentum
            self.bank[index] = F.normalize(kept * self.bank[index] + (1 - kept) * z, dim=1)
