"""Budgets are a number of steps or a time, and the learning rate follows the progress through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.optimizer import (
    Schedules,
    create_optimizer,
    describe_learning_rate,
    learning_rate,
)
from tests.conftest import small_config

# ---- budgets


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"epochs": 2}, 20),
        ({"epochs": 0.5}, 5),
        ({"epochs": 0.001}, 1),
        ({"samples": 1}, 1),
        ({"samples": 1000}, 10),
        ({"samples": 1001}, 11),
        ({}, 1000),
    ],
)
def test_a_budget_in_epochs_or_images_is_so_many_steps(settings: dict[str, Any], steps: int) -> None:
    budget = Budget.of(TrainConfig(batch_size=50, accumulate=2, **settings), 1099)
    assert (budget.steps_per_epoch, budget.steps, budget.seconds) == (10, steps, None)
    assert budget.progress(steps - 1, 1e9) < 1 == budget.progress(steps, 0)


def test_a_budget_in_minutes_counts_time_alone() -> None:
    budget = Budget.of(TrainConfig(batch_size=50, minutes=2), 1000)
    assert budget.progress(10**9, 60) == 0.5
    assert budget.progress(1, 120) == budget.progress(1, 500) == 1


@pytest.mark.parametrize(
    ("batch", "samples", "processes", "message"),
    [
        ((64, 1), 40, 1, "of 64 is larger than the train split of 40 samples; choose --batch-size 10"),
        ((64, 3), 150, 1, "64 × 3 accumulated is larger than the train split of 150 samples; choose"),
        ((64, 1), 1, 1, "train split of 1 samples; add samples"),
        ((64, 1), 40, 4, "choose --batch-size 8"),
        ((63, 1), 1000, 4, "cannot be shared evenly by 4 processes; choose --batch-size 60"),
        ((3, 1), 1000, 4, "cannot be shared evenly by 4 processes; choose --batch-size 4"),
    ],
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(
    batch: tuple[int, int], samples: int, processes: int, message: str
) -> None:
    size, accumulate = batch
    with pytest.raises(UserError) as caught:
        Budget.of(TrainConfig(batch_size=size, accumulate=accumulate), samples, processes)
    assert message in str(caught.value)
    if "choose" in message:
        better = int(str(caught.value).rpartition("--batch-size ")[2].split()[0])
        Budget.of(TrainConfig(batch_size=better, accumulate=accumulate), samples, processes)


# ---- the learning rate


@pytest.mark.parametrize(
    ("scaling", "rate", "text"),
    [
        ("linear", 0.06 * 4, "0.24 = 0.06 · 1024/256"),
        ("sqrt", 0.06 * 2, "0.12 = 0.06 · √(1024/256)"),
        ("none", 0.06, "0.06"),
    ],
)
def test_the_rate_scales_with_the_images_of_a_step(scaling: str, rate: float, text: str) -> None:
    config = TrainConfig(lr=0.06, lr_scaling=scaling)
    assert learning_rate(config, 1024) == pytest.approx(rate)
    assert describe_learning_rate(config, 1024) == text
    assert learning_rate(config, 256) == pytest.approx(0.06)


STEPS = 100
"""The steps of the run whose rate is `scheduled`, unless it has another budget."""


def scheduled(**settings: Any) -> Callable[[float], float]:
    """Return the rate as a function of progress, for a peak of 1."""
    config = TrainConfig(lr=1.0, lr_scaling="none", **{"epochs": 1, **settings})
    task = build_task(
        small_config("rotation"), build_data(small_config("rotation"), torch.device("cpu")).spec
    )
    optimizer = create_optimizer(task, config, 256)
    schedules = Schedules(optimizer, config, Budget.of(config, 256 * STEPS))

    def rate(progress: float) -> float:
        schedules.follow(progress)
        return float(optimizer.param_groups[0]["lr"])

    return rate


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_warm_up_is_linear_from_its_first_step_and_the_cosine_ends_at_nothing(warmup: float) -> None:
    rate = scheduled(schedule="cosine", warmup=warmup)
    for progress in torch.linspace(0, 0.9999, 57).tolist():
        if progress < warmup:
            first = 1 / (STEPS * warmup)
            expected = first + (1 - first) * progress / warmup
        else:
            expected = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
        assert rate(progress) == pytest.approx(expected, abs=1e-5)
    assert rate(0.9999) < 1e-6 / (1 - warmup) ** 2
    assert rate(1.0) == 0


def test_a_line_falls_to_nothing_after_its_warm_up() -> None:
    rate = scheduled(schedule="linear", warmup=0.2)
    assert rate(0.1) == pytest.approx((1 + 1 / 20) / 2)
    assert [rate(p) for p in (0.2, 0.4, 0.6, 1.0)] == pytest.approx([1, 0.75, 0.5, 0])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_rate_with_a_floor_ends_there(schedule: str) -> None:
    rate = scheduled(schedule=schedule, warmup=0.2, lr_min=0.1)
    assert [rate(p) for p in (0.2, 0.6, 1.0)] == pytest.approx([1, 0.55, 0.1])


def test_steps_fall_at_the_milestones_in_whatever_order_they_are_given() -> None:
    rate = scheduled(schedule="step", milestones=[0.8, 0.3, 0.6], decay=0.2, warmup=0.1)
    assert rate(0.05) == pytest.approx((1 + 1 / 10) / 2)
    for progress, drops in [(0.1, 0), (0.29, 0), (0.31, 1), (0.59, 1), (0.61, 2), (0.81, 3), (1, 3)]:
        assert rate(progress) == pytest.approx(0.2**drops)


def test_a_constant_rate_is_constant_after_its_warm_up() -> None:
    rate = scheduled(schedule="constant", warmup=0.2)
    assert rate(0.1) == pytest.approx((1 + 1 / 20) / 2)
    assert [rate(p) for p in (0.2, 0.5, 0.99, 1.0)] == [1.0] * 4


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
@pytest.mark.parametrize(
    ("warmup", "budget", "first"),
    [
        (0.1, {"epochs": 1}, 1 / 10),
        (0.05, {"epochs": 2}, 1 / 10),
        (0.05, {"samples": 1}, 1),
        (0.05, {"epochs": 0.1}, 1),
        (0.1, {"epochs": None, "minutes": 3}, 1 / 100),
    ],
)
def test_a_warm_up_of_n_steps_begins_at_one_nth_of_the_rate(
    schedule: str, warmup: float, budget: dict[str, Any], first: float
) -> None:
    rate = scheduled(schedule=schedule, warmup=warmup, **{"epochs": None, **budget})
    assert rate(0.0) == pytest.approx(first)
    assert rate(warmup) == 1
