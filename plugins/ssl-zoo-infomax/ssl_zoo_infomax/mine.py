"""MINE: mutual information as the Donsker-Varadhan bound maximised by a network."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ssl_zoo_infomax.estimators import DonskerVaradhan, donsker_varadhan, log_mean_exp

TRAIN, CHOICE = 0.6, 0.2
"""The fractions of samples that train and select the critic; the estimate uses the others."""
CANDIDATES = 20
"""The number of critics to select from, evenly spread over the steps."""


class MINE(nn.Module):
    """The statistics network T(x, y) and its objective (Belghazi et al. 2018, algorithm 1).

    Args:
        x_width: D, the size of x.
        y_width: E, the size of y.
        hidden: the width of the two hidden layers.
        decay: the decay of the moving average that corrects the gradient.
        generator: the generator of the initial weights; None for torch's own.
    """

    def __init__(
        self,
        x_width: int,
        y_width: int,
        hidden: int = 128,
        decay: float = 0.99,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, following in pairwise([x_width + y_width, hidden, hidden]):
            linear = nn.utils.skip_init(nn.Linear, width, following)
            for parameter in (linear.weight, linear.bias):
                nn.init.uniform_(parameter, -(width**-0.5), width**-0.5, generator)
            layers += [linear, nn.ReLU()]
        last = nn.utils.skip_init(nn.Linear, hidden, 1)
        # T = 0 initially, with bound 0, so training can only improve it.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.critic = nn.Sequential(*layers, last)
        self.objective = DonskerVaradhan(decay)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the scores [...] of pairs of x [..., D] and y [..., E]."""
        scores: Tensor = self.critic(torch.cat([x, y], -1)).squeeze(-1)
        return scores

    def bound(self, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        """Return the bound, in nats, with the corrected gradient.

        Args:
            x: [B, D].
            y: [B, E], paired with x.
            other: [B, E], independent of x.
        """
        bound: Tensor = self.objective(self(x, y), self(x, other))
        return bound

    def after_step(self) -> None:
        """Update the moving average; call it after each optimiser step."""
        self.objective.after_step()

    @torch.no_grad()
    def measure(self, x: Tensor, y: Tensor, shifts: int) -> float:
        """Return the bound, in nats, over samples [N, D] and [N, E].

        Args:
            x: the samples of x.
            y: the samples of y, in the same order.
            shifts: the number of negatives per x, made by shifting y.
        """
        places = torch.linspace(1, len(x) - 1, min(shifts, len(x) - 1)).round().int().tolist()
        negative = torch.stack([log_mean_exp(self(x, y.roll(place, 0))) for place in places])
        return float(donsker_varadhan(self(x, y), negative))


def estimate(
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 500,
    batch_size: int = 256,
    hidden: int = 128,
    lr: float = 3e-3,
    decay: float = 0.99,
    seed: int = 0,
) -> float:
    """Estimate the mutual information of x and y from below.

    A critic is trained on a part of the samples, selected on a second part and measured on a third, so
    the value is a lower bound up to the noise of the third part. It is loose for few samples. Beyond
    about 5 nats, e^T has too heavy a tail for a mean, and the value is not reliable in either direction
    (McAllester & Stratos 2018, arXiv:1811.04251).

    Args:
        x: float [N, D].
        y: float [N, E], in the same order.
        steps: steps of Adam, with a rate from `lr` to 0 on a cosine.
        batch_size: positive pairs per step, and as many negative ones.
        hidden: the width of the critic's layers.
        lr: the initial learning rate.
        decay: the decay of the moving average that corrects the gradient.
        seed: the seed of all randomness; torch's global generators are not used.

    Returns:
        The estimate, in nats.

    Raises:
        ValueError: x and y differ in length, or have fewer than 10 samples.
    """
    if len(x) != len(y) or len(x) < 10:
        raise ValueError(f"x and y must have the same length, at least 10, not {len(x)} and {len(y)}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    first, second = int(TRAIN * len(x)), int((TRAIN + CHOICE) * len(x))
    x, y = (_standardised(z.detach().float()[order], first) for z in (x, y))
    (x_train, x_choice, x_test), (y_train, y_choice, y_test) = (
        z.tensor_split([first, second]) for z in (x, y)
    )
    mine = MINE(x.shape[1], y.shape[1], hidden, decay, generator).to(x.device)
    best, chosen = 0.0, copy.deepcopy(mine)
    optimizer = torch.optim.Adam(mine.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        together, apart = torch.randint(first, (2, batch_size), generator=generator).to(x.device)
        with torch.enable_grad():
            loss = -mine.bound(x_train[together], y_train[together], y_train[apart])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mine.after_step()
        if step % math.ceil(steps / CANDIDATES) == 0:
            bound = mine.measure(x_choice, y_choice, shifts=8)
            if bound > best:
                best, chosen = bound, copy.deepcopy(mine)
    return chosen.measure(x_test, y_test, shifts=64)


def _standardised(z: Tensor, first: int) -> Tensor:
    """Standardise columns by the first rows, which does not change the mutual information."""
    std, mean = torch.std_mean(z[:first], 0)
    # A constant column is not amplified to its rounding error.
    return (z - mean) / torch.where(std > 1e-5 * mean.abs().clamp(min=1e-3), std, 1.0)
