"""The images that weights of other tools were trained on, so that a network is fed with the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ssl_zoo.config.schema import BackboneConfig, DataConfig
from ssl_zoo.notices import Notice
from ssl_zoo.plugins.registry import registry
from ssl_zoo.sizes import Size, parse_size

GUESSED = Notice(
    "normalisation-guessed",
    "A file of another tool does not tell how its images were normalised: ImageNet's mean and deviation "
    "are taken, with which most are trained, unless timm knows the name of the network with its tag.",
    "backbone.mean and backbone.std; or timm's name with a tag, such as vit_small_patch16_224.dino",
)


@dataclass(frozen=True)
class TrainedOn:
    """The images that weights were trained on.

    Attributes:
        mean: the mean of each channel by which they were normalised, for intensities in [0, 1].
        std: the standard deviation of each channel, likewise.
        size: the size of the network's input.
        interpolation: how they were resized.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Size
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


def trained_on(name: str, options: Mapping[str, Any] | None = None) -> TrainedOn | None:
    """Return the images of timm's weights of a network; None if timm does not know them.

    Args:
        name: the name of a timm model, with or without a tag.
        options: further arguments of `timm.create_model`, of which ``pretrained_cfg`` and
            ``pretrained_cfg_overlay`` count.
    """
    import timm  # here, as it loads torch
    from timm.models import resolve_pretrained_cfg

    if not timm.is_model(name):
        return None
    given = {key: (options or {}).get(key) for key in ("pretrained_cfg", "pretrained_cfg_overlay")}
    try:
        known = resolve_pretrained_cfg(name, **given)
        mean, std = (tuple(map(float, values)) for values in (known.mean, known.std))
        size = parse_size(tuple(known.input_size[-2:]))
    except Exception:  # an unknown tag or a malformed option, which building the network reports
        return None
    valid = len(mean) == len(std) > 0 and all(map(math.isfinite, mean + std)) and min(std) > 0
    bicubic = known.interpolation == "bicubic"
    return TrainedOn(mean, std, size, "bicubic" if bicubic else "bilinear") if valid else None


def as_trained(backbone: BackboneConfig, data: DataConfig) -> tuple[BackboneConfig, DataConfig]:
    """Return the sections with the normalisation, the size and the interpolation that weights are for.

    They are for weights of timm, or of another tool; those of ssl-zoo bring their own. What is set
    already stays.

    Args:
        backbone: the section ``backbone``.
        data: the section ``data``.
    """
    plugins = registry.collect("ssl_zoo_register_backbones") if backbone.starts_trained else {}
    if not backbone.starts_trained or backbone.name in plugins:
        return backbone, data
    network = backbone.resolve()
    known = trained_on(network.name, network.options)
    if known is None:
        return backbone, data
    options = network.options
    tagged = "." in network.name or "mean" in (options.get("pretrained_cfg_overlay") or {})
    named = backbone.pretrained or tagged or bool(options.get("pretrained_cfg"))
    if backbone.mean is None and not named:
        from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        known = TrainedOn(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, data.default_size)
        GUESSED(
            f"{backbone.weights}: images are normalised by ImageNet's mean and deviation, as for most "
            "weights of other tools; backbone.mean and backbone.std set others"
        )
    if backbone.mean is None:
        backbone = backbone.model_copy(update={"mean": known.mean, "std": known.std})
    if backbone.interpolation is None and named:
        backbone = backbone.model_copy(update={"interpolation": known.interpolation})
    if named and "default_size" not in data.model_fields_set:
        data = data.model_copy(update={"default_size": known.size})
    return backbone, data
