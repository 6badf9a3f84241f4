"""Settings that have no effect, beside others or where nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_zoo.config.presets import SMALL_IMAGE
from ssl_zoo.config.schema import BackboneConfig, EncoderConfig
from ssl_zoo.notices import Notice
from ssl_zoo.sizes import longer_side

NO_EFFECT = Notice(
    "no-effect",
    "A setting that differs from its default has no effect, beside another one or where nothing is "
    "trained.",
    "leave it out, or change the other one",
)

_EVALUATION = frozenset(
    {
        *("device", "precision", "channels_last", "threads", "deterministic", "seed"),
        *("eval_batch_size", "batch_size", "cached_gradients", "part_size"),
    }
)
"""The settings of `train` that evaluation uses; it passes as many samples at a time as training."""


def report_ineffective(config: EncoderConfig, processes: int = 1, no_accuracy: str = "") -> None:
    """Give a notice for each setting of a run that has no effect.

    Args:
        config: the configuration.
        processes: the number of processes.
        no_accuracy: why the data allow no accuracy, as `DataSet.no_accuracy`; "" if they do.
    """
    train = config.train
    schedule = f"train.schedule is {train.schedule}"
    _report(
        config,
        {
            "train.milestones": train.schedule != "step" and schedule,
            "train.decay": train.schedule != "step" and schedule,
            "train.lr_min": train.schedule not in ("cosine", "linear") and schedule,
            "train.part_size": not train.cached_gradients and "train.cached_gradients is off",
            "train.parallel": processes == 1 and "there is one process",
            "train.sync_batchnorm": processes == 1 and "there is one process",
            "train.knn_every": no_accuracy and f"the data {no_accuracy}",
            "train.knn_points": no_accuracy and f"the data {no_accuracy}",
            **_network_reasons(config),
        },
    )


def report_untrained(config: EncoderConfig) -> None:
    """Give a notice for each setting that has no effect on a network that is not trained."""
    unused = config.train.model_fields_set - _EVALUATION
    reasons = {f"train.{name}": "nothing is trained here" for name in sorted(unused)}
    _report(config, {**reasons, **_network_reasons(config)})


def _network_reasons(config: EncoderConfig) -> dict[str, str | bool]:
    """Return why each setting of the network has no effect; False or "" where it has one."""
    backbone = config.backbone
    given = config.data.image_size
    size = backbone.stem_size or (None if given is None else longer_side(given))
    original = backbone.stem == "auto" and size is not None and size > SMALL_IMAGE
    stem = f"backbone.stem is {backbone.stem}"
    no_weights = backbone.weights is None and "backbone.weights is not set"
    return {
        "backbone.stem_stride": (original and f"the stem is the original one for {size} pixels")
        or (backbone.stem == "original" and stem),
        "backbone.stem_size": backbone.stem != "auto" and stem,
        "backbone.weights_prefix": no_weights,
        "backbone.strict": no_weights,
    }


def _report(config: EncoderConfig, reasons: Mapping[str, str | bool]) -> None:
    """Give a notice for each setting that differs from its default though there is a reason not to."""
    for path, reason in reasons.items():
        if reason and _differs(config, path):
            NO_EFFECT(f"{path} has no effect: {reason}")


def _differs(config: EncoderConfig, path: str) -> bool:
    """Return whether a setting differs from its default; a preset has its own."""
    section, name = path.split(".")
    defaults = EncoderConfig(backbone=BackboneConfig(name=config.backbone.name))
    value: Any = getattr(getattr(config, section), name)
    return bool(value != getattr(getattr(defaults, section), name))
