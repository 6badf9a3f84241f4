"""The Gumbel product quantiser of wav2vec 2.0."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_zoo import Rng, distributed
from ssl_zoo.nn import full_precision
from ssl_zoo_audio.masks import uniform


class Quantised(NamedTuple):
    """The output of a quantiser for places.

    Attributes:
        vectors: the projected code vectors q [B, T, out].
        codes: the number of the chosen entry of all groups together, int64 [B, T].
        probabilities: the softmax of the logits without noise [B, T, G, V].
    """

    vectors: Tensor
    codes: Tensor
    probabilities: Tensor


class GumbelQuantiser(nn.Module):
    """Choose one of V entries in each of G groups (arXiv:2006.11477, section 2 and equation 1).

    The choice is hard; its gradient is that of the softmax. As in fairseq and transformers, the weights
    of the logits begin with deviation 1: the logits of normed features are then far wider than the
    noise, so that the sound chooses the codes. With the usual c^-½ the noise does, and in short runs to
    the end.

    Args:
        width: the size of the features to quantise.
        groups: G.
        entries: V.
        out: the size of the result.
    """

    def __init__(self, width: int, groups: int, entries: int, out: int) -> None:
        super().__init__()
        self.logits = nn.Linear(width, groups * entries)
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.entries = nn.Parameter(torch.rand(groups, entries, -(-out // groups)))
        self.project = nn.Linear(groups * self.entries.shape[2], out)

    def noise(self, rng: Rng, n: int, places: int, limit: int = 0) -> Tensor:
        """Draw Gumbel noise [n, places, G, V]; `limit` is as for `masks.uniform`."""
        drawn = uniform(rng, n, places, *self.entries.shape[:2], limit=limit).clamp(1e-6, 1 - 1e-6)
        return -(-drawn.log()).log()

    def forward(self, z: Tensor, noise: Tensor, temperature: float) -> Quantised:
        """Quantise features [B, T, c].

        Args:
            z: the features.
            noise: Gumbel noise, see `noise`.
            temperature: τ of the softmax whose gradient is taken.
        """
        groups, number, _ = self.entries.shape
        logits = full_precision(self.logits(z)).unflatten(2, (groups, number))
        soft = ((logits + noise) / temperature).softmax(3)
        chosen = soft.argmax(3)  # [B, T, G]
        hard = nn.functional.one_hot(chosen, number).to(soft.dtype)
        choice = hard + soft - soft.detach()
        vectors = torch.einsum("btgv,gvd->btgd", choice, self.entries.to(choice.dtype)).flatten(2)
        place = number ** torch.arange(groups, device=z.device)
        return Quantised(self.project(vectors), (chosen * place).sum(2), logits.softmax(3))


def mean_probabilities(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Return the mean probability of each entry [G, V] over the places in a mask of all processes.

    Args:
        probabilities: [B, T, G, V].
        mask: bool [B, T].
    """
    chosen = probabilities[mask]  # [M, G, V]
    count = chosen.new_tensor([len(chosen)])
    joint = distributed.sum(torch.cat([chosen.sum(0).flatten(), count]))
    return (joint[:-1] / joint[-1].detach().clamp(min=1)).view(chosen.shape[1:])


def perplexities(mean: Tensor) -> Tensor:
    """Return exp H of each group [G], between 1 and V, of mean probabilities [G, V]."""
    return (-(mean * (mean + 1e-7).log()).sum(1)).exp()


def diversity_loss(mean: Tensor) -> Tensor:
    """Return (G · V - Σ_g exp H(p_g)) / (G · V) of mean probabilities [G, V], as in fairseq.

    It is 0 if all entries are used alike, and (V - 1) / V if each group uses one.
    """
    return 1 - perplexities(mean).sum() / mean.numel()
