"""Encoders of transformers: wav2vec 2.0, HuBERT and data2vec, small by default."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    PretrainedConfig,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)
from transformers.models.hubert.modeling_hubert import HubertEncoderStableLayerNorm
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2EncoderStableLayerNorm

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.text import did_you_mean
from ssl_zoo_audio.encoders.base import (
    Local,
    NetworkOptions,
    SoundEncoder,
    check_divisible,
    put_token,
)
from ssl_zoo_audio.sound import Sound, within
from ssl_zoo_audio.spec import SoundSpec

STABLE = (HubertEncoderStableLayerNorm, Wav2Vec2EncoderStableLayerNorm)
"""The encoders with the layer norms before attention and not behind it."""
NO_DROPOUT = (
    "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "hidden_dropout",
    "layerdrop",
)  # fmt: skip


class TransformersOptions(NetworkOptions):
    """Options of an encoder of transformers.

    Attributes:
        width: the width of the layers.
        layers: their number.
        heads: the number of attention heads.
        channels: the channels of the convolutions.
        config: further fields of the configuration's class, such as ``hidden_dropout``.
    """

    width: int = Field(128, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    channels: int = Field(64, ge=1)
    config: dict[str, Any] = Field(default_factory=dict)


def check_config(cls: type[PretrainedConfig], config: dict[str, Any]) -> None:
    """Raise unless all fields are those of a configuration, and lists have the length of its own.

    Raises:
        SettingError: one of them is not.
    """
    defaults = cls().to_dict()
    for name, value in config.items():
        path = f"backbone.options.config.{name}"
        if name not in defaults:
            hint = did_you_mean(name, defaults)
            raise SettingError(
                path, f"{cls.__name__} of transformers has no such field; leave it out.{hint}"
            )
        own = defaults[name]
        if isinstance(own, list | tuple) and name.startswith("conv_"):
            number = len(config.get("conv_kernel", defaults["conv_kernel"]))
            if not isinstance(value, list | tuple) or len(value) != number:
                raise SettingError(
                    path, f"must be a list of {number} numbers, one for each convolution ({value!r})"
                )


class TransformersEncoder(SoundEncoder):
    """A convolutional waveform encoder and a transformer, with a layer norm after each convolution.

    The group norm of the first wav2vec 2.0 would normalise over time, padding included, so that features
    of a clip would depend on the lengths of others.

    Attributes:
        model: the model of transformers, which is saved and exported.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    model_class: ClassVar[type[PreTrainedModel]]
    positions: ClassVar[dict[str, Any]] = {"num_conv_pos_embeddings": 32}

    def __init__(self, config: BackboneConfig, spec: SoundSpec) -> None:
        super().__init__()
        options = TransformersOptions.of(config)
        values = {
            "hidden_size": options.width,
            "num_hidden_layers": options.layers,
            "num_attention_heads": options.heads,
            "intermediate_size": 4 * options.width,
            "conv_dim": [options.channels] * 7,
            "conv_bias": True,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "num_conv_pos_embedding_groups": 4,
            "mask_time_prob": 0.0,  # tasks hide places themselves
            "mask_feature_prob": 0.0,
            "apply_spec_augment": False,
            **self.positions,
            **dict.fromkeys(NO_DROPOUT, 0.0),
            **options.config,
        }
        check_config(self.config_class, options.config)
        values["conv_dim"] = tuple(values["conv_dim"])
        check_divisible(values["hidden_size"], values["num_attention_heads"], "heads")
        check_divisible(
            values["hidden_size"], values["num_conv_pos_embedding_groups"],
            "config.num_conv_pos_embedding_groups",
        )  # fmt: skip
        if values["feat_extract_norm"] != "layer":
            raise SettingError(
                "backbone.options.config.feat_extract_norm",
                "a group norm over time makes features depend on padding; leave it out",
            )
        try:
            model_config = self.config_class(**values, attn_implementation="sdpa")
            self.model: Any = self.model_class(model_config)
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise SettingError(
                "backbone.options.config",
                f"{self.config_class.__name__} of transformers refuses it: {error}; change it",
            ) from error
        self.stable = isinstance(self.model.encoder, STABLE)
        self.kernels = list(
            zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True)
        )
        self.hop = math.prod(stride for _, stride in self.kernels)
        self.local_width = self.model.config.conv_dim[-1]
        self.embed_width = self.place_width = self.model.config.hidden_size
        self.choose_features(options, self.model.config.num_hidden_layers)

    @property
    def exported_network(self) -> nn.Module:
        """The model of transformers."""
        model: nn.Module = self.model
        return model

    def places(self, length: Tensor) -> Tensor:
        """Return the number of places, by the kernel and stride of each convolution."""
        for kernel, stride in self.kernels:
            length = torch.div(length - kernel, stride, rounding_mode="floor") + 1
        return length.clamp(min=1)

    @property
    def field(self) -> int:
        """The number of samples that a place sees: 400 of wav2vec 2.0's convolutions."""
        field = 1
        for kernel, stride in reversed(self.kernels):
            field = (field - 1) * stride + kernel
        return field

    def local(self, x: Sound, gradient: float = 1.0) -> Local:
        """Return the outputs of the convolutions, and the same after the layer norm."""
        wave = F.pad(x.wave, (0, max(0, self.field - x.wave.shape[1])))
        raw = wave[:, None]
        for layer in self.model.feature_extractor.conv_layers:  # calling it asks for a gradient of waves
            raw = layer(raw)
        raw = raw.transpose(1, 2)  # [B, T, c]
        if gradient != 1 and raw.requires_grad:
            raw = raw * gradient + raw.detach() * (1 - gradient)
        valid = within(self.places(x.length), raw.shape[1])
        return Local(raw, self.model.feature_projection.layer_norm(raw), valid)

    def context(
        self, local: Local, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> list[Tensor]:
        """Return the output [B, T, d] of each layer, the last one as the model gives it."""
        projection, body = self.model.feature_projection, self.model.encoder
        x = put_token(projection.dropout(projection.projection(local.normed)), hidden, token)
        x = x * local.valid[..., None]
        x = x + self.positional(x, local.valid)
        if not self.stable:
            x = body.layer_norm(x)
        x = body.dropout(x)
        number, outputs = x.shape[1], []
        attend = local.valid[:, None, None].expand(-1, 1, number, -1)
        for layer in body.layers:
            x = layer(x, attention_mask=attend)
            x = x[0] if isinstance(x, tuple) else x
            outputs.append(x)
        if self.stable:
            outputs[-1] = body.layer_norm(x)
        return outputs

    def positional(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the positional embedding of places [B, T, d] that are 0 where they are not valid."""
        embedding: Tensor = self.model.encoder.pos_conv_embed(x)
        return embedding

    def feed_forwards(self) -> list[nn.Module]:
        """Return the feed-forward network of each layer."""
        return [layer.feed_forward for layer in self.model.encoder.layers]

    def parameter_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters by layer, from the input on."""
        body = self.model.encoder
        first = [self.model.feature_extractor, self.model.feature_projection, body.pos_conv_embed]
        layers = [[p for part in first for p in part.parameters()]]
        return [*layers, *(list(part.parameters()) for part in (*body.layers, body.layer_norm))]


class Wav2Vec2Encoder(TransformersEncoder):
    """The encoder of wav2vec 2.0."""

    config_class, model_class = Wav2Vec2Config, Wav2Vec2Model


class HubertEncoder(TransformersEncoder):
    """The encoder of HuBERT."""

    config_class, model_class = HubertConfig, HubertModel


class Data2VecEncoder(TransformersEncoder):
    """The encoder of data2vec audio."""

    config_class, model_class = Data2VecAudioConfig, Data2VecAudioModel
    positions: ClassVar[dict[str, Any]] = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19}

    def positional(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the positional embedding of several convolutions, which see no padding.

        In transformers all but the first see it, so that a clip's features there depend on its padding.
        """
        x = x.transpose(1, 2)
        for layer in self.model.encoder.pos_conv_embed.layers:
            x = layer(x) * valid[:, None]
        return x.transpose(1, 2)
