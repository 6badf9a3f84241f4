"""Strided convolutions of maps that are smaller than their stride have the right gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.backbones.small_maps import pad_small_maps
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.spec import ImageSpec


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "shape"),
    [(3, 2, 1, (1, 1)), (3, 4, 1, (3, 1)), (7, 4, 1, (2, 3)), (3, (1, 2), 2, (1, 1)), (1, 2, 1, (1, 5))],
)
def test_output_and_gradients_are_those_of_the_convolution(
    kernel: int, stride: int, dilation: int, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, kernel, stride, dilation * (kernel - 1) // 2, dilation).double()
    x = torch.randn(5, 3, *shape, dtype=torch.float64, requires_grad=True)
    before = conv(x)
    weights = torch.randn_like(before)
    expected = torch.autograd.grad((before * weights).sum(), [x, *conv.parameters()])
    pad_small_maps(conv)
    after = conv(x)
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(
        torch.autograd.grad((after * weights).sum(), [x, *conv.parameters()]), expected
    )


def test_weights_that_meet_no_pixel_have_no_gradient_in_bfloat16() -> None:
    spec = ImageSpec(size=28, channels=1, mean=(0.0,), std=(1.0,))
    encoder = create_backbone(BackboneConfig(), spec).train()
    for seed in range(3):
        x = torch.randn(64, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder(x)
        features.float().square().sum().backward()
    gradient = encoder.get_submodule("model.layer4.0.conv1").weight.grad  # its map has one place
    assert isinstance(gradient, torch.Tensor)
    middle = torch.zeros_like(gradient)
    middle[:, :, 1, 1] = gradient[:, :, 1, 1]
    assert middle.abs().sum() > 0
    assert gradient.equal(middle)
