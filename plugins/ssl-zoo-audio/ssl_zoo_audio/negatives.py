"""The other places that CPC tells a place from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import distributed


def same_place(z: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of the K clips of the joint batch at each place, and which do not count.

    Args:
        z: local features of this process [B, T, D].
        valid: which places are real, bool [B, T].

    Returns:
        Negatives [1, T, K, D], and the clip itself and those that have ended, bool [B, T, K].
    """
    number = z.shape[1]
    (longest,) = distributed.all_reduce_max(number)  # processes pad to lengths of their own
    missing = int(longest) - number
    joint = distributed.all_gather(F.pad(z, (0, 0, 0, missing)))[:, :number]  # [K, T, D]
    ended = ~distributed.all_gather(F.pad(valid, (0, missing)))[:, :number]  # [K, T]
    clips = torch.arange(len(joint), device=z.device)
    own = clips == distributed.local_rows(clips)[:, None]  # [B, K]
    return joint.transpose(0, 1)[None], own[:, None] | ended.T


def same_clip(z: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of all places of each clip, and which of these do not count for a place.

    Args:
        z: local features [B, T, D].
        valid: which places are real, bool [B, T].

    Returns:
        Negatives [B, 1, T, D]; and the place itself and padding, bool [B, T, T].
    """
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    return z[:, None], itself | ~valid[:, None]


def random_places(z: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of random places of the joint batch, and which of these a place itself is.

    Args:
        z: local features of this process [B, T, D].
        places: the random places of each clip, int64 [B, P]; K is P times the joint batch's size.

    Returns:
        Negatives [1, 1, K, D], and whether each is the place itself, bool [B, T, K].
    """
    n, per_clip = places.shape
    chosen = z.gather(1, places[..., None].expand(-1, -1, z.shape[2])).flatten(0, 1)
    clips = torch.arange(n * distributed.world_size(), device=places.device)
    own = clips.repeat_interleave(per_clip) == distributed.local_rows(clips)[:, None]  # [B, K]
    joint = distributed.all_gather(places).flatten()
    itself = own[:, None] & (joint == torch.arange(z.shape[1], device=places.device)[:, None])
    return distributed.all_gather(chosen)[None, None], itself
