"""Draws of the places that are hidden, and of the others that a place is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Rng


def uniform(rng: Rng, n: int, places: int, *shape: int, limit: int) -> Tensor:
    """Draw float32 [n, places, *shape], uniform in [0, 1), from numbers for `limit` places or more.

    Batches are cut to their longest clip, which differs between processes: with the same limit in all,
    what is drawn does not depend on the number of processes.
    """
    return rng.uniform(n, max(places, limit), *shape)[:, :places]


def draw_spans(rng: Rng, valid: Tensor, share: float, length: int, limit: int = 0) -> Tensor:
    """Draw hidden spans: a span begins at each place with a probability, and they may overlap.

    Spans may begin before the clip, so that each place is hidden with probability
    1 - (1 - share)^length. In wav2vec 2.0 (arXiv:2006.11477, section 3.1) the share is 0.065 and a span
    has 10 places: about 49 % are hidden. A clip with fewer than two hidden places gets a span within it,
    of at most half of its places, as wav2vec 2.0 compares a hidden place with others of the clip.

    Args:
        rng: the source of random numbers.
        valid: which places are real, bool [B, T]; others are never hidden.
        share: the probability that a span begins at a place.
        length: the number of places in a span.
        limit: as for `uniform`.

    Returns:
        The hidden places, bool [B, T].
    """
    n, number = valid.shape
    starts = uniform(rng, n, number + length - 1, limit=limit + length - 1) < share
    hidden = (F.max_pool1d(starts.float(), length, 1) > 0) & valid
    real = valid.sum(1, keepdim=True)  # [B, 1]
    span = torch.minimum((real // 2).clamp(min=2, max=max(2, length)), real)
    first = (rng.uniform(n, 1) * (real - span + 1)).long()
    place = torch.arange(number, device=valid.device)
    fallback = (first <= place) & (place < first + span)
    return hidden | (fallback & (hidden.sum(1, keepdim=True) < 2))


def draw_others(rng: Rng, mask: Tensor, number: int, limit: int = 0) -> tuple[Tensor, Tensor]:
    """Draw for each place others of the same clip, uniformly, with replacement, from those in a mask.

    Args:
        rng: the source of random numbers.
        mask: the places to draw from, bool [B, T].
        number: K, how many to draw for each place.
        limit: as for `uniform`.

    Returns:
        The indices of the places, int64 [B, T, K]; and whether there are any for a place of the mask,
        bool [B, T]: a place alone in its clip has no others. What is drawn for a place outside of the
        mask has no meaning.
    """
    n, places = mask.shape
    members = mask.sum(1)[:, None, None]  # [B, 1, 1]
    order = (~mask).int().argsort(dim=1, stable=True)  # the places of the mask come first
    rank = (mask.cumsum(1) - 1).clamp(min=0)[..., None]  # of each place among these
    drawn = (uniform(rng, n, places, number, limit=limit) * (members - 1)).long()
    drawn = torch.minimum(drawn, (members - 2).clamp(min=0))
    drawn = drawn + (drawn >= rank)  # its own rank is left out
    drawn = torch.minimum(drawn, (members - 1).clamp(min=0))
    index = order.gather(1, drawn.flatten(1)).view(n, places, number)
    return index, mask & (members[..., 0] > 1)
