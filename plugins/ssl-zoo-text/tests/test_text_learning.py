"""Masked and next-token losses fall well under the entropy of single tokens on the bundled text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ssl_zoo_text.corpus import TextOptions, build
from ssl_zoo_text.kjv import chapters
from ssl_zoo_text.spec import TextSpec

from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.runs.build import restore_task
from ssl_zoo.training import train
from ssl_zoo.views import Rng


@pytest.mark.slow
@pytest.mark.parametrize(("task", "samples"), [("bert", 48_000), ("gpt", 10_000)])
def test_the_loss_of_new_text_is_half_a_nat_under_the_unigram_entropy(
    task: str, samples: int, tmp_path: Path
) -> None:
    """The new text are the chapters that are held out; some minutes a task on one core."""
    data = build("kjv", chapters(), DataConfig(), torch.device("cpu"), TextOptions())
    assert isinstance(data.spec, TextSpec)
    assert data.test is not None
    config = load_config(None, {"task.name": task, "train.samples": samples, "train.device": "cpu"})
    run = train(config, out=tmp_path / "run", data=data, protocol=[], with_baselines=False)
    trained = restore_task(run, data.spec).eval()
    views = trained.views(data.test.batch(torch.arange(256)), Rng(0))
    with torch.no_grad():
        loss = trained.loss(views).total.item()
    print(f"{task}: {loss:.2f} nats, {data.spec.unigram_entropy():.2f} for single tokens")
    assert loss < data.spec.unigram_entropy() - 0.5
