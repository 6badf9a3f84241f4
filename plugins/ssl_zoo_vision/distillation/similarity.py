"""Distillation by similarity: the student finds the same images alike as its teacher does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.nn import sum_over_rows


def similarity_loss(
    s: Tensor, t: Tensor, s_keys: Tensor, t_keys: Tensor, temperature: float = 0.07
) -> Tensor:
    """Return KL(softmax(t·t_keys / τ) ‖ softmax(s·s_keys / τ)), the mean over groups and rows.

    It is 0 where both find the same rows alike, and unchanged by a rotation of t and t_keys.

    Args:
        s: the student's features [G, n, D], unit rows, in G groups.
        t: the teacher's features [G, n, d], unit rows, without gradient.
        s_keys: what those of the student are compared with, [G, K, D], unit rows.
        t_keys: what those of the teacher are compared with, [G, K, d], unit rows.
        temperature: τ > 0.
    """

    def loss(s: Tensor, t: Tensor, s_keys: Tensor, t_keys: Tensor) -> Tensor:
        with torch.autocast(s.device.type, enabled=False):
            log_p = F.log_softmax(s @ s_keys.mT / temperature, dim=-1)  # [g, n, K]
            log_q = F.log_softmax(t @ t_keys.mT / temperature, dim=-1)
            return F.kl_div(log_p, log_q, reduction="sum", log_target=True)

    columns = s.shape[1] * t_keys.shape[1]
    return sum_over_rows(loss, s, t, s_keys, t_keys, columns=columns) / (len(s) * s.shape[1])
