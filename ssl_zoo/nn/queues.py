"""Features of earlier batches: a queue, a bank with a row for each sample, a first mean."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ssl_zoo.nn
from ssl_zoo import distributed
from ssl_zoo.nn.deferred import DeferredUpdate
from ssl_zoo.nn.parts import full_precision, unit


class FeatureQueue(DeferredUpdate):
    """A queue of the latest `size` feature vectors, normalised; it starts with random ones.

    It is the same in all processes. Source: MoCo, arXiv:1911.05722, section 3.2.

        self.queue = FeatureQueue(4096, 128)  # in __init__
        negatives = self.queue.features       # in loss, before this step's keys are in it
        self.queue.note(keys)                 # in loss
        self.queue.update()                   # in after_step

    Attributes:
        features: [size, width], unit rows.
        place: the row of the oldest vector, which is overwritten next.
        pushed: the number of vectors pushed so far.

    Args:
        size: the number of vectors.
        width: the length of a vector.
    """

    features: Tensor
    place: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    @property
    def filled(self) -> Tensor:
        """The number of rows that were pushed, int64 []; the other rows are still random."""
        return self.pushed.clamp(max=len(self.features))

    @property
    def full(self) -> bool:
        """True once no random vector is left; reading it waits for the device."""
        return int(self.filled) == len(self.features)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Return the row nearest to each of `z` [B, width], as [B, width], without gradient.

        Nearest is the largest cosine, as in NNCLR (arXiv:2104.14548, equation 2).
        """
        z, features = full_precision(z), self.features
        with torch.autocast(z.device.type, enabled=False):
            parts = z.split(max(1, ssl_zoo.nn.MAX_SCORES // len(features)))
            return torch.cat([features[(part @ features.to(z.dtype).T).argmax(1)] for part in parts])

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Replace the oldest rows by `features` [B, width]; of more than `size`, keep the last.

        In several processes push the same rows in each, as `update` does.
        """
        size = len(self.features)
        self.pushed.add_(len(features))
        self.place += max(0, len(features) - size)
        features = features[-size:]
        rows = (self.place + torch.arange(len(features), device=features.device)) % size
        self.features[rows] = features.to(self.features.dtype)
        self.place.add_(len(features)).remainder_(size)

    def update(self) -> None:
        """Push the noted unit rows [B, width] of all processes, in the order of the notes."""
        for (features,) in self._notes:
            self.push(distributed.all_gather(features))
        self.clear()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        # Checkpoints from before rows were counted are of tasks that do not ask for the number.
        filled = state_dict.pop(f"{prefix}filled", torch.tensor(len(self.features)))
        state_dict.setdefault(f"{prefix}pushed", filled)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class MemoryBank(DeferredUpdate):
    """A bank with one vector for each sample of the train split, of unit length, moved by momentum.

    m_i ← u(μ · m_i + (1 - μ) · u(z_i)) for the samples i of a batch, where u divides by the length and μ
    is the momentum. Source: Wu et al. 2018, arXiv:1805.01978, section 3.1, and the authors' code. The
    first features of a sample are averaged with its random start alike, as there. Of several features
    of one sample in an update, the last counts.

        self.bank = MemoryBank(spec.samples, 128, momentum=0.5)  # in __init__; needs = ("index",)
        loss = contrastive_loss(z, self.bank.features, index, temperature)
        self.bank.note(z, index)  # in loss
        self.bank.update()        # in after_step

    Attributes:
        features: [samples, width], random at first; unit rows unless `normalise` is false.
        seen: whether a sample was ever in an update, bool [samples].

    Args:
        samples: the number of samples of the train split, `Spec.samples`.
        width: the length of a vector.
        momentum: μ, the share that a row keeps; 0 replaces rows.
        normalise: whether rows have length 1; if not, u leaves vectors as they are.
    """

    features: Tensor
    seen: Tensor

    def __init__(self, samples: int, width: int, momentum: float = 0.5, normalise: bool = True) -> None:
        super().__init__()
        self.momentum = momentum
        self.unit = unit if normalise else full_precision
        self.register_buffer("features", F.normalize(torch.randn(samples, width), dim=1))
        self.register_buffer("seen", torch.zeros(samples, dtype=torch.bool))

    def rows(self, index: Tensor) -> Tensor:
        """Return the vectors [..., width] of the samples with these numbers, int64 [...]."""
        return self.features[index]

    @torch.no_grad()
    def update(self) -> None:
        """Move the rows of the noted embeddings [B, width] and sample numbers [B] of all processes."""
        if self._notes:
            z, index = (distributed.all_gather(torch.cat(x)) for x in zip(*self._notes, strict=True))
            # An assignment with repeated indices would write any of their rows on a GPU, so each of them
            # writes the last one's. To leave them out, their number would have to be waited for.
            samples, order = index.sort(stable=True)
            last = order[torch.searchsorted(samples, samples, right=True) - 1]
            new = self.unit(z[last]).to(self.features.dtype)
            self.features[samples] = self.unit(self.features[samples].lerp(new, 1 - self.momentum))
            self.seen.index_fill_(0, samples, True)
        self.clear()


class FirstMean(DeferredUpdate):
    """The mean of positive values in the first batch, of all processes, kept for ever.

    So NPID normalises its scores (Wu et al. 2018, arXiv:1805.01978, section 3.2, and the authors' code).

        self.mean_score = FirstMean()              # in __init__
        mean = self.mean_score.of(scores.exp())    # in loss, the same from the first step on
        self.mean_score.update()                   # in after_step

    Attributes:
        value: the mean, a scalar; 0 before the first update.
    """

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(()))

    def of(self, x: Tensor) -> Tensor:
        """Return the mean that is kept; before the first update, the mean of `x` in all processes."""
        now = distributed.mean(full_precision(x.detach()).mean())
        self.note(now)
        return torch.where(self.value > 0, self.value, now)

    def update(self) -> None:
        """Keep the mean of the first noted values, unless there is one."""
        for (now,) in self._notes:
            self.value.copy_(torch.where(self.value > 0, self.value, now))
        self.clear()
