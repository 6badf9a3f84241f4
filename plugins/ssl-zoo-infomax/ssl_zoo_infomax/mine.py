"""MINE: mutual information as the largest Donsker-Varadhan bound that a network finds."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ssl_zoo_infomax.estimators import DonskerVaradhan, donsker_varadhan, log_mean_exp

TRAIN, CHOICE = 0.6, 0.2
"""The shares of the samples that train the critic and that choose it; the rest measures."""
LOOKS = 20
"""So many critics there are to choose from, evenly spread over the steps."""


class MINE(nn.Module):
    """The statistics network T(x, y) and its objective (Belghazi et al. 2018, algorithm 1).

    Args:
        x_width: D, the size of x.
        y_width: E, the size of y.
        hidden: the width of the two hidden layers.
        decay: of the moving average that corrects the gradient.
        generator: what the first weights are drawn from; None for torch's own.
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
        # T = 0 at first, whose bound is 0: what is found can only be better.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.critic = nn.Sequential(*layers, last)
        self.objective = DonskerVaradhan(decay)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The scores [...] of pairs, x [..., D] and y [..., E]."""
        scores: Tensor = self.critic(torch.cat([x, y], -1)).squeeze(-1)
        return scores

    def bound(self, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        """The bound, in nats, with the corrected gradient.

        Args:
            x: [B, D].
            y: [B, E], drawn together with x.
            other: [B, E], drawn apart from x.
        """
        bound: Tensor = self.objective(self(x, y), self(x, other))
        return bound

    def after_step(self) -> None:
        """Move the moving average; to be called after each step of an optimiser."""
        self.objective.after_step()

    @torch.no_grad()
    def measure(self, x: Tensor, y: Tensor, shifts: int) -> float:
        """The bound, in nats, over samples [N, D] and [N, E].

        Args:
            x: the samples of the one.
            y: the samples of the other, in the same order.
            shifts: with so many others at most each x is paired: y is shifted so many times.
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

    A critic learns from a part of the samples; of its states the best on a second part is measured on
    a third, so that the value is a lower bound up to the noise of the third part. With few samples it
    is a loose one. Beyond some 5 nats e^T has too heavy a tail for a mean, and the value should not be
    trusted in either direction (McAllester & Stratos 2018, arXiv:1811.04251).

    Args:
        x: float [N, D].
        y: float [N, E], in the same order.
        steps: of Adam, whose rate falls from `lr` to 0 along a cosine.
        batch_size: pairs in a step, as many drawn together as drawn apart.
        hidden: the width of the critic's layers.
        lr: the first learning rate.
        decay: of the moving average that corrects the gradient.
        seed: all randomness follows from it; torch's own generators are not touched.

    Returns:
        The estimate, in nats.

    Raises:
        ValueError: x and y are not as many, or fewer than 10.
    """
    if len(x) != len(y) or len(x) < 10:
        raise ValueError(f"x and y must be as many, and 10 at least, not {len(x)} and {len(y)}")
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
        if step % math.ceil(steps / LOOKS) == 0:
            found = mine.measure(x_choice, y_choice, shifts=8)
            if found > best:
                best, chosen = found, copy.deepcopy(mine)
    return chosen.measure(x_test, y_test, shifts=64)


def _standardised(z: Tensor, first: int) -> Tensor:
    """Columns of mean 0 and deviation 1 by the first rows, which changes no mutual information."""
    std, mean = torch.std_mean(z[:first], 0)
    # What does not vary but for rounding is not blown up.
    return (z - mean) / torch.where(std > 1e-5 * mean.abs().clamp(min=1e-3), std, 1.0)
