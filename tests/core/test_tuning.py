"""A short trial finds the fastest device settings, where that pays, and leaves nothing else behind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import load
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Losses
from ssl_zoo.training import Trainer, train, tuning
from ssl_zoo_vision.contrastive.simclr import SimCLR
from tests.conftest import small_config

BASE = Device(torch.device("cpu"), "bf16", True, 2)


def config(**settings: Any) -> RunConfig:
    return small_config("simclr", **{"train__precision": "auto", "train__epochs": 1000, **settings})


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[tuple[str, bool, int], float],
    *,
    compiled: tuning.Timing | None = None,
    **settings: Any,
) -> tuple[Device, int]:
    """Return the device chosen for these step times, and the number of trials; other steps take 1 s.

    Without a time of compiled steps, there is no compiler.
    """
    trials: list[Device] = []

    def measure(trainer: Trainer) -> tuning.Timing:
        device = trainer.device
        trials.append(device)
        if device.compile:
            assert compiled is not None
            return compiled
        return tuning.Timing(1, seconds.get((device.precision, device.channels_last, device.threads), 1))

    monkeypatch.setattr(tuning, "_time", measure)
    monkeypatch.setattr(tuning, "can_compile", lambda: compiled is not None)
    run = config(**settings)
    return tuning.tune_device(run, load(run.data, BASE.device), BASE), len(trials)


def test_the_quickest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    device, trials = chosen(monkeypatch, {("bf16", True, 1): 0.5, ("fp32", False, 1): 0.4})
    assert device == Device(BASE.device, "fp32", False, 1)
    assert trials == 5


def test_what_the_hardware_suggests_stays_unless_another_is_clearly_quicker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chosen(monkeypatch, {("fp32", True, 2): 0.92})[0] == BASE
    failing = {("fp32", last, 2): math.inf for last in (True, False)}
    assert chosen(monkeypatch, failing)[0] == BASE


def test_what_is_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {("fp32", last, threads): 0.1 for last in (True, False) for threads in (1, 2)}
    assert chosen(monkeypatch, quick, train__precision="bf16")[0] == BASE
    device, _ = chosen(monkeypatch, quick, train__channels_last=True, train__threads=2)
    assert device == replace(BASE, precision="fp32")
    fixed = {"train__precision": "bf16", "train__channels_last": True, "train__threads": 2}
    fixed["train__compile"] = False
    assert chosen(monkeypatch, quick, **fixed) == (BASE, 0)


@pytest.mark.parametrize(
    "settings", [{"tune": False}, {"deterministic": True}, {"epochs": 2}, {"compile": True}]
)
def test_no_trial_where_it_is_not_wanted_or_does_not_pay(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    disabling = {f"train__{name}": value for name, value in settings.items()}
    assert chosen(monkeypatch, {}, **disabling) == (BASE, 0)


def test_a_short_run_tries_the_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = {("bf16", True, 2): 0.1, ("bf16", True, 1): 0.05, ("fp32", True, 1): 0.01}
    halved = replace(BASE, threads=1)
    minutes = {"train__minutes": 0.5, "train__epochs": None}  # 300 steps at the first trial's speed
    assert chosen(monkeypatch, busy, **minutes) == (halved, 2)
    busy["bf16", True, 1] = 0.095
    assert chosen(monkeypatch, busy, **minutes) == (BASE, 2)
    assert chosen(monkeypatch, busy, **minutes, train__threads=2) == (BASE, 1)


def test_a_run_of_seconds_is_left_after_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, {("bf16", True, 2): 1e-5}) == (BASE, 1)
    short = {"train__minutes": 0.25, "train__epochs": None}
    assert chosen(monkeypatch, {("bf16", True, 2): 0.1}, **short) == (BASE, 1)


def test_a_long_run_is_compiled_if_its_steps_save_what_compiling_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hour = {"train__minutes": 60, "train__epochs": None}  # 3600 steps of a second
    quick, slow = tuning.Timing(60, 0.9), tuning.Timing(400, 0.9)
    compiled = replace(BASE, compile=True)
    assert chosen(monkeypatch, {}, compiled=quick, **hour) == (compiled, 6)
    assert chosen(monkeypatch, {}, compiled=slow, **hour) == (BASE, 6)
    assert chosen(monkeypatch, {}, compiled=tuning.Timing(60, 0.97), **hour) == (BASE, 6)
    assert chosen(monkeypatch, {}, compiled=tuning.Timing(0, math.inf), **hour) == (BASE, 6)
    assert chosen(monkeypatch, {}, compiled=quick, **{**hour, "train__minutes": 14}) == (BASE, 2)
    assert chosen(monkeypatch, {}, compiled=quick, **hour, train__compile=False) == (BASE, 5)
    assert chosen(monkeypatch, {}, compiled=quick, **hour, train__cached_gradients=True) == (BASE, 5)


def test_a_trial_changes_no_loss_and_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads, formats, _ = (stage._replace(steps=1, seconds=0.0) for stage in tuning.STAGES)
    monkeypatch.setattr(tuning, "STAGES", (threads, formats))
    tried: list[Device] = []
    measure = tuning._time
    monkeypatch.setattr(tuning, "_time", lambda t: (tried.append(t.device), measure(t))[1])
    short = {"train__epochs": 0.3, "train__precision": "auto"}
    run = train(small_config("moco", **short), out=tmp_path / "a", with_baselines=False)
    assert len(tried) > 1
    recorded = run.config().train
    assert isinstance(recorded.channels_last, bool)
    assert recorded.threads is not None
    assert recorded.precision != "auto"
    assert recorded.compile is False
    chosen = ("precision", "channels_last", "threads", "compile")
    same = {f"train__{name}": getattr(recorded, name) for name in chosen}
    tried.clear()
    again = train(small_config("moco", **{**short, **same}), out=tmp_path / "b", with_baselines=False)
    assert not tried
    losses = [
        [line["loss"] for line in Run.open(r.path).metrics() if "loss" in line] for r in (run, again)
    ]
    assert losses[0] == losses[1]


def test_threads_and_determinism_hold_while_a_run_computes_and_no_longer() -> None:
    threads = torch.get_num_threads()
    device = Device(torch.device("cpu"), "fp32", True, threads + 1, deterministic=True)
    with device.computing():
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


class Fragile(SimCLR):
    """A task whose loss fails, and which records whether torch is deterministic."""

    name = "fragile"
    deterministic: list[bool] = []

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        self.deterministic.append(torch.are_deterministic_algorithms_enabled())
        raise RuntimeError("not implemented for this precision")


def test_what_cannot_be_computed_takes_for_ever(isolated_registry: None) -> None:
    registry.register_task(Fragile)
    run = small_config("fragile", train__deterministic=True)
    device = Device.choose(run.train)
    Fragile.deterministic.clear()
    assert tuning._time(Trainer(run, load(run.data, device.device), device)).seconds == math.inf
    assert Fragile.deterministic == [True]


def test_every_task_trains_deterministically(tmp_path: Path, task_name: str) -> None:
    runs = [
        train(
            small_config(task_name, train__epochs=0.2, train__deterministic=True),
            out=tmp_path / name, protocol=["knn"], with_baselines=False,
        )
        for name in "ab"
    ]  # fmt: skip
    first, second = ([line["loss"] for line in run.metrics() if "loss" in line] for run in runs)
    assert first == second
