"""The interface of networks for clips."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ssl_zoo import Encoder, UserError
from ssl_zoo.config.errors import SettingError, first_error
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo_audio.sound import Sound, masked_statistics, within


class Local(NamedTuple):
    """The features of each place before the network looks at others.

    Attributes:
        raw: the outputs of the convolutions, or the spectrum, [B, T, c].
        normed: the same normalised, what a quantiser reads, [B, T, c].
        valid: which places are real, bool [B, T].
    """

    raw: Tensor
    normed: Tensor
    valid: Tensor


class NetworkOptions(BaseModel):
    """The options that every network has, ``backbone.options``; others are refused.

    Attributes:
        layer: the layer whose output is evaluated, from 1; None for the last.
        deviation: whether pooled features have the deviation over places beside the mean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int | None = Field(None, ge=1)
    deviation: bool = False

    @classmethod
    def of(cls, config: BackboneConfig) -> Any:
        """Return the validated options of a section.

        Raises:
            SettingError: one of them is unknown, or has a wrong value.
        """
        if config.pretrained:
            raise SettingError(
                "backbone.pretrained", f"{config.name} has no pretrained weights; leave it out"
            )
        try:
            return cls.model_validate(config.options)
        except ValidationError as error:
            path, reason = first_error(error, config.options, list(cls.model_fields))
            raise SettingError(f"backbone.options.{path}".rstrip("."), reason) from error


class SoundEncoder(Encoder):
    """A network for clips: local features, then layers that look at all places.

    The pooled features are the mean over the real places of a clip in one layer, as in SUPERB
    (arXiv:2105.01051), on request with the deviation.

    Attributes:
        local_width: c, the width of local features.
        place_width: d, the width of each layer's output.
        hop: the distance of places, in samples.
        depth: the number of layers.
        layer: the index of the layer that is evaluated.
        deviation: whether the deviation is pooled too.
        causal: whether a place sees no later ones.
    """

    passing_methods: ClassVar[tuple[str, ...]] = ("context",)

    local_width: int
    place_width: int
    hop: int
    depth: int
    layer: int = -1
    deviation: bool = False
    causal: bool = False

    @abstractmethod
    def places(self, length: Tensor) -> Tensor:
        """Return the number of places of clips of these lengths in samples, at least 1, int64."""

    @abstractmethod
    def local(self, x: Sound, gradient: float = 1.0) -> Local:
        """Return the local features of a prepared batch.

        Args:
            x: a prepared batch.
            gradient: a factor on the gradient that reaches the convolutions, where there are any.
        """

    @abstractmethod
    def context(
        self, local: Local, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> list[Tensor]:
        """Return the output [B, T, d] of each layer.

        Args:
            local: the local features.
            hidden: the hidden places, bool [B, T].
            token: what stands in hidden places, [e]; None for zeros.
        """

    def feed_forwards(self) -> list[nn.Module]:
        """Return the feed-forward network of each layer, if layers have one; none here."""
        return []

    def branches(self, local: Local) -> list[Tensor]:
        """Return the output [B, T, d] of each layer's feed-forward network, before it is added.

        Of a network without these it is the output of each layer.
        """
        outputs: list[Tensor] = []
        hooks = [
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
            for module in self.feed_forwards()
        ]
        try:
            layers = self.context(local)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs or layers

    def forward(self, x: Sound) -> Tensor:
        """Return the mean over the places of each clip in the evaluated layer [B, D]."""
        local = self.local(x)
        return self.pool(self.context(local), local.valid)

    def pool(self, layers: Sequence[Tensor], valid: Tensor) -> Tensor:
        """Return the pooled features [B, D] of the outputs [B, T, d] of all layers."""
        statistics = masked_statistics(layers[self.layer], valid)
        return statistics if self.deviation else statistics[:, : self.place_width]

    def feature_map(self, x: Sound, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """Return the output of the last layer [B, d, T]."""
        return self.context(self.local(x), hidden, token)[-1].transpose(1, 2)

    def stages(
        self, x: Sound, indices: Sequence[int], hidden: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled features [B, D], and the outputs [B, d, T] of some layers.

        Raises:
            UserError: there is no such layer.
        """
        local = self.local(x)
        layers = self.context(local, hidden)
        check_layers(indices, len(layers))
        return self.pool(layers, local.valid), [layers[i].transpose(1, 2) for i in indices]

    def valid(self, x: Sound) -> Tensor:
        """Return which places are real, bool [B, T]."""
        return within(self.places(x.length), self.count_places(x.wave.shape[1]))

    def count_places(self, samples: int) -> int:
        """Return the number of places of a clip of this many samples."""
        return int(self.places(torch.tensor(samples)))

    def choose_features(self, options: NetworkOptions, depth: int) -> None:
        """Set how features are pooled, and their width, for a network of `depth` layers.

        Raises:
            SettingError: there is no such layer.
        """
        if options.layer is not None:
            check_layer("backbone.options.layer", options.layer, depth)
        self.depth = depth
        self.layer = -1 if options.layer is None else options.layer - 1
        self.deviation = options.deviation
        self.width = self.place_width * (2 if options.deviation else 1)


def put_token(x: Tensor, hidden: Tensor | None, token: Tensor | None) -> Tensor:
    """Return places [B, T, e] with a token [e], or zeros, where they are hidden [B, T]."""
    if hidden is None:
        return x
    stand_in = torch.zeros((), dtype=x.dtype, device=x.device) if token is None else token.to(x.dtype)
    return torch.where(hidden[..., None], stand_in, x)


def at_layer(encoder: SoundEncoder, x: Sound, layer: int) -> Tensor:
    """Return the output of a layer, from 1, [B, T, d]."""
    return encoder.context(encoder.local(x))[layer - 1]


def check_divisible(width: int, number: int, option: str) -> None:
    """Raise unless the width of the layers is a multiple of a number of heads or groups.

    Args:
        width: the width.
        number: the number that must divide it.
        option: the option that sets the number, below ``backbone.options``.

    Raises:
        SettingError: it does not.
    """
    if width % number:
        nearest = [n for n in range(1, width + 1) if width % n == 0]
        nearest = sorted(sorted(nearest, key=lambda n: abs(n - number))[:2])
        raise SettingError(
            f"backbone.options.{option}",
            f"must divide the width, {width} ({number}); give {' or '.join(map(str, nearest))}, "
            "or change backbone.options.width",
        )


def check_layer(path: str, layer: int, depth: int) -> None:
    """Raise unless a network of `depth` layers has the layer that a setting names, from 1.

    Args:
        path: the dotted path of the setting.
        layer: its value.
        depth: the number of layers.

    Raises:
        SettingError: it has not.
    """
    if not 1 <= layer <= depth:
        raise SettingError(path, f"there are {depth} layers ({layer}); give 1 to {depth}")


def check_layers(indices: Sequence[int], number: int) -> None:
    """Raise unless there are such layers.

    Raises:
        UserError: there are not.
    """
    for index in indices:
        if not -number <= index < number:
            raise UserError(f"there is no layer {index}; the network has {number}")
