"""Learnt convolutions: their outputs are penalised, and their gradient is scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from audio_cases import SMALL_HUBERT, SMALL_WAV2VEC2, WAVE, built
from ssl_zoo_audio.hubert import HuBERT
from ssl_zoo_audio.wav2vec2 import Wav2Vec2

HUBERT = {**SMALL_HUBERT, "layer": 1}
WAVE_HUBERT = {**WAVE, "name": "hubert-mini"}
TASKS = pytest.mark.parametrize(
    ("cls", "options", "backbone"),
    [(HuBERT, HUBERT, WAVE_HUBERT), (Wav2Vec2, SMALL_WAV2VEC2, WAVE)],
    ids=["hubert", "wav2vec2"],
)


def test_the_loss_of_hubert_is_cross_entropy_and_the_weighted_penalty() -> None:
    for weight in (10.0, 0.5, 0.0):
        task, views = built(HuBERT, WAVE_HUBERT, **HUBERT, feature_penalty=weight)
        raw, _, valid = task.encoder.local(views[0])
        mean_square = raw[valid].square().mean().item()
        losses = task.loss(views)
        assert losses.logs["penalty"].item() == pytest.approx(mean_square, rel=1e-4)
        expected = losses.logs["cross_entropy"].item() + weight * mean_square
        assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    assert HuBERT.Options().feature_penalty == 10.0


def gradients(cls: Any, backbone: Any, **options: Any) -> dict[str, torch.Tensor]:
    """Return the gradient of a task's loss by parameter."""
    task, views = built(cls, backbone, **options)
    task.loss(views).total.backward()
    return {name: value.grad for name, value in task.named_parameters() if value.grad is not None}


@TASKS
def test_the_gradient_of_the_loss_is_scaled_in_the_convolutions_alone(
    cls: Any, options: dict[str, Any], backbone: dict[str, Any]
) -> None:
    """Both terms are scaled: the penalty too reaches the convolutions through their outputs."""
    whole = gradients(cls, backbone, **options, conv_gradient_scale=1.0)
    scaled = gradients(cls, backbone, **options, conv_gradient_scale=0.1)
    default = gradients(cls, backbone, **options)
    assert whole.keys() == scaled.keys() == default.keys()
    convolutions = {name for name in whole if ".feature_extractor." in name}
    assert convolutions
    for name, gradient in whole.items():
        expected = 0.1 * gradient if name in convolutions else gradient
        torch.testing.assert_close(scaled[name], expected, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(default[name], scaled[name])
    assert all(whole[name].abs().sum() > 0 for name in convolutions)
