"""Several processes search steps for unused parameters only where a trial at the start finds any."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.notices import collect_notices
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses, Task
from ssl_zoo.testing.rank_server import server
from ssl_zoo.training import Trainer
from ssl_zoo.training.unused import may_be_unused
from tests.conftest import small_config
from tests.core.test_distributed import PARTS, Changing

STEPS = 3


class Picky(Changing):
    """It cannot be tried with two samples; one of its heads rests now and then."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        if len(views[0]) < 4:
            raise ValueError("at least four samples")
        return super().loss(views)


class Parted(Changing):
    """A head rests in the second of two processes, from the middle of the run on."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        features = self.encoder(views[0])
        total = sum((head(features).pow(2).mean() for head in (self.early, self.late)), torch.zeros(()))
        if self.progress in (0.0, 0.25) or self.progress > 0.9 or distributed.rank() == 0:
            total = total + self.odd(features).pow(2).mean()
        return Losses(total)


class Targets(Changing):
    """Its batches may be without targets, which its weight tells of."""

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        features, targets = self.encoder(views[0]), views[0].mean((1, 2, 3)) > 0
        total = sum(head(features).pow(2).mean() for head in (self.early, self.late, self.odd))
        return Losses(total, weight=targets.sum())


OWN = {task.__name__: task for task in (Changing, Picky, Parted, Targets)}


def trainer(name: str, find: bool | None = None, **settings: Any) -> Trainer:
    """Return a trainer of a task of the zoo, or of one of these."""
    settings = {"train__batch_size": 16, "train__images": 64, "train__epochs": None, **settings}
    settings |= {"train__find_unused_parameters": find, "train__optimizer": "sgd"}
    # What amplifies rounding is kept small: the rate, and statistics over few values.
    settings |= {"train__lr": 1e-4, "backbone__stem_stride": 1, "backbone__options": {}}
    config = small_config("simclr" if name in OWN else name, **settings)
    data = build_data(config, torch.device("cpu"))
    torch.manual_seed(0)
    task: Task | None = None
    if name in OWN:
        task = OWN[name](build_task(config, data.spec).encoder, None, data.spec).train()
    return Trainer(config, data, Device.choose(config.train), task)


def trained(trainer: Trainer) -> dict[str, Tensor]:
    """Return the weights after a few steps."""
    trainer.task.train()
    for batches in itertools.islice(trainer.epoch_batches(), STEPS):
        trainer.train_step(batches)
    return {name: p.detach() for name, p in trainer.task.named_parameters()}


CASES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "all used": ("simclr", False, {}),
    "in parts": ("simclr", False, {**PARTS, "train__images": 384}),
    "never pools": ("inpainting", True, {}),
    "rests for a while": ("Changing", True, {}),
    "needs four": ("Picky", True, {}),
    "targets": ("Targets", True, {}),
}
"""Tasks, whether they are searched, and settings, by what it is about."""


def join(folder: Path, rank: int) -> None:
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)


def work(folder: Path, rank: int) -> None:
    """Save the weights of each case, as decided by the trial, and with a search in each step."""
    join(folder, rank)
    weights = {}
    for case, (name, expected, settings) in CASES.items():
        with collect_notices() as notices:
            tried, searching = trainer(name, **settings), trainer(name, True, **settings)
        assert tried.parallel.model.find_unused_parameters is expected, case
        told = [n["text"] for n in notices if n["notice"] == "unused-parameters"]
        assert len(told) == (case == "needs four"), told
        assert all("failed (at least four samples)" in text for text in told)
        for key, value in tried.task.state_dict().items():  # the trial has left no trace
            assert value.equal(searching.task.state_dict()[key]), (case, key)
        weights[case] = trained(tried)
        if not expected:  # else it is the same
            for key, value in trained(searching).items():
                assert value.equal(weights[case][key]), (case, key)
    torch.save(weights, folder / f"weights-{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_only_tasks_with_unused_parameters_are_searched_and_all_train_as_one_process(
    tmp_path: Path,
) -> None:
    assert server.run(work, tmp_path) is None, [p.read_text() for p in tmp_path.glob("output-*")]
    shared = [torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for case, (name, _, settings) in CASES.items():
        for key, expected in trained(trainer(name, **settings)).items():
            assert shared[0][case][key].equal(shared[1][case][key]), (case, key)
            torch.testing.assert_close(shared[0][case][key], expected, rtol=1e-3, atol=1e-5, msg=case)


def part(folder: Path, rank: int, find: bool | None = None) -> None:
    """Train a task with a head that rests in one process, of which no trial tells."""
    join(folder, rank)
    parted = trainer("Parted", find)
    assert parted.parallel.model.find_unused_parameters is bool(find)
    trained(parted)


def part_searching(folder: Path, rank: int) -> None:
    part(folder, rank, True)


@pytest.mark.parametrize("works", [part, part_searching])
def test_a_parameter_that_rests_in_one_process_unforeseen_ends_the_run_in_a_line_that_says_what_to_set(
    tmp_path: Path, works: Any
) -> None:
    failed = server.run(works, tmp_path)
    if works is part_searching:
        assert failed is None, (tmp_path / "output-0").read_text()
        return
    assert failed == 1, (tmp_path / "output-0").read_text()
    last = (tmp_path / "output-1").read_text().strip().splitlines()[-1]
    assert last == (
        "ssl_zoo.errors.SslZooError: train.find_unused_parameters: odd.weight, odd.bias got no gradient "
        "in step 3, in one process or all; add --set train.find_unused_parameters=true"
    )


def test_a_trial_changes_no_random_numbers_and_says_nothing_of_its_two_samples() -> None:
    one = trainer("moco")
    state = torch.get_rng_state()
    with collect_notices() as notices:
        assert not may_be_unused(one.task, one.data.train, one.device)
        assert notices == []  # though moco tells of batches too small for its groups of keys
    assert torch.get_rng_state().equal(state)
