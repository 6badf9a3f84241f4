"""The sentence below the scores of a run."""

import math
from pathlib import Path
from typing import Any

import pytest

from ssl_zoo.cli.console import print_run
from ssl_zoo.config.load import dump_config
from ssl_zoo.evaluation.reading import read_scores
from ssl_zoo.runs.run import Run
from tests.conftest import small_config


@pytest.mark.parametrize(
    ("trained", "n", "begins"),
    [
        (99.4, 359, "Training has helped"),
        (98.0, 359, "Training has made no difference that can be told"),
        (98.0, 10_000, "Training has helped"),
        (96.9, 359, "Training has made no difference that can be told"),
        (80.0, 359, "Training has not helped so far"),
    ],
)
def test_a_difference_counts_if_chance_does_not_make_it(trained: float, n: int, begins: str) -> None:
    scores = {"simclr": {"knn": trained}, "pixels": {"knn": 97.2}, "random-init": {"knn": 89.4}}
    text = read_scores(scores, n, "images")
    assert text is not None
    assert text.startswith(begins)
    assert f"{trained:.1f} % of {n:,} images" in text
    assert "97.2 % by pixels" in text


def test_the_interval_is_that_of_two_shares() -> None:
    text = read_scores({"a": {"knn": 50.0}, "b": {"knn": 50.0}}, 100, "texts")
    assert text is not None
    assert "± 13.9 points" in text  # 1.96 · √(2 · 0.25 / 100)


def test_nothing_is_said_without_a_comparison() -> None:
    assert read_scores({}, 10, "images") is None
    assert read_scores({"simclr": {"knn": 50.0}}, 10, "images") is None
    assert read_scores({"simclr": {"rankme": 3.0}, "pixels": {"knn": 50.0}}, 10, "images") is None
    assert read_scores({"simclr": {"knn": 50.0}, "pixels": {"knn": 40.0}}, 0, "images") is None
    for damaged in (1e308, math.nan, -1.0):
        assert read_scores({"simclr": {"knn": 50.0}, "x": {"knn": damaged}}, 10, "images") is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, ""),
        ({"data": {"train": 90}}, ""),
        ({"data": {"test": 0, "noun": "images"}}, ""),
        ({"data": {"test": 1000}}, "Training has helped: by kNN 90.0 % of 1,000 samples are put into"),
    ],
)
def test_a_run_of_an_older_version_is_printed_with_what_it_recorded(
    data: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    run.config_file.write_text(dump_config(small_config("rotation")))
    scores = {"rotation": {"knn": 90.0}, "pixels": {"knn": 40.0}}
    run.write_results({"scores": scores, **data})
    print_run(run)
    shown = capsys.readouterr().out
    assert f"run: {tmp_path}" in shown
    assert says in shown
    assert ("Training has" in shown) == bool(says)
