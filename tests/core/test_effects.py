"""Settings without an effect are said, whatever the reason."""

from __future__ import annotations

import re

from ssl_zoo.config.effects import report_ineffective
from ssl_zoo.notices import collect_notices
from tests.conftest import Call, small_config


def test_settings_of_training_are_said_to_have_no_effect_on_a_network_that_is_not_trained(
    call: Call,
) -> None:
    code, _, err = call(
        *("eval", "timm:test_resnet", "--data", "digits", "--protocol", "knn", "--device", "cpu"),
        *("--set", "train.optimizer=adamw", "--set", "train.epochs=5", "--set", "train.seed=1"),
        *(
            "--set",
            "train.momentum=0.9",
            "--set",
            "backbone.stem_size=16",
            "--set",
            "backbone.stem=small",
        ),
    )
    assert code == 0, err
    assert re.findall(r"^(\S+) has no effect: (.*)$", err, re.MULTILINE) == [
        ("train.epochs", "nothing is trained here"),
        ("train.optimizer", "nothing is trained here"),
        ("backbone.stem_size", "backbone.stem is small"),
    ]


def test_a_floor_of_a_constant_rate_is_said_to_have_no_effect() -> None:
    config = small_config("simclr", train__lr_min=0.1, train__schedule="constant")
    with collect_notices() as notices:
        report_ineffective(config)
    assert [n["text"] for n in notices] == [
        "train.lr_min has no effect: train.schedule is constant",
    ]


def test_settings_without_effect_beside_others_are_said() -> None:
    config = small_config(
        "simclr",
        **{"backbone__strict": False, "backbone__stem_stride": 2, "backbone__stem": "original"},
        **{"train__knn_points": 2, "train__part_size": 8, "train__schedule": "cosine"},
    )
    with collect_notices() as notices:
        report_ineffective(config, processes=1, no_accuracy="has no labels")
    assert {n["text"].split()[0]: n["text"].partition(": ")[2] for n in notices} == {
        "train.part_size": "train.cached_gradients is off",
        "train.knn_points": "the data has no labels",
        "backbone.stem_stride": "backbone.stem is original",
        "backbone.strict": "backbone.weights is not set",
    }
