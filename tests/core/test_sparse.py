"""Inside of a convolutional network hidden places do not exist: it computes as if sparsely."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from ssl_zoo.backbones.small_stem import use_small_stem
from ssl_zoo.backbones.sparse import masked, resized
from ssl_zoo.errors import Unsuitable

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", SMALL),
    "resnet18, small stem": ("resnet18", SMALL),
    "resnet50": ("resnet50", SMALL),
    "resnet50d, group norm": ("resnet50d", {**SMALL, "norm_layer": "groupnorm1"}),
    "seresnet50": ("seresnet50", {**SMALL, "channels": [16, 16, 24, 32]}),
    "convnext": ("convnext_atto", CONVNEXT),
    "convnextv2": ("convnextv2_atto", CONVNEXT),
    "padded first": ("tf_efficientnet_b0", {}),
}


def network(kind: str) -> nn.Module:
    name, options = NETWORKS[kind]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **options)
    if kind.endswith("small stem"):
        assert use_small_stem(model, 2)
    for parameter in model.parameters():
        # So that nothing is 0, as the weights of GRN are; about the initial 1 of a norm, so that deep
        # stages still differ from one input to another.
        if parameter.ndim < 2:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def outputs(model: Any, x: Tensor) -> list[Tensor]:
    """Return the maps of all stages and the pooled features."""
    torch.manual_seed(1)
    unpooled, maps = model.forward_intermediates(x)
    return [*maps, model.forward_head(unpooled, pre_logits=True)]


def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def grid(model: nn.Module) -> int:
    with torch.no_grad():
        return int(outputs(copy.deepcopy(model).eval(), images())[-2].shape[-1])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_with_everything_active_the_network_is_the_dense_one(kind: str, training: bool) -> None:
    dense = network(kind).train(training)
    sparse = copy.deepcopy(dense)
    expected = outputs(dense, images())
    with masked(sparse, torch.ones(4, grid(dense), grid(dense), dtype=torch.bool)):
        found = outputs(sparse, images())
    scale = max(float(e.detach().abs().max()) for e in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(sparse.state_dict(), dense.state_dict(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_changing_hidden_pixels_changes_no_active_cell_of_any_stage(kind: str, training: bool) -> None:
    model = network(kind).train(training)
    side = grid(model)
    active = torch.arange(4 * side * side).view(4, side, side) % 2 == 0
    seen = resized(active, 64, 64).unsqueeze(1)
    x = images()
    with masked(model, active):
        before = outputs(copy.deepcopy(model), x)
    for y, moves in ((torch.where(seen, x, 9 * torch.randn_like(x)), False), (x + 0.5 * seen, True)):
        twin = copy.deepcopy(model)
        with masked(twin, active):
            after = outputs(twin, y)
        for a, b in zip(before, after, strict=True):
            cells = resized(active, *a.shape[2:]).unsqueeze(1) if a.ndim == 4 else torch.tensor(True)
            assert torch.equal(a * cells, b * cells) != moves
            assert a.isfinite().all()


def test_statistics_are_of_active_cells_and_gradients_reach_them_alone() -> None:
    norm, pool = nn.BatchNorm2d(3), nn.MaxPool2d(3, 2, 1)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    active = torch.zeros(2, 4, 4, dtype=torch.bool)
    active[:, :2] = True
    with masked(norm, active):
        y = norm(x)
        pooled = y.mean((2, 3))
        pool(y - 100).sum().backward()
    inside = x[:, :, :4]
    expected = (inside - inside.mean((0, 2, 3), keepdim=True)) / (
        inside.var((0, 2, 3), keepdim=True, unbiased=False) + norm.eps
    ).sqrt()
    torch.testing.assert_close(y[:, :, :4], expected)
    assert not y[:, :, 4:].any()
    torch.testing.assert_close(pooled, expected.mean((2, 3)))
    torch.testing.assert_close(norm.running_mean, 0.1 * inside.mean((0, 2, 3)))
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert not x.grad[:, :, 4:].any()


@pytest.mark.parametrize("kind", ["resnet18", "convnextv2"])
def test_gradients_are_those_of_small_changes(kind: str) -> None:
    model = network(kind).train()
    side = grid(model)
    active = torch.rand(4, side, side, generator=torch.Generator().manual_seed(2)) < 0.5
    model = model.double()
    x = images().double()

    def loss() -> Tensor:
        with masked(model, active):
            return outputs(model, x)[-1].square().sum()

    loss().backward()
    for name, parameter in [*model.named_parameters()][::7]:
        assert parameter.grad is not None
        at, step = parameter.grad.abs().argmax(), 1e-6
        flat = parameter.data.view(-1)
        flat[at] += step
        above = loss().item()
        flat[at] -= 2 * step
        slope = (above - loss().item()) / (2 * step)
        flat[at] += step
        assert parameter.grad.view(-1)[at].item() == pytest.approx(slope, rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}),
        ("test_coatnet", {}),
        ("mixer_s16_224", {}),
    ],
)
def test_a_network_that_looks_at_places_otherwise_is_refused_and_works_as_before(
    name: str, options: dict[str, Any]
) -> None:
    model = timm.create_model(name, num_classes=0, img_size=64, **options).eval()
    x = images()
    with torch.no_grad():
        before = model(x)
        with (
            pytest.raises(Unsuitable, match=r"^the backbone looks at all places with \w+, .* resnet18$"),
            masked(model, torch.ones(4, 2, 2, dtype=torch.bool)),
        ):
            model(x)
        assert torch.equal(model(x), before)
