"""The loss on held-out samples is the literal mean over targets, and measuring it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_zoo import Losses, Rng, Task
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.evaluation import Subject, score, standard_protocols
from ssl_zoo.evaluation.pretext import BATCH, PRETEXT
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.eval_batch import EvalBatch
from ssl_zoo.views import derive_seed
from tests.conftest import small_config

CPU = torch.device("cpu")
DEVICE = Device(CPU, "fp32", False)


class Bright(Task):
    """The mean over the pixels that are drawn; of some batches none is."""

    name = "bright"

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        x = self.spec.prepare(batch)
        chosen = rng.uniform(*x.shape) < 0.3 * rng.uniform(1).round()
        return x, chosen

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        x, chosen = views
        return Losses(x[chosen].mean(), weight=chosen.sum())  # not a number where none is chosen


@pytest.fixture(name="data", scope="module")
def digits() -> DataSet:
    whole = build_data(small_config("simclr"), CPU)
    assert whole.test is not None
    test = ArraySplit(whole.test.batch(torch.arange(5 * BATCH + 9)), None)
    return DataSet("digits", whole.spec, whole.train, test, whole.bank)


def test_the_loss_is_the_mean_over_all_targets_of_full_batches(data: DataSet) -> None:
    assert data.test is not None
    task = Bright(build_task(small_config("simclr"), data.spec).encoder, None, data.spec)
    ours = score(Subject.of_task(task, data, DEVICE, seed=3), ["pretext"])["pretext-loss"]
    rng, targets, without = Rng(derive_seed(3, "pretext")), [], 0
    numbers = data.test.sample(5 * BATCH)
    order = torch.randperm(5 * BATCH, generator=torch.Generator().manual_seed(3))
    for chunk in numbers[order].split(BATCH):
        x, chosen = task.views(data.test.batch(chunk), rng)
        targets += x[chosen].tolist()
        without += not chosen.any()
    assert 0 < without < 5
    assert ours == pytest.approx(sum(targets) / len(targets), rel=1e-5)


def test_batches_are_as_large_whatever_evaluation_takes_at_once(data: DataSet) -> None:
    task = build_task(small_config("simclr"), data.spec)
    few = replace(DEVICE, eval_batch=EvalBatch(16))
    expected, found = (score(Subject.of_task(task, data, d), ["pretext"]) for d in (DEVICE, few))
    assert found == expected


def test_measuring_it_twice_gives_the_same_and_leaves_the_task_as_it_was(
    data: DataSet, task_name: str
) -> None:
    task = build_task(small_config(task_name), data.spec).train()
    task.encoder.model.layer1.eval()  # as somebody who freezes a part has it
    modes = [module.training for module in task.modules()]
    state = {name: value.clone() for name, value in task.state_dict().items()}
    randomness = torch.get_rng_state()
    subject = Subject.of_task(task, data, DEVICE)
    first, second = (score(subject, ["pretext"]) for _ in "ab")
    assert first == second
    assert first["pretext-loss"] > 0
    assert [module.training for module in task.modules()] == modes
    assert all(value.equal(state[name]) for name, value in task.state_dict().items())
    assert task.progress == 0
    assert torch.get_rng_state().equal(randomness)


def test_what_has_no_such_loss_has_one_line_that_says_what_to_do(data: DataSet) -> None:
    task = build_task(small_config("simclr"), data.spec)
    needy: Any = build_task(small_config("supervised"), data.spec)
    for subject, reason in [
        (
            Subject.of_encoder(task.encoder, data, DEVICE, "random-init"),
            "random-init is a network without a loss; evaluate a run",
        ),
        (
            Subject.of_task(needy, data, DEVICE),
            "supervised asks for more than samples (labels); evaluate another task",
        ),
        (
            Subject.of_task(task, replace(data, test=None), DEVICE),
            "digits has no samples that were not trained on; set data.holdout",
        ),
    ]:
        assert PRETEXT.no_scores(subject) == reason
        assert PRETEXT(subject) == {}
    assert "pretext" not in standard_protocols("image")
