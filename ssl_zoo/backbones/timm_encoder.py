"""Backbones: any timm model, seen by tasks as an `Encoder`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from ssl_zoo.backbones.small_stem import use_small_stem
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder
from ssl_zoo.text import did_you_mean, one_line

SMALL_IMAGE = 64
"""Up to this side, in pixels, `stem="auto"` means the small stem."""

_DECIDED_ELSEWHERE = {
    "in_chans": "it follows from the data",
    "num_classes": "the network is trained without a classifier",
    "pretrained": "it is backbone.pretrained",
    "checkpoint_path": "set backbone.pretrained=true and "
    "backbone.options.pretrained_cfg_overlay={file: PATH}",
}
"""Arguments of `timm.create_model` that are not the user's to give, and why."""


class TimmEncoder(Encoder):
    """A timm model without its classifier.

    Attributes:
        model: the timm model itself; its state dict is what `backbone.safetensors` holds.
        width: D, the size of the pooled features.
        map_width: the number of channels of the feature map.
    """

    def __init__(self, model: nn.Module, probe: Tensor) -> None:
        """Find the widths with a batch of images `probe` [B, C, H, W], which leaves no trace.

        Raises:
            UserError: the model has no pooled features [B, D], or no single feature map.
        """
        super().__init__()
        self.model: Any = model
        training = model.training
        with torch.no_grad():
            model.eval()
            pooled, feature_map = self(probe), self.feature_map(probe)
        model.train(training)
        if pooled.ndim != 2:
            raise UserError(f"does not pool its features; they have shape {list(pooled.shape)}")
        self.width = pooled.shape[1]
        self.map_width = feature_map.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to pooled features [B, D]."""
        return self.pool(self.model.forward_features(x))

    def pool(self, unpooled: Tensor) -> Tensor:
        """What the model's `forward_features` returns to pooled features [B, D]."""
        pooled: Tensor = self.model.forward_head(unpooled, pre_logits=True)
        return pooled

    def feature_map(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to the last feature map [B, map_width, h, w]."""
        return self.grid(self.model.forward_features(x))

    def grid(self, unpooled: Tensor) -> Tensor:
        """What the model's `forward_features` returns as a map [B, map_width, h, w].

        A transformer's tokens are laid out as their patches lie, without class and register tokens.

        Raises:
            UserError: the model returns several maps (CoaT, CrossViT).
        """
        if not isinstance(unpooled, Tensor):
            raise UserError("makes several feature maps of an image, not one; choose another backbone")
        if unpooled.ndim == 3:
            tokens = unpooled[:, getattr(self.model, "num_prefix_tokens", 0) :]
            rows, columns = self._token_grid(tokens.shape[1])
            return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return unpooled.permute(0, 3, 1, 2)
        return unpooled

    def _token_grid(self, tokens: int) -> tuple[int, int]:
        grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
        if grid is not None and grid[0] * grid[1] == tokens:
            return int(grid[0]), int(grid[1])
        side = round(tokens**0.5)
        return side, tokens // side

    def stages(self, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Images [B, C, H, W] to pooled features [B, D] and the maps [B, d, h, w] of some stages.

        Raises:
            UserError: the model has no such stage, or none at all.
        """
        if not hasattr(self.model, "forward_intermediates"):
            raise Unsuitable("the backbone has no stages to choose from")
        try:
            unpooled, maps = self.model.forward_intermediates(x, indices=list(indices))
        except (AssertionError, IndexError) as error:
            said = f"stage {indices[0]}" if len(indices) == 1 else f"stages {list(indices)}"
            raise UserError(f"the backbone has no {said} ({error})") from error
        return self.pool(unpooled), list(maps)

    def tokens(self, x: Tensor, visible: Tensor) -> Tensor:
        """Images [B, C, H, W] to the normalised tokens [B, K, d] of some patches alone.

        Positions are added before patches are left out; class and register tokens take part, and are
        not returned.

        Raises:
            Unsuitable: the model is no vision transformer that can drop patches.
        """
        dropping = getattr(self.model, "patch_drop", None)
        if not isinstance(dropping, nn.Module):
            raise Unsuitable(
                "the backbone has no patches that can be left out; choose a vision transformer, such as "
                "--backbone vit_small_patch16_224"
            )
        prefix = getattr(self.model, "num_prefix_tokens", 0)

        def keep(module: nn.Module, inputs: tuple[Tensor], dropped: Tensor) -> Tensor:
            (tokens,) = inputs  # all of them, also where timm's own training drops some
            places = (visible + prefix).unsqueeze(2).expand(-1, -1, tokens.shape[2])
            return torch.cat([tokens[:, :prefix], tokens.gather(1, places)], 1)

        with dropping.register_forward_hook(keep):
            tokens: Tensor = self.model.forward_features(x)
        return tokens[:, prefix:]


def create_backbone(config: BackboneConfig, spec: ImageSpec) -> TimmEncoder:
    """Build the timm model that `config` names, for images as `spec` describes them.

    Which stem it gets follows from the configuration without `pretrained`, so that a trained network
    can be built again without its first weights.

    Raises:
        UserError: timm has no such model, it refuses an option, its weights cannot be had, it has no
            single feature map, or it cannot take images of this size.
    """
    if not timm.is_model(config.name):
        # timm's own listing is by wildcard; the nearest names help more.
        raise UserError(
            f"backbone.name: timm has no model {config.name!r}."
            f"{did_you_mean(config.name, timm.list_models())} `timm.list_models()` lists all."
        )
    for option in sorted(_DECIDED_ELSEWHERE.keys() & config.options.keys()):
        raise UserError(f"backbone.options.{option}: leave it out; {_DECIDED_ELSEWHERE[option]}")
    try:
        with _weights_only():
            model = timm.create_model(
                config.name, pretrained=config.pretrained, **timm_arguments(config, spec)
            )
    except Exception as error:  # timm lets through whatever a model's code raises
        raise UserError(_not_made(config, spec, error)) from error
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise UserError(
            f"backbone.options: they make {config.name} a {type(model).__name__}, "
            "which has no pooled features; leave out features_only and the like"
        )
    if config.stem == "small" or (config.stem == "auto" and spec.size <= SMALL_IMAGE):
        adapted = not _takes_image_size(config.name) and use_small_stem(
            model, config.stem_stride, keep_weights=config.pretrained
        )
        if config.stem == "small" and not adapted:
            raise UserError(
                f"backbone.stem: {config.name} has no stem that can be made small; use stem=original"
            )
    _check_patches(config, spec, model)
    try:
        return TimmEncoder(model, torch.zeros(2, spec.channels, spec.size, spec.size))
    except UserError as error:
        raise UserError(f"backbone.name: {config.name} {error}") from error
    except Exception as error:  # a model's code fails in its own ways where an image is too small
        raise UserError(_does_not_fit(config, spec, error)) from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Within, PyTorch reads tensors and plain values, whatever it is asked for, and runs no code.

    timm reads weights so too, but not all of them, in all its versions; nor where it falls back on
    another way, which a file that is malformed on purpose brings it to.
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
    """What `timm.create_model` is given to build a network, beside its name and `pretrained`.

    Raises:
        RuntimeError: the name has a tag that timm does not know.
    """
    size = {"img_size": spec.size} if _takes_image_size(config.name) else {}
    return {"num_classes": 0, "in_chans": spec.channels, **size, **config.options}


def _check_patches(config: BackboneConfig, spec: ImageSpec, model: Any) -> None:
    """Refuse patches that would leave a border of the image unseen, as timm itself does not always."""
    for embed in model.children():
        if not isinstance(embed, PatchEmbed) or embed.dynamic_img_pad:
            continue
        patch = max(embed.patch_size)
        if spec.size % patch:
            raise UserError(
                f"backbone.name: {config.name} cannot take {spec.size}×{spec.size} images, which "
                f"{patch}×{patch} patches do not cover: choose backbone.options.patch_size among the "
                f"divisors of {spec.size}, or --image-size {-(-spec.size // patch) * patch}"
            )


def _takes_image_size(name: str) -> bool:
    """Whether the model is built for one image size (transformers), so that it must be told it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)


def _not_made(config: BackboneConfig, spec: ImageSpec, error: Exception) -> str:
    if isinstance(error, TypeError) and config.options:
        return f"backbone.options: {config.name} refuses them: {_one_line(error)}"
    if isinstance(error, AssertionError | ArithmeticError):
        return _does_not_fit(config, spec, error)
    if config.pretrained:
        return (
            f"backbone.pretrained: the weights of {config.name} cannot be had: {_one_line(error)}; "
            "from a file: backbone.options.pretrained_cfg_overlay={file: PATH}"
        )
    given = " with these backbone.options" if config.options else ""
    return f"backbone.name: timm cannot make {config.name}{given}: {_one_line(error)}"


def _does_not_fit(config: BackboneConfig, spec: ImageSpec, error: Exception) -> str:
    options = ", other backbone.options" if config.options else ""
    return (
        f"backbone.name: {config.name} cannot take {spec.size}×{spec.size} images "
        f"({_one_line(error)}): choose a larger --image-size{options} or another backbone"
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and not str(error):
        return "there is no such file"
    return one_line(str(error) or type(error).__name__, 200)
