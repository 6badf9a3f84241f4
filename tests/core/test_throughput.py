"""`bench` measures training against the same steps on views that are ready on the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.plugins.registry import registry
from ssl_zoo.tools.bench import MIN_PAIRS, PREFETCHED_BATCHES, _inputs, bench
from ssl_zoo.training.trainer import PHASES
from ssl_zoo.views import Rng
from ssl_zoo_vision.contrastive.simclr import SimCLR
from tests.conftest import Call, flags, small_config

THIRD_PARTY = Path(__file__).parent.parent / "plugins" / "thirdparty"


class Counted(SimCLR):
    """SimCLR that counts its calls of `views` and `after_step`."""

    name = "counted"
    made = 0
    stepped = 0

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        type(self).made += 1
        mask = torch.zeros(len(batch), 1, 16, 16, dtype=torch.bool)
        return *super().views(batch, rng), mask, rng.permutation(len(batch))

    def loss(self, views: tuple[Tensor, ...]):  # type: ignore[no-untyped-def]
        return super().loss(views[:2])

    def after_step(self, progress: float) -> None:
        type(self).stepped += 1


@pytest.fixture
def counted(isolated_registry: None) -> type[Counted]:
    registry.register_task(Counted)
    Counted.made = Counted.stepped = 0
    return Counted


def config(task: str, **settings: object) -> RunConfig:
    return small_config(task, train__batch_size=32, train__tune=False, **settings)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_ceiling_makes_steps_and_no_views(counted: type[Counted], accumulate: int) -> None:
    measured = bench(config("counted", train__accumulate=accumulate), seconds=0)
    assert len(measured.ratios) == MIN_PAIRS
    full = counted.made // accumulate - PREFETCHED_BATCHES
    ceiling = counted.stepped - full
    # Before the pairs there is one block of warm-up for the ceiling, and one that sets the block length.
    # Training has two blocks of warm-up, and one more whose phases are timed; each of its blocks begins
    # with a step that does not count.
    block = (ceiling - 2) // MIN_PAIRS
    assert ceiling == 2 + block * MIN_PAIRS
    assert full == 2 * (1 + 1) + (1 + block) * (MIN_PAIRS + 1)


def test_figures_fit_together(counted: type[Counted]) -> None:
    measured = bench(config("counted"), seconds=0)
    assert measured.views_per_sample == 2  # neither the mask nor the permutation is a view
    assert measured.views_per_s == pytest.approx(2 * measured.samples_per_s)
    assert min(measured.ratios) <= measured.ratio <= max(measured.ratios)
    assert list(measured.shares) == list(PHASES)
    assert all(share > 0 for share in measured.shares.values())
    assert sum(measured.shares.values()) <= 1


class Text(NamedTuple):
    """Ids [B, T] and lengths [B]."""

    ids: Tensor
    lengths: Tensor


def test_views_are_what_is_like_a_prepared_batch(isolated_registry: None) -> None:
    image, example = torch.zeros(5, 1, 8, 8), torch.zeros(2, 1, 16, 16)
    assert _inputs(image, example) == 5
    assert _inputs(torch.zeros(5, 9, 1, 4, 4), example) == 5 * 9  # the tiles of jigsaw
    assert _inputs(image.bool(), example) == _inputs(image[:, 0, 0, 0], example) == 0
    ids, lengths = torch.zeros(3, 7, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    assert _inputs(Text(ids, lengths), Text(ids[:2], lengths[:2])) == 3
    assert _inputs(ids, Text(ids, lengths)) == _inputs(ids > 0, Text(ids, lengths)) == 0
    registry.load_file(THIRD_PARTY / "waveform.py")
    waves = bench(load_config(None, {"task.name": "wave-coding", "train.tune": False}), seconds=0)
    assert (waves.noun, waves.views_per_sample) == ("waves", 1)
    assert waves.views_per_s == waves.samples_per_s


@pytest.mark.parametrize("task_name", ["simclr", "rotation"])  # with two views, and with four
def test_json_has_what_scripts_read(call: Call, task_name: str) -> None:
    arguments = flags(task_name, train__batch_size=32, train__tune=False)
    code, out, err = call("bench", *arguments, "--seconds", "0", "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed["task"] == task_name
    assert printed["backbone"] == "test_resnet"
    assert printed["views_per_s"] > 0
    assert printed["ceiling_views_per_s"] > 0
    assert printed["ratio"] > 0
    assert printed["peak_memory_bytes"] is None or printed["peak_memory_bytes"] > 2**20
    assert set(printed["shares"]) == set(PHASES)
    assert not list(Path.cwd().iterdir())  # it leaves nothing behind


def test_a_trace_names_each_phase(call: Call) -> None:
    arguments = flags("moco", train__batch_size=32, train__tune=False)
    assert call("bench", *arguments, "--out", "here") == (
        2, "", "error: --out requires --profile, which writes there\n"
    )  # fmt: skip
    wrong = call("bench", *arguments, "--set", "data.source=nowhere", "--profile")
    assert wrong[0] == 2
    assert not list(Path.cwd().iterdir())
    code, out, err = call("bench", *arguments, "--seconds", "0", "--profile")
    assert code == 0, err
    (trace,) = Path("runs").glob("*/trace.json")
    assert out.splitlines()[-1] == f"wrote {trace}"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert names >= set(PHASES)
