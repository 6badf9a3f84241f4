"""Which places are hidden, and which others a place is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Rng


def draw_spans(rng: Rng, valid: Tensor, share: float, length: int) -> Tensor:
    """Draw hidden spans: each place begins one with a probability, and they may overlap.

    In wav2vec 2.0 (arXiv:2006.11477, section 3.1) the probability is 0.065 and a span has 10 places, so
    that about 49 % of them are hidden. Of a clip that would have none, one place is hidden.

    Args:
        rng: the source of random numbers.
        valid: which places are real, bool [B, T]; others are never hidden.
        share: the probability that a place begins a span.
        length: the number of places in a span.

    Returns:
        The hidden places, bool [B, T].
    """
    n, number = valid.shape
    starts = rng.uniform(n, number) < share
    spans = F.max_pool1d(F.pad(starts.float(), (length - 1, 0)), length, 1) > 0
    hidden = spans & valid
    single = (rng.uniform(n, 1) * valid.sum(1, keepdim=True)).long()
    none = ~hidden.any(1, keepdim=True)
    return hidden | (none & (torch.arange(number, device=valid.device) == single))


def draw_others(rng: Rng, mask: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Draw for each place others of the same clip, uniformly, with replacement, from those in a mask.

    Args:
        rng: the source of random numbers.
        mask: the places to draw from, bool [B, T].
        number: K, how many to draw for each place.

    Returns:
        The indices of the places, int64 [B, T, K]; and whether there are any for a place of the mask,
        bool [B, T]: a place alone in its clip has no others. What is drawn for a place outside of the
        mask has no meaning.
    """
    n, places = mask.shape
    members = mask.sum(1)[:, None, None]  # [B, 1, 1]
    order = (~mask).int().argsort(dim=1, stable=True)  # the places of the mask come first
    rank = (mask.cumsum(1) - 1).clamp(min=0)[..., None]  # of each place among these
    drawn = (rng.uniform(n, places, number) * (members - 1)).long()
    drawn = torch.minimum(drawn, (members - 2).clamp(min=0))
    drawn = drawn + (drawn >= rank)  # its own rank is left out
    drawn = torch.minimum(drawn, (members - 1).clamp(min=0))
    index = order.gather(1, drawn.flatten(1)).view(n, places, number)
    return index, mask & (members[..., 0] > 1)
