"""Runs are resumed from every state in which they may have been left."""

from __future__ import annotations

from pathlib import Path

from ssl_zoo.runs.run import Run
from ssl_zoo.training import train
from tests.conftest import small_config
from tests.robustness.killing import losses


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run = train(small_config("simclr"), out=tmp_path / "run")
    before = losses(run.path), run.results()["scores"]
    train(resume=run.path)
    assert (losses(run.path), run.results()["scores"]) == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    whole = train(small_config("simclr"), out=tmp_path / "whole")
    early = Run.create(tmp_path / "early", small_config("simclr"))
    early.metrics_file.write_text('{"step": 1, "loss": 0.5}\n')
    train(resume=early.path)
    assert losses(early.path) == losses(whole.path)


def test_scores_of_weights_that_move_on_do_not_stay(tmp_path: Path) -> None:
    early = Run.create(tmp_path / "early", small_config("simclr"))
    early.add_scores({"simclr": {"linear": 1.0}})  # as `eval` does for a run that has not ended
    assert "linear" not in train(resume=early.path).results()["scores"]["simclr"]
