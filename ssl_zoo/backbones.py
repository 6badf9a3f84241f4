"""Backbones: any timm model, seen by tasks as an `Encoder`."""

from __future__ import annotations

import warnings
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ssl_zoo.config import BackboneConfig
from ssl_zoo.errors import UserError, did_you_mean
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder

SMALL_IMAGE = 64
"""Up to this side, in pixels, `stem="auto"` means the small stem."""


class TimmEncoder(Encoder):
    """A timm model without its classifier.

    Attributes:
        model: the timm model itself; its state dict is what `backbone.safetensors` holds.
        width: D, the size of the pooled features.
        map_width: the number of channels of the feature map.
    """

    def __init__(self, model: nn.Module, probe: Tensor) -> None:
        super().__init__()
        self.model: Any = model
        training = model.training
        with torch.no_grad():
            model.eval()
            self.width = self(probe).shape[1]
            self.map_width = self.feature_map(probe).shape[1]
        model.train(training)

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
        """
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

    def stage(self, x: Tensor, index: int) -> Tensor:
        """Images [B, C, H, W] to the mean over the map of a stage as timm counts them, [B, d]."""
        if not hasattr(self.model, "forward_intermediates"):
            return super().stage(x, index)
        try:
            maps: list[Tensor] = self.model.forward_intermediates(
                x, indices=[index], intermediates_only=True
            )
        except (AssertionError, IndexError) as error:
            raise UserError(f"task.stage: the backbone has no stage {index} ({error})") from error
        return maps[0].mean((2, 3))


def create_backbone(config: BackboneConfig, spec: ImageSpec) -> TimmEncoder:
    """Build the timm model that `config` names, for images as `spec` describes them.

    Raises:
        UserError: timm has no such model, it refuses an option, its weights cannot be had, or it
            cannot take images of this size.
    """
    if not timm.is_model(config.name):
        # timm's own listing is by wildcard; the nearest names help more.
        raise UserError(
            f"backbone.name: timm has no model {config.name!r}."
            f"{did_you_mean(config.name, timm.list_models())} `timm.list_models()` lists all."
        )
    options = {"num_classes": 0, "in_chans": spec.channels, **config.options}
    if _takes_image_size(config.name):
        options.setdefault("img_size", spec.size)
    try:
        model = timm.create_model(config.name, pretrained=config.pretrained, **options)
    except TypeError as error:
        raise UserError(f"backbone.options: {config.name} refuses them: {error}") from error
    except AssertionError as error:
        raise UserError(_does_not_fit(config, spec, error)) from error
    except (OSError, RuntimeError, ValueError) as error:
        what = "its pretrained weights cannot be had" if config.pretrained else "timm cannot make it"
        raise UserError(f"backbone.name: {config.name}: {what}: {_first_line(error)}") from error
    if config.stem == "small" or (config.stem == "auto" and spec.size <= SMALL_IMAGE):
        adapted = use_small_stem(model, config.stem_stride)
        if config.stem == "small" and not adapted:
            raise UserError(
                f"backbone.stem: {config.name} has no stem that can be made small; use stem=original"
            )
    probe = torch.zeros(2, spec.channels, spec.size, spec.size)
    try:
        return TimmEncoder(model, probe)
    except (RuntimeError, AssertionError, IndexError, ValueError) as error:
        raise UserError(_does_not_fit(config, spec, error)) from error


def use_small_stem(model: Any, stride: int = 1) -> bool:
    """Give a model a stem for small images, in place: a 3×3 convolution and no early pooling.

    As He et al. 2016, section 4.2, do for CIFAR. It changes ResNets and whatever else has timm's
    `conv1` and `maxpool`, and convolutional stems (`conv_stem`, `stem`) whose first convolution has a
    stride, which is set to `stride`. A transformer keeps its patches: choose its `patch_size`.

    Returns:
        Whether the model had such a stem.
    """
    if hasattr(model, "conv1") and hasattr(model, "maxpool"):
        # Deep stems (resnet18d, resnet10t) are a sequence of 3×3 convolutions already.
        convolutions = [m for m in model.conv1.modules() if isinstance(m, nn.Conv2d)]
        if len(convolutions) == 1:
            old = convolutions[0]
            model.conv1 = nn.Conv2d(
                old.in_channels, old.out_channels, 3, stride, 1, bias=old.bias is not None
            )
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        else:
            convolutions[0].stride = (stride, stride)
        model.maxpool = nn.Identity()
        return True
    for part in ("conv_stem", "stem"):
        stem = getattr(model, part, None)
        for module in stem.modules() if stem is not None else ():
            if isinstance(module, nn.Conv2d) and module.stride[0] == 2 == module.stride[1]:
                module.stride = (stride, stride)
                return True
    return False


def _takes_image_size(name: str) -> bool:
    """Whether the model is built for one image size (transformers), so that it must be told it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)


def _does_not_fit(config: BackboneConfig, spec: ImageSpec, error: Exception) -> str:
    return (
        f"backbone.name: {config.name} cannot take {spec.size}×{spec.size} images "
        f"({_first_line(error)}): choose a larger --image-size or another backbone"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
