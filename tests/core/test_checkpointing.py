"""Recomputed activations: the same losses, gradients and statistics, in less memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.runs.build import build_data
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder
from ssl_zoo.training.batch import Batch
from ssl_zoo.training.trainer import Trainer
from tests.conftest import small_config

VIT = {"name": "test_vit", "options": {"patch_size": 4, "drop_path_rate": 0.2}}
CASES: dict[str, dict[str, Any]] = {
    "batch norms and dropout": {"backbone": {"name": "resnet10t", "options": {"drop_path_rate": 0.2}}},
    "transformer": {"backbone": VIT},
    "left-out patches": {"task": "mae", "backbone": VIT},
    "parts": {"backbone": VIT, "train__cached_gradients": True, "train__part_size": 5},
}
"""Networks and tasks that pass through them in different ways."""


def stepped(
    task: str = "simclr", backbone: Any = None, **settings: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a step with 8 digits, and the gradients and buffers after it."""
    config = small_config(task, train__batch_size=8, train__lr=1e-9, **settings)
    config.backbone = BackboneConfig(**copy.deepcopy(backbone))
    data = build_data(config, torch.device("cpu"))
    trainer = Trainer(config, data, Device.choose(config.train))
    trainer.task.train()
    gradients: dict[str, Tensor] = {}
    for name, parameter in trainer.task.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name: gradients.update({name: p.grad.clone()})
            )
    numbers = torch.arange(8)
    losses = trainer.train_step([Batch(data.train.batch(numbers), numbers)])
    return losses.total, {**gradients, **dict(trainer.task.named_buffers())}


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_statistics_are_those_of_the_plain_network(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recomputed = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        recomputed.append(args)
        return checkpoint(*args, **kwargs)

    loss, plain = stepped(**CASES[case])
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    again_loss, again = stepped(**CASES[case], train__grad_checkpointing=True)
    assert recomputed
    torch.testing.assert_close(again_loss, loss, rtol=1e-6, atol=1e-6)
    assert again.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=1e-6)


def test_a_network_that_cannot_is_refused_in_one_line() -> None:
    class Fixed(Encoder):
        width = 3

        def forward(self, x: Any) -> Tensor:
            pooled: Tensor = x.mean((2, 3))
            return pooled

        def feature_map(self, x: Any, hidden: Any = None, token: Any = None) -> Tensor:
            features: Tensor = x
            return features

    with pytest.raises(
        Unsuitable, match=r"^train.grad_checkpointing: Fixed cannot recompute activations"
    ):
        Fixed().checkpoint_gradients()
    spec = ImageSpec(channels=3, size=32)
    encoder = create_backbone(BackboneConfig(name="test_resnet"), spec)
    encoder.model = nn.Identity()
    with pytest.raises(
        Unsuitable, match=r"^train.grad_checkpointing: timm cannot .* of Identity; leave"
    ):
        encoder.checkpoint_gradients()
    with pytest.raises(UserError, match="compile cannot be combined with grad_checkpointing"):
        small_config("simclr", train__compile=True, train__grad_checkpointing=True)


def test_a_sparse_convolutional_network_is_refused() -> None:
    spec = ImageSpec(channels=3, size=32)
    encoder = create_backbone(BackboneConfig(name="test_resnet"), spec).train()
    encoder.checkpoint_gradients()
    x = torch.randn(2, 3, 32, 32)
    hidden = torch.zeros(
        encoder.feature_map(x).shape[:1] + encoder.feature_map(x).shape[2:], dtype=torch.bool
    )
    with pytest.raises(Unsuitable, match="with hidden places cannot recompute activations"):
        encoder.feature_map(x, hidden)
