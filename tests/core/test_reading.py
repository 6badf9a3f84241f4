"""The sentence below the scores of a run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_zoo.cli.console import print_run
from ssl_zoo.config.load import dump_config
from ssl_zoo.evaluation.correctness import Correctness
from ssl_zoo.evaluation.reading import describe_gains, measure_gains, read_gains, write_gains
from ssl_zoo.runs.run import Run
from tests.conftest import small_config


def correct(n: int, *wrong: int) -> dict[str, Correctness]:
    """Return the correctness by kNN of a classifier that gets these of n samples wrong."""
    mask = torch.ones(1, n, dtype=torch.bool)
    mask[0, list(wrong)] = False
    return {"knn": Correctness(mask)}


@pytest.mark.parametrize(
    ("trained", "pixels", "begins"),
    [
        ((), range(8), "Training has helped: kNN 100.0 % (2.2 ± 1.5 points above pixels), on 359"),
        (range(8), (), "Training has not helped so far: kNN 97.8 % (2.2 ± 1.5 points below pixels), on"),
        # The same difference, but ten samples are lost where eighteen are gained.
        (range(10), range(8, 26), "Training has made no difference that can be told: kNN 97.2 % (2.2 "),
        ((), (), "Training has made no difference that can be told: kNN 100.0 % (0.0 ± 0.8 points"),
    ],
)
def test_a_difference_counts_if_pairs_of_samples_show_it(
    trained: Iterable[int], pixels: Iterable[int], begins: str
) -> None:
    others = {"pixels": correct(359, *pixels), "random-init": correct(359, *range(100))}
    assert describe_gains(measure_gains(correct(359, *trained), others), "images").startswith(begins)


def test_the_interval_holds_for_all_metrics_together() -> None:
    one, two = correct(359), correct(359, *range(8))
    (alone,) = measure_gains(one, {"pixels": two})
    both = measure_gains(one | {"linear": one["knn"]}, {"pixels": two | {"linear": two["knn"]}})
    assert [gain.metric for gain in both] == ["knn", "linear"]
    wider = torch.distributions.Normal(0, 1).icdf(torch.tensor([0.9875, 0.975]))
    assert both[0].half_width / alone.half_width == pytest.approx(float(wider[0] / wider[1]), rel=0.01)


def test_gains_by_one_metric_and_losses_by_another_are_both_said() -> None:
    one = correct(359) | {"linear": correct(359, *range(20))["knn"]}
    two = correct(359, *range(20)) | {"linear": correct(359)["knn"]}
    text = describe_gains(measure_gains(one, {"pixels": two}), "texts")
    assert text.startswith("Training has helped by one measure and not by another: kNN 100.0 % (5.6 ± ")
    assert "linear 94.4 % (5.6 ± " in text
    assert "below pixels), on 359 texts" in text


def test_gains_are_read_as_they_were_written_and_what_is_damaged_is_left_out() -> None:
    gains = measure_gains(correct(359), {"pixels": correct(359, 1)})
    values = write_gains(gains)
    assert read_gains(values) == gains
    assert measure_gains(correct(359), {}) == []
    assert measure_gains(correct(19), {"pixels": correct(19, 1)}) == []
    odd: tuple[Any, ...] = (None, [], 3, "x", [{}], [values[0] | {"mean": "x"}])
    for damaged in (*odd, [values[0] | {"metric": "x"}]):
        assert read_gains(damaged) == []


@pytest.mark.parametrize("gains", [True, False])
def test_a_run_of_an_older_version_is_printed_with_what_it_recorded(
    gains: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    run.config_file.write_text(dump_config(small_config("rotation")))
    results: dict[str, Any] = {"scores": {"rotation": {"knn": 90.0}, "pixels": {"knn": 40.0}}}
    if gains:
        results["gains"] = write_gains(measure_gains(correct(359), {"pixels": correct(359, *range(8))}))
    run.write_results(results)
    print_run(run)
    shown = capsys.readouterr().out
    assert f"run: {tmp_path}" in shown
    assert ("Training has helped: kNN 100.0 %" in shown) == gains
