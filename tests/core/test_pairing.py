"""Intervals of accuracies and of differences: few samples that differ, and samples in groups."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import t as student

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import load
from ssl_zoo.evaluation.correctness import Correctness, read_correctness, write_correctness
from ssl_zoo.evaluation.pairing import accuracy_interval, difference_interval
from ssl_zoo.evaluation.protocol import known_protocols
from ssl_zoo.evaluation.reading import describe_gains, measure_gains
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.runtime.device import Device
from tests.conftest import small_config
from tests.core.pictures import photo, write


def tiles(files: int, each: int, seed: int, draws: int = 1) -> Correctness:
    """Return whether a row gets tiles right: those of a file all or none, in 7 of 10 cases."""
    right = torch.rand(draws, files, generator=torch.Generator().manual_seed(seed)) < 0.7
    groups = torch.arange(files).repeat_interleave(each)
    return Correctness(right.repeat_interleave(each, 1), 0.1 if draws > 1 else 1.0, groups)


def told_better(files: int, each: int, draws: int, tries: int = 2000) -> float:
    """Return how often the first of two equal rows is told to be better."""
    pairs = ([tiles(files, each, 2 * i + j, draws) for j in (0, 1)] for i in range(tries))
    return sum(difference_interval(a, b).positive for a, b in pairs) / tries


@pytest.mark.parametrize(("files", "draws"), [(10, 1), (30, 1), (10, 3)])
def test_equal_rows_are_seldom_told_apart_by_tiles_of_few_files(files: int, draws: int) -> None:
    """In 2.5 of 100 cases, of 2,000; if the tiles counted as samples, in 40."""
    assert told_better(files, 20, draws) <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 2000)


def test_the_interval_of_equal_groups_is_that_of_their_means() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 120, generator=generator) < p for p in (0.8, 0.6))
    groups = torch.arange(120) % 12
    found = difference_interval(Correctness(a, 1.0, groups), Correctness(b, 1.0, groups))
    means = (a.double() - b.double()).view(10, 12).mean(0)
    assert found.mean == pytest.approx(100 * float(means.mean()))
    literal = student.ppf(0.975, 11) * float(means.std()) / math.sqrt(12)
    assert found.half_width == pytest.approx(100 * literal)
    # Each sample in a group of its own is no group.
    alone = difference_interval(Correctness(a, 1.0, torch.arange(120)), Correctness(b))
    assert alone.half_width == pytest.approx(
        difference_interval(Correctness(a), Correctness(b)).half_width
    )


def test_one_file_with_nearly_all_tiles_tells_nothing() -> None:
    groups = torch.tensor([0] * 1000 + list(range(1, 21)))
    right = Correctness(torch.ones(1, 1020, dtype=torch.bool), 1.0, groups)
    assert right.units == pytest.approx(1020**2 / (1000**2 + 20))
    assert accuracy_interval(right).half_width == 100
    assert difference_interval(right, right).half_width == 200
    assert measure_gains({"knn": right}, {"pixels": {"knn": right}}) == []


@pytest.mark.parametrize("wrong", [0, 1, 4, 12, 40])
def test_the_interval_of_an_accuracy_is_at_least_the_rule_of_three(wrong: int) -> None:
    c = Correctness((torch.arange(200) >= wrong)[None])
    p = wrong / 200  # the others are alike
    wald = float(student.ppf(0.975, 199)) * math.sqrt(p * (1 - p) / 199)
    interval = accuracy_interval(c)
    assert interval.half_width == pytest.approx(100 * max(wald, -math.log(0.05) / 200 * (1 - p)))
    assert interval.at_limit == (wrong < 3)


def test_groups_are_kept_beside_what_is_classified_correctly(tmp_path: Path) -> None:
    grouped = tiles(4, 3, 0)
    write_correctness(tmp_path, "knn", {"knn": grouped})
    write_correctness(tmp_path, "linear", {"linear": replace(grouped, groups=None)})
    found = read_correctness(tmp_path)
    assert found["knn"].groups is not None
    assert torch.equal(found["knn"].groups, grouped.groups)
    assert found["linear"].groups is None


@pytest.mark.parametrize(
    ("settings", "groups"),
    [({"tile": 8}, 4), ({"groups": r"p\d+"}, 2), ({"tile": 8, "groups": r"p\d+"}, 2), ({}, None)],
)
def test_what_is_held_out_together_is_one_group(
    settings: dict[str, object], groups: int | None, tmp_path: Path
) -> None:
    """Of 8 pictures, two of each patient, half is held out; each is 4 tiles."""
    for i in range(8):
        write(tmp_path / "ab"[i // 4] / f"p{i // 2}_{i}.png", photo((16, 16), seed=i))
    config = DataConfig(source=str(tmp_path), image_size=8, holdout=0.5, **settings)
    device = Device.choose(small_config("rotation").train)
    subject = Subject.raw(load(config, torch.device("cpu")), device)
    assert subject is not None
    (correct,) = known_protocols()["knn"].correctness_of(subject).values()
    assert correct.number_of_groups == groups
    if groups is not None:
        assert correct.groups is not None
        samples = 16 if "tile" in settings else 4
        assert correct.groups.bincount().tolist() == [samples // groups] * groups


def test_the_sentence_after_training_says_how_many_groups_there_are() -> None:
    every = torch.ones(1, 600, dtype=torch.bool)
    groups = torch.arange(600) // 20
    gains = measure_gains(
        {"knn": Correctness(every, 1.0, groups)}, {"pixels": {"knn": Correctness(~every, 1.0, groups)}}
    )
    assert (
        "Training has helped: kNN 100.0 % (100.0 ± 10.0 points above pixels), on 600 images in 30 gro"
        in (describe_gains(gains, "images"))
    )
