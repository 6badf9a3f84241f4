"""Masked and next-token losses fall well under the entropy of single tokens on the bundled text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ssl_zoo_text.corpus import TextOptions, build
from ssl_zoo_text.kjv import chapters
from ssl_zoo_text.spec import TextSpec

from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.training import train


@pytest.mark.slow
@pytest.mark.parametrize("task", ["bert", "gpt"])
def test_the_loss_of_new_text_is_half_a_nat_under_the_unigram_entropy(task: str, tmp_path: Path) -> None:
    """Ten thousand blocks are less than one pass over the text: each is new when its loss is logged."""
    data = build("kjv", chapters(), DataConfig(), torch.device("cpu"), TextOptions())
    assert isinstance(data.spec, TextSpec)
    config = load_config(None, {"task.name": task, "train.samples": 10_000, "train.device": "cpu"})
    train(config, out=tmp_path, data=data, protocol=[], with_baselines=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = [line["loss"] for line in lines if "loss" in line][-5:]
    assert sum(last) / len(last) < data.spec.unigram_entropy() - 0.5
