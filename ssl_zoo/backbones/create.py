"""Building the timm model that a configuration names, with its weights, as an `Encoder`."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
from timm.layers import PatchEmbed

from ssl_zoo.backbones.accounting import check_loaded, recorded_loading
from ssl_zoo.backbones.small_maps import prepare_small_maps
from ssl_zoo.backbones.small_stem import use_small_stem
from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.backbones.weights import CONVERTED, Weights
from ssl_zoo.config.presets import PRESETS
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import read_header
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.notices import Notice
from ssl_zoo.plugins.specs import spec_of
from ssl_zoo.sizes import format_size, longer_side, parse_size, write_size
from ssl_zoo.spec import ImageSpec
from ssl_zoo.text import did_you_mean, one_line, printable

MAX_USUAL_PATCHES = 1024
"""A notice is given of more patches an image: 32 × 32, as a ViT of patches of 14 has at 448 pixels."""

_RESERVED_OPTIONS = {
    "in_chans": "it follows from the data",
    "num_classes": "the network is trained without a classifier",
    "pretrained": "it is backbone.pretrained",
    "checkpoint_path": "it is backbone.weights (--from FILE)",
}
"""Arguments of `timm.create_model` that cannot be options, with the reason."""


_SIZE = Notice(
    "size-of-weights",
    "Images have another size than those that a network's weights were trained on: small images stay "
    "small, --image-size is obeyed, and all rows of a comparison see one size.",
    "--image-size",
)
_MANY_PATCHES = Notice(
    "many-patches",
    "A transformer cuts an image into more than 1,024 patches, as one for small images does with large "
    "ones.",
    "backbone.options.patch_size, --image-size, or another backbone",
)


_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})
"""Options by which timm's transformers take images of any size: ViT, EVA and Swin; older Swins."""


def create_backbone(config: BackboneConfig, spec: ImageSpec, any_size: bool = False) -> TimmEncoder:
    """Build the timm model or preset that `config` names, for images as `spec` describes them.

    The stem depends on the configuration without the source of its weights, so that a trained network
    can be built again without its initial weights.

    Args:
        config: the configuration.
        spec: the description of the images.
        any_size: whether the network also takes images of other sizes; its weights are the same.

    Raises:
        Unsuitable: the network takes images of one size alone, and `any_size` is asked for.
        UserError: timm has no such model, it refuses an option, its weights are not available or leave
            a name unaccounted for, it has no single feature map, or it cannot take images of this size.
    """
    side = longer_side(spec.size)
    resolved = config.resolve(side)
    if not timm.is_model(resolved.name):
        # timm's own search is by wildcard; the nearest names help more.
        raise UserError(
            f"backbone.name: timm has no model {config.name!r}."
            f"{did_you_mean(config.name, [*PRESETS, *timm.list_models()])} "
            "`timm.list_models()` lists all; --plugin FILE brings those of a plugin."
        )
    for option in sorted(_RESERVED_OPTIONS.keys() & config.options.keys()):
        raise UserError(f"backbone.options.{option}: leave it out; {_RESERVED_OPTIONS[option]}")
    weights = Weights(config) if config.weights is not None else None
    try:
        with _weights_only(), recorded_loading() as loaded:
            model = _create_model(resolved, spec, any_size)
    except Unsuitable:
        raise
    except Exception as error:  # a model's code may raise anything
        raise UserError(_build_error(config, spec, error)) from error
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise UserError(
            f"backbone.options: they make {config.name} a {type(model).__name__}, "
            "which has no pooled features; leave out features_only and the like"
        )
    small = config.small(side)
    stem_first = small and weights is not None and weights.has_other_stem(model)
    if stem_first:
        _make_small(config, model, foreign=False)
    if weights is not None:
        weights.load(model)
        _notify_other_size(config, spec)
    elif config.pretrained:
        check_loaded(config, model, loaded)
        _notify_converted(config, spec, model)
    if small and not stem_first:
        _make_small(config, model, foreign=weights.foreign if weights else config.pretrained)
    prepare_small_maps(model)
    _check_patches(config, spec, model)
    try:
        return TimmEncoder(model, spec.example())
    except UserError as error:
        raise UserError(f"backbone.name: {config.name} {error}") from error
    except Exception as error:  # a model's code may raise anything for a small image
        raise UserError(_does_not_fit(config, spec, error)) from error


def _create_model(config: BackboneConfig, spec: ImageSpec, any_size: bool) -> Any:
    """Build the timm model, so that it takes images of any size if it is asked for.

    Raises:
        Unsuitable: it does not take images of any size. Others are of timm, of any kind.
    """
    name, arguments = config.name, timm_arguments(config, spec)
    # Convolutional networks take any size as they are.
    for option in _ANY_SIZE if any_size and _takes_image_size(name) else ():
        try:
            return timm.create_model(name, pretrained=config.pretrained, **{**option, **arguments})
        except TypeError as error:  # before any weight is drawn
            if f"unexpected keyword argument {next(iter(option))!r}" not in str(error):
                raise
    if any_size and _takes_image_size(name):
        raise Unsuitable(
            f"backbone.name: {config.name} takes images of one size alone, and the task passes others "
            "through it; choose --backbone vit_small_patch16_224 or a convolutional network"
        )
    return timm.create_model(name, pretrained=config.pretrained, **arguments)


def _make_small(config: BackboneConfig, model: Any, foreign: bool) -> None:
    """Make the stem of a model small, where it has such a stem.

    Args:
        config: the configuration.
        model: the model; where it starts trained, the kernel is shrunk, not drawn.
        foreign: whether its weights were trained with the original stem, so that this is a conversion.

    Raises:
        UserError: the small stem is asked for, and the model has none.
    """
    adapted = not _takes_image_size(config.resolve().name) and use_small_stem(
        model, config.stem_stride, keep_weights=config.starts_trained
    )
    if config.stem == "small" and not adapted:
        raise UserError(
            f"backbone.stem: {config.name} has no stem that can be made small; use stem=original"
        )
    if adapted and foreign:
        CONVERTED(
            f"{config.name}: the stem that the weights were trained with is made small for small images "
            "(--set backbone.stem=original keeps it)"
        )


def _notify_other_size(config: BackboneConfig, spec: ImageSpec) -> None:
    """Give a notice if weights of ssl-zoo are used for images of another size, as in a comparison."""
    assert config.weights is not None
    trained_on = spec_of(read_header(config.weights))
    if isinstance(trained_on, ImageSpec):
        before, now = format_size(trained_on.size), format_size(spec.size)
        if before != now:
            _notify_size(printable(config.weights), before, now)


def _notify_size(name: str, before: str, now: str) -> None:
    _SIZE(f"{name}: images of {now} pixels, and its weights were trained on {before} (--image-size)")


def _notify_converted(config: BackboneConfig, spec: ImageSpec, model: Any) -> None:
    """Give a notice if pretrained weights are used for, or converted to, other channels or sizes."""
    known = model.pretrained_cfg
    channels, *size = known.get("input_size", (spec.channels, spec.height, spec.width))
    pairs = {"channels": (str(channels), str(spec.channels))}
    before, now = format_size(parse_size(size)), format_size(spec.size)
    if _takes_image_size(config.resolve().name):
        pairs["pixels"] = (before, now)
    elif before != now:
        _notify_size(config.name, before, now)
    if changes := [f"{a} to {b} {unit}" for unit, (a, b) in pairs.items() if a != b]:
        CONVERTED(f"{config.name}: timm's weights are converted from {' and from '.join(changes)}")


@contextmanager
def _weights_only() -> Iterator[None]:
    """Temporarily make `torch.load` read tensors and plain values only, and run no code.

    timm does not ask for this in all versions, nor in a fallback that a malformed file can trigger.
    """
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before


def timm_arguments(config: BackboneConfig, spec: ImageSpec) -> dict[str, Any]:
    """Return the arguments of `timm.create_model`, without the name and `pretrained`.

    Args:
        config: the network, with a preset resolved.
        spec: the description of its images.

    Raises:
        RuntimeError: timm does not know the tag in the name.
    """
    size = {"img_size": spec.size} if _takes_image_size(config.name) else {}
    return {"num_classes": 0, "in_chans": spec.channels, **size, **config.options}


def _check_patches(config: BackboneConfig, spec: ImageSpec, model: Any) -> None:
    """Raise if the patches do not cover the image, as timm does not always; tell if they are many."""
    for embed in model.children():
        if not isinstance(embed, PatchEmbed) or embed.dynamic_img_pad:
            continue
        patch, size = embed.patch_size, (spec.height, spec.width)
        grid = [-(-side // length) for side, length in zip(size, patch, strict=True)]
        covered = parse_size([number * length for number, length in zip(grid, patch, strict=True)])
        if covered != spec.size:
            raise UserError(
                f"backbone.name: {config.name} cannot take {format_size(spec.size)} images, which "
                f"{format_size(patch)} patches do not cover: choose backbone.options.patch_size among "
                f"the divisors of {' and '.join(map(str, dict.fromkeys(size)))}, or --image-size "
                f"{write_size(covered)}"
            )
        if (patches := math.prod(grid)) > MAX_USUAL_PATCHES:
            _MANY_PATCHES(
                f"backbone.name: {config.name} sees {patches:,} patches of {format_size(patch)} an "
                "image, which is slow; patches of 16 are usual (--backbone vit_small_patch16_224)"
            )


def _takes_image_size(name: str) -> bool:
    """Return whether the model is built for one image size, which must be passed (transformers)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)


def _build_error(config: BackboneConfig, spec: ImageSpec, error: Exception) -> str:
    if isinstance(error, TypeError) and config.options:
        return f"backbone.options: {config.name} does not accept them: {_one_line(error)}"
    if isinstance(error, AssertionError | ArithmeticError):
        return _does_not_fit(config, spec, error)
    if config.pretrained:
        return (
            f"backbone.pretrained: the weights of {config.name} are not available: {_one_line(error)}; "
            "from a file: --from FILE"
        )
    options = " with these backbone.options" if config.options else ""
    return f"backbone.name: timm cannot build {config.name}{options}: {_one_line(error)}"


def _does_not_fit(config: BackboneConfig, spec: ImageSpec, error: Exception) -> str:
    options = ", other backbone.options" if config.options else ""
    return (
        f"backbone.name: {config.name} cannot take {format_size(spec.size)} images "
        f"({_one_line(error)}): choose a larger --image-size{options} or another backbone"
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and not str(error):
        return "there is no such file"
    return one_line(str(error) or type(error).__name__, 200)
