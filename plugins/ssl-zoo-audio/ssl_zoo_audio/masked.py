"""Options, views, tokens and pictures of hidden spans, which several tasks share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo import Field, Rng, Task, TaskOptions, Unsuitable, distributed
from ssl_zoo.nn import full_precision
from ssl_zoo_audio.encoders.base import Local, SoundEncoder
from ssl_zoo_audio.masks import draw_spans
from ssl_zoo_audio.sound import Sound
from ssl_zoo_audio.spec import SoundSpec


class MaskedOptions(TaskOptions):
    """The options of hidden spans."""

    mask_prob: float = Field(0.065, gt=0, lt=1, description="probability that a span begins at a place")
    mask_length: int = Field(10, ge=1, description="places in a hidden span")

    def hide(self, encoder: SoundEncoder, spec: SoundSpec, x: Sound, rng: Rng) -> Tensor:
        """Return which places of prepared clips are hidden, bool [B, T]."""
        limit = encoder.count_places(spec.longest)
        return draw_spans(rng, encoder.valid(x), self.mask_prob, self.mask_length, limit)


class ConvOptions(MaskedOptions):
    """The options of hidden spans and of learnt convolutions, where the backbone has these."""

    feature_penalty: float = Field(
        10.0, ge=0, description="weight of the mean square of the convolutions' outputs"
    )
    conv_gradient_scale: float = Field(
        0.1, gt=0, le=1, description="factor on the gradient that reaches the convolutions"
    )


def new_token(encoder: SoundEncoder) -> nn.Parameter:
    """Return a token that stands in hidden places, as wav2vec 2.0's uniform in [0, 1).

    Raises:
        Unsuitable: the network cannot hide places.
    """
    if encoder.embed_width is None:
        raise Unsuitable("the backbone cannot hide places; choose --backbone mel-mini")
    return nn.Parameter(torch.rand(encoder.embed_width))


def feature_penalty(local: Local) -> Tensor:
    """Return the mean square of the convolutions' outputs over real places of the joint batch.

    It is 0 for a spectrum, which has no parameters.
    """
    raw = full_precision(local.raw)
    if not raw.requires_grad:
        return raw.new_zeros(())
    square = (raw.square().mean(2) * local.valid).sum()
    count = local.valid.sum().to(square.dtype)
    total, number = distributed.sum(torch.stack([square, count])).unbind()
    return total / number.detach()


class MaskedTask(Task):
    """A task on clips that hides spans of places from the network."""

    modality = "audio"
    encoder: SoundEncoder
    spec: SoundSpec

    def views(self, batch: Sound, rng: Rng) -> tuple[Any, ...]:
        """Return prepared clips, and which of their places are hidden, bool [B, T]."""
        x = self.spec.prepare(batch)
        return x, self.options.hide(self.encoder, self.spec, x, rng)

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return clips with their hidden spans dark, to stand beside the clips."""
        x, hidden, *_ = views
        return {"hidden": self.spec.spectrograms(x, hidden)}
