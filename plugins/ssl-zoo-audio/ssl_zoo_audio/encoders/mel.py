"""Small networks on log-mel spectra, which train in minutes without a GPU."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_zoo import Unsuitable
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo_audio.encoders.base import Local, NetworkOptions, SoundEncoder, check_divisible, put_token
from ssl_zoo_audio.sound import Sound, within
from ssl_zoo_audio.spec import SoundSpec
from ssl_zoo_audio.spectra import LOG_DEVIATION, LOG_MEAN, LogMel


class MelOptions(NetworkOptions):
    """Options of networks on log-mel spectra.

    Attributes:
        mels: the number of mel bands.
        patch: the frames of 10 ms that make a place.
        width: the width of the layers.
        layers: their number.
    """

    mels: int = Field(80, ge=8, le=256)
    patch: int = Field(1, ge=1, le=16)
    width: int = Field(128, ge=8)
    layers: int = Field(4, ge=1)


class MelEncoder(SoundEncoder):
    """A network whose local features are patches of a log-mel spectrum.

    Args:
        options: mel bands and frames per place.
        spec: the description of clips.
    """

    passing_methods: ClassVar[tuple[str, ...]] = ("context", "pooled_spectrum")

    def __init__(self, options: MelOptions, spec: SoundSpec) -> None:
        super().__init__()
        self.log_mel = LogMel(spec.rate, options.mels)
        self.patch = options.patch
        self.hop = self.patch * self.log_mel.hop
        self.local_width = self.patch * options.mels
        self.embed_width = self.place_width = options.width

    def spectrum(self, x: Sound) -> Tensor:
        """Return the log-mel spectrum, with about mean 0 and deviation 1, [B, F, mels]."""
        spectrum: Tensor = self.log_mel(x.wave)
        return (spectrum - LOG_MEAN) / LOG_DEVIATION

    def frames(self, x: Sound) -> Tensor:
        """Return the number of frames of each clip's spectrum, int64 [B]."""
        return self.log_mel.frames(x.length)

    def places(self, length: Tensor) -> Tensor:
        """Return the number of patches of clips of these lengths."""
        return (self.log_mel.frames(length) // self.patch).clamp(min=1)

    def local(self, x: Sound, gradient: float = 1.0) -> Local:
        """Return patches of the spectrum; they have no parameters."""
        return self.patches(self.spectrum(x), self.frames(x))

    def patches(self, spectrum: Tensor, frames: Tensor) -> Local:
        """Return patches of a spectrum [B, F, mels], of which the first `frames` [B] are real."""
        spectrum = spectrum * within(frames, spectrum.shape[1])[..., None]
        missing = max(0, self.patch - spectrum.shape[1])
        spectrum = F.pad(spectrum, (0, 0, 0, missing))
        number = spectrum.shape[1] // self.patch
        patches = spectrum[:, : number * self.patch].reshape(len(spectrum), number, -1)
        valid = within((frames // self.patch).clamp(min=1), number)
        patches = patches * valid[..., None]
        return Local(patches, patches, valid)

    def pooled_spectrum(self, spectrum: Tensor, frames: Tensor) -> Tensor:
        """Return pooled features [B, D] of spectra [B, F, mels], the first `frames` [B] of them real."""
        local = self.patches(spectrum, frames)
        return self.pool(self.context(local), local.valid)

    @abstractmethod
    def context(
        self, local: Local, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> list[Tensor]:
        """Return the output [B, T, d] of each layer."""


def positions(number: int, width: int, device: torch.device) -> Tensor:
    """Return sinusoidal positions [number, width] (arXiv:1706.03762, section 3.5)."""
    rate = torch.exp(-math.log(10000) / width * torch.arange(0, width, 2, device=device))
    angle = torch.arange(number, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)[:, :width]


class ConvolutionalPositions(nn.Module):
    """A convolution over places with GELU, whose output is added to them (wav2vec 2.0, section 2).

    Args:
        width: the width of a place.
        kernel: the places that it sees, an odd number.
        groups: the number of groups of channels.
    """

    def __init__(self, width: int, kernel: int = 31, groups: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=math.gcd(width, groups))
        nn.init.normal_(self.conv.weight, std=2 / math.sqrt(kernel * width))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return what is added to places [B, T, d], of which those in `valid` [B, T] are real."""
        return F.gelu(self.conv((x * valid[..., None]).transpose(1, 2))).transpose(1, 2)


class Layer(nn.Module):
    """A layer of a transformer: attention and a network of two linear layers, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        """Return the output for x [B, T, d], where places see those that `attend` [B, 1, T, T] says."""
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attend)  # [B, heads, T, d / heads]
        x = x + self.merge(seen.transpose(1, 2).flatten(2))
        x = x + self.mlp(self.second_norm(x))
        return x


class TransformerOptions(MelOptions):
    """Options of the transformer.

    Attributes:
        heads: the number of attention heads.
        positions: what tells places apart: sinusoids of their number, or a convolution over places,
            which depends on what is there.
        causal: whether a place sees no later ones.
    """

    heads: int = Field(4, ge=1)
    positions: Literal["sinusoids", "convolution"] = "sinusoids"
    causal: bool = False


class MelTransformer(MelEncoder):
    """A transformer on patches of a log-mel spectrum."""

    def __init__(self, config: BackboneConfig, spec: SoundSpec) -> None:
        options = TransformerOptions.of(config)
        super().__init__(options, spec)
        check_divisible(options.width, options.heads, "heads")
        self.causal = options.causal
        by_convolution = options.positions == "convolution"
        if self.causal and by_convolution:
            raise SettingError(
                "backbone.options.positions",
                "a convolution sees later places, which causal forbids; leave out one of them",
            )
        self.positions = ConvolutionalPositions(options.width) if by_convolution else None
        self.embed = nn.Linear(self.local_width, options.width)
        self.layers = nn.ModuleList(Layer(options.width, options.heads) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.width)
        self.choose_features(options, options.layers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.embed.weight)

    def context(
        self, local: Local, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> list[Tensor]:
        """Return the output [B, T, d] of each layer, the last one normalised."""
        x = put_token(self.embed(local.normed), hidden, token)
        number = x.shape[1]
        if self.positions is None:
            x = x + positions(number, x.shape[2], x.device).to(x.dtype)
        else:
            x = x + self.positions(x, local.valid)
        attend = local.valid[:, None, None].expand(-1, 1, number, -1)
        if self.causal:
            attend = attend & torch.ones(number, number, dtype=torch.bool, device=x.device).tril()
        outputs = []
        for layer in self.layers:
            x = layer(x, attend)
            outputs.append(x)
        return [*outputs[:-1], self.norm(x)]

    def feed_forwards(self) -> list[nn.Module]:
        """Return the feed-forward network of each layer."""
        return [layer.mlp for layer in self.layers if isinstance(layer, Layer)]

    def parameter_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters by layer, from the input on."""
        first = [self.embed] if self.positions is None else [self.embed, self.positions]
        parts = [nn.ModuleList(first), *self.layers, self.norm]
        return [list(part.parameters()) for part in parts]


class MelGRU(MelEncoder):
    """Normalised local features, and a GRU that reads them in order: no place sees later ones."""

    causal = True

    def __init__(self, config: BackboneConfig, spec: SoundSpec) -> None:
        options = MelOptions.of(config)
        super().__init__(options, spec)
        self.project = nn.Linear(self.local_width, options.width)
        self.norm = nn.LayerNorm(options.width)
        self.gru = nn.GRU(options.width, options.width, options.layers, batch_first=True)
        self.local_width = options.width
        self.choose_features(options, 1)

    def patches(self, spectrum: Tensor, frames: Tensor) -> Local:
        """Return projected patches, each normalised by itself."""
        raw, _, valid = super().patches(spectrum, frames)
        raw = self.project(raw)
        return Local(raw, self.norm(raw), valid)

    def context(
        self, local: Local, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> list[Tensor]:
        """Return the output of the GRU [B, T, d]."""
        return [self.gru(put_token(local.normed, hidden, token))[0]]


class CNNOptions(MelOptions):
    """Options of the convolutional network, whose pooling makes a place of 4 frames."""

    mels: int = Field(64, ge=8, le=256)
    patch: Literal[4] = 4
    layers: Literal[3] = 3
    channels: int = Field(64, ge=1)


class MelCNN(MelEncoder):
    """Three convolutions on a spectrum, then two linear layers at each place (BYOL-A, section III-C).

    Padding is set to 0 before each convolution, so that features do not depend on it.
    """

    def __init__(self, config: BackboneConfig, spec: SoundSpec) -> None:
        options = CNNOptions.of(config)
        super().__init__(options, spec)
        self.embed_width = None
        channels, mels = options.channels, options.mels
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
            for c in (1, channels, channels)
        )
        self.linear = nn.Sequential(
            nn.Linear(channels * (mels // 8), options.width), nn.ReLU(),
            nn.Linear(options.width, options.width), nn.ReLU(),
        )  # fmt: skip
        self.choose_features(options, 1)

    def pool(self, layers: Sequence[Tensor], valid: Tensor) -> Tensor:
        """Return the mean plus the maximum over the places of each clip (BYOL-A, section III-C)."""
        pooled = super().pool(layers, valid)
        maximum = layers[self.layer].masked_fill(~valid[..., None], -torch.inf).amax(1).float()
        return torch.cat([pooled[:, : self.place_width] + maximum, pooled[:, self.place_width :]], 1)

    def context(
        self, local: Local, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> list[Tensor]:
        """Return the output at each place [B, T, d].

        Raises:
            Unsuitable: places are hidden.
        """
        if hidden is not None:
            raise Unsuitable("mel-cnn cannot hide places; choose --backbone mel-mini")
        x = local.normed.reshape(len(local.valid), 1, -1, self.log_mel.mels)  # [B, 1, 4 T, mels]
        for block, (time, bands) in zip(self.blocks, ((2, 2), (2, 2), (1, 2)), strict=True):
            repeats = x.shape[2] // local.valid.shape[1]
            x = block(x * local.valid.repeat_interleave(repeats, 1)[:, None, :, None])
            x = F.max_pool2d(x, (time, bands))
        return [self.linear(x.transpose(1, 2).flatten(2))]
