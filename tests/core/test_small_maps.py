"""Convolutions of maps of few pixels have the right output and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.backbones.small_maps import prepare_small_maps
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.spec import ImageSpec


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "shape"),
    [(3, 2, 1, (1, 1)), (3, 4, 1, (3, 1)), (7, 4, 1, (2, 3)), (3, (1, 2), 2, (1, 1)), (1, 2, 1, (1, 5))],
)
def test_maps_smaller_than_the_stride(
    kernel: int, stride: int, dilation: int, shape: tuple[int, int]
) -> None:
    padding = dilation * (kernel - 1) // 2
    _compare(nn.Conv2d(3, 4, kernel, stride, padding, dilation), (5, 3, *shape))


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(3, 4, 3, padding=1, bias=False), (2, 2)),
        (nn.Conv2d(3, 4, (5, 3), (2, 1), (1, 2), (1, 2)), (3, 4)),
        (nn.Conv2d(3, 4, 2, 2), (2, 2)),
        (nn.Conv2d(3, 4, 1), (1, 1)),
        (nn.Conv2d(3, 4, 3, 2, 1), (1, 2)),  # enlarged first
    ],
)
def test_a_matrix_product_in_place_of_a_convolution(conv: nn.Conv2d, shape: tuple[int, int]) -> None:
    assert "Convolution" not in _compare(conv, (400, 3, *shape))
    assert "Convolution" in _compare(conv, (3, 3, *shape))  # too few images for copies of the weights


def _compare(conv: nn.Conv2d, shape: tuple[int, ...]) -> str:
    """Compare a prepared convolution with a plain one; return the last operator of the prepared one."""
    torch.manual_seed(0)
    plain, prepared = copy.deepcopy(conv).double(), copy.deepcopy(conv).double()
    prepare_small_maps(prepared)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(plain(x))
    results = []
    for module in (plain, prepared):
        y = module(x)
        gradients = torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])
        results.append((y, gradients))
    torch.testing.assert_close(results[1], results[0])
    assert repr(prepared) == repr(plain)
    assert y.grad_fn is not None
    return y.grad_fn.name()


@pytest.mark.filterwarnings("error")
def test_compiling_traces_them_whole_and_without_a_warning() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1))
    prepare_small_maps(layers)
    compiled = torch.compile(layers, backend="eager", fullgraph=True)
    for shape in [(2, 2), (1, 3)]:
        x = torch.randn(64, 3, *shape)
        assert torch.equal(compiled(x), layers(x))


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
