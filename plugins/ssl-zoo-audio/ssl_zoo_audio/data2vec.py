"""data2vec on sound: a teacher's features of the whole clip are predicted at hidden places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo import Field, Losses
from ssl_zoo.nn import Teacher, full_precision
from ssl_zoo_audio.encoders.base import Local, SoundEncoder
from ssl_zoo_audio.masked import MaskedOptions, MaskedTask, new_token
from ssl_zoo_audio.recipes import recipe
from ssl_zoo_audio.spec import SoundSpec


def instance_norm(x: Tensor, valid: Tensor) -> Tensor:
    """Give each channel of each clip mean 0 and variance 1 over its real places.

    Args:
        x: features of places [B, T, d].
        valid: which places are real, bool [B, T].
    """
    mask, n = valid[..., None], valid.sum(1).clamp(min=1)[:, None, None]
    centred = (x - (x * mask).sum(1, keepdim=True) / n) * mask
    return centred * (centred.square().sum(1, keepdim=True) / n + 1e-5).rsqrt()


class Data2VecAudio(MaskedTask):
    """Predict at hidden places the layers of a momentum teacher, which sees the whole clip."""

    name = "data2vec-audio"
    paper = "Baevski et al. 2022, data2vec, arXiv:2202.03555"
    family = "masked"
    passes = 2
    recipe = recipe("mel-mini", {"positions": "convolution"}, epochs=25)

    class Options(MaskedOptions):
        """data2vec's options.

        Over the 675 steps of the recipe the paper's momentum leaves 85 % of the untrained network in the
        teacher. A faster one, 0.95 to 0.99, is easier to predict, but the student knows no more of the
        bundled syllables.
        """

        layers: int = Field(8, ge=1, description="the teacher's last layers that targets are means of")
        momentum: tuple[float, float] = Field(
            (0.999, 0.9999), description="the teacher's momentum at the start, and after the rise"
        )
        momentum_rise: float = Field(
            0.3, ge=0, le=1, description="share of training in which momentum rises"
        )

    def __init__(self, encoder: SoundEncoder, options: Options, spec: SoundSpec) -> None:
        super().__init__(encoder, options, spec)
        self.token = new_token(encoder)
        self.project = nn.Linear(encoder.place_width, encoder.place_width)
        start, end = options.momentum
        self.teacher = Teacher(encoder, start=start, end=end, kind="linear", share=options.momentum_rise)

    @torch.no_grad()
    def targets(self, local: Local) -> Tensor:
        """Return the mean of what the teacher's last layers add, each normalised over time, [B, T, d].

        As in the authors' code it is the output of the feed-forward network, before it is added: the sum
        has the positions and the input in it, which are easily predicted.
        """
        teacher: Any = self.teacher[0]
        layers = teacher.branches(Local(*(part.detach() for part in local)))
        chosen = [instance_norm(full_precision(x), local.valid) for x in layers[-self.options.layers :]]
        return torch.stack(chosen).mean(0)

    def loss(self, views: tuple[Any, ...]) -> Losses:
        """Return the squared error at hidden places (section 3.3, with β = 0)."""
        x, hidden = views
        local = self.encoder.local(x)  # the convolutions are shared with the teacher
        target = self.targets(local)[hidden]  # [M, d]
        output = self.project(self.encoder.context(local, hidden, self.token)[-1][hidden])
        weight = hidden.sum()
        error = (full_precision(output) - target).square().mean(1).sum() / weight.clamp(min=1)
        variance = (target - target.mean(0)).square().mean().detach()  # 0 once it has collapsed
        return Losses(error, {"target_variance": variance}, weight)

    def after_step(self, progress: float) -> None:
        """Update the teacher."""
        self.teacher.update(progress, self.encoder)
