"""Self-distillation without labels on crops of two sizes (DINO, Caron et al. 2021)."""

import torch
import torch.nn.functional as F
from torch import nn

from ssl_zoo import Field, Losses, Task, TaskOptions, distributed
from ssl_zoo.nn import by_size, ema_update, frozen_copy, full_precision, schedule
from ssl_zoo.views import ColorJitter, Compose, MultiCrop, Normalise, RandomResizedCrop


def balanced(logits):
    """Return the share [B, K] of each prototype in each sample, all prototypes alike in the batch."""
    joint = distributed.all_gather(logits)
    for _ in range(3):
        joint = joint - joint.logsumexp(0, keepdim=True)
        joint = joint - joint.logsumexp(1, keepdim=True)
    return distributed.local_rows(joint).exp()


class MultiCropDistillation(Task):
    """The student's view of a crop matches the teacher's view of a large one."""

    name = "multi-crop"
    paper = "Caron et al. 2021, arXiv:2104.14294"
    any_size = True
    recipe = {
        "backbone": {"name": "vit_tiny_patch16_224",
                     "options": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2,
                                 "class_token": False, "global_pool": "avg", "fc_norm": False}},
        "train": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.04, "weight_decay_end": 0.4},
    }  # fmt: skip

    class Options(TaskOptions):
        """The options of the distillation."""

        prototypes: int = Field(64, ge=2, description="width of the head's output")
        local: int = Field(2, ge=0, description="number of small crops")
        momentum: float = Field(0.99, ge=0, lt=1, description="momentum of the teacher at the beginning")

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        self.head = nn.Sequential(
            nn.Linear(encoder.width, 64), nn.GELU(), nn.Linear(64, options.prototypes)
        )
        self.teacher, self.teacher_head = frozen_copy(encoder), frozen_copy(self.head)

    @property
    def exported_encoder(self):
        return self.teacher

    def views(self, images, rng):
        after = ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8), Normalise(self.spec)
        large = Compose(RandomResizedCrop(self.spec.size, (0.4, 1.0)), *after)
        small = Compose(RandomResizedCrop(self.spec.size // 2, (0.05, 0.4)), *after)
        return MultiCrop([(2, large), (self.options.local, small)])(images, rng)

    def loss(self, views):
        logits = [full_precision(self.head(z)) / 0.1 for z in by_size(self.encoder, views)]
        with torch.no_grad():
            warm = schedule(0.04, 0.07, self.progress, "linear", share=0.3)
            outputs = [full_precision(self.teacher_head(self.teacher(v))) for v in views[:2]]
            targets = [balanced(g / warm) for g in outputs]
        pairs = [(t, s) for i, t in enumerate(targets) for j, s in enumerate(logits) if i != j]
        return Losses(torch.stack([F.cross_entropy(s, t) for t, s in pairs]).mean())

    def after_step(self, progress):
        momentum = schedule(self.options.momentum, 1.0, progress)
        ema_update(self.teacher, self.encoder, momentum)
        ema_update(self.teacher_head, self.head, momentum)
