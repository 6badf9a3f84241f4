"""The parts that methods share."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ssl_zoo.nn
from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import UserError
from ssl_zoo.nn import (
    FeatureQueue,
    FirstMean,
    at_places,
    ema_update,
    frozen_copy,
    full_precision,
    mlp,
    output_shape,
    product,
    schedule,
    spread,
    unit,
    unsaved,
)
from ssl_zoo.spec import ImageSpec


def from_the_oldest(queue: FeatureQueue) -> Tensor:
    return queue.features.roll(-int(queue.place), 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 25), max_size=8))
def test_a_queue_holds_the_latest_vectors_whatever_the_batches(size: int, batches: list[int]) -> None:
    queue = FeatureQueue(size, 3)
    reference = deque(queue.features.tolist(), maxlen=size)
    for number, b in enumerate(batches):
        rows = torch.arange(3.0 * b).view(b, 3) + 1000 * number
        queue.push(rows)
        reference.extend(rows.tolist())
        assert from_the_oldest(queue).tolist() == list(reference)


def test_a_queue_starts_with_different_unit_vectors() -> None:
    features = FeatureQueue(50, 8).features
    torch.testing.assert_close(features.norm(dim=1), torch.ones(50))
    assert (features @ features.T - torch.eye(50)).max() < 0.999


def test_a_queue_is_saved_with_its_place_and_has_no_parameters() -> None:
    queue, other = FeatureQueue(5, 2), FeatureQueue(5, 2)
    queue.push(torch.ones(3, 2))
    assert not list(queue.parameters())
    other.load_state_dict(queue.state_dict())
    for q in (queue, other):
        q.push(torch.full((3, 2), 2.0))
    torch.testing.assert_close(other.features, queue.features)


def test_what_is_pushed_carries_no_gradient_into_the_queue() -> None:
    queue = FeatureQueue(4, 2)
    queue.push(torch.ones(2, 2, requires_grad=True))
    assert not queue.features.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_queue_takes_vectors_of_any_precision_and_keeps_its_own(dtype: torch.dtype) -> None:
    queue = FeatureQueue(4, 2)
    queue.push(torch.full((1, 2), 0.5, dtype=dtype))
    assert queue.features.dtype == torch.float32
    assert queue.features[0].tolist() == [0.5, 0.5]


def test_full_precision_raises_half_precision_and_leaves_the_rest() -> None:
    for half in (torch.float16, torch.bfloat16):
        assert full_precision(torch.ones(1, dtype=half)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64, torch.int64):
        x = torch.ones(1, dtype=dtype)
        assert full_precision(x) is x


def test_units_and_their_products_are_in_float32_also_under_autocast() -> None:
    x, y = torch.randn(6, 32), torch.randn(5, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ y.T).dtype == torch.bfloat16
        torch.testing.assert_close(product(x, y.mT), x @ y.mT, rtol=0.02, atol=0.05, check_dtype=False)
        scores = product(unit(x), unit(y).mT)
    expected = F.cosine_similarity(x.double()[:, None], y.double(), dim=2)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-6)
    assert unit(x.bfloat16()).dtype == torch.float32
    assert unit(torch.zeros(3)).tolist() == [0, 0, 0]


def test_spread_is_0_for_one_direction_and_about_1_for_random_ones() -> None:
    lengths = torch.rand(64, 1)
    assert spread(lengths * torch.ones(64, 8)).item() == pytest.approx(0, abs=1e-6)
    assert spread(torch.randn(4096, 8)).item() == pytest.approx(1, abs=0.02)


def kinds(module: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in module]


def test_an_mlp_normalises_and_rectifies_between_its_layers_only() -> None:
    head = mlp([6, 5, 4, 3])
    block = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(head) == [*block, *block, "Linear"]
    assert [m.weight.shape for m in head if isinstance(m, nn.Linear)] == [(5, 6), (4, 5), (3, 4)]
    assert kinds(mlp([6, 5, 3], norm=False)) == ["Linear", "ReLU", "Linear"]
    assert kinds(mlp([6, 3])) == ["Linear"]


def test_an_mlps_layer_has_a_bias_where_no_normalisation_follows() -> None:
    assert [m.bias is not None for m in mlp([6, 5, 3]) if isinstance(m, nn.Linear)] == [False, True]
    plain = mlp([6, 5, 3], norm=False)
    assert [m.bias is not None for m in plain if isinstance(m, nn.Linear)] == [True, True]


def test_an_mlps_last_normalisation_learns_nothing() -> None:
    head = mlp([6, 5, 3], last_norm=True)
    assert kinds(head)[-1] == "BatchNorm1d"
    assert not list(head[-1].parameters())
    out = head(torch.randn(64, 6))
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, unbiased=False), torch.ones(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: timm.create_model(
            "test_vit", drop_path_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, patch_drop_rate=0.5
        ),
        lambda: timm.create_model("test_efficientnet", drop_rate=0.5, drop_path_rate=0.5),
        lambda: nn.TransformerEncoderLayer(160, 4, 8, dropout=0.5, batch_first=True),
        lambda: nn.LSTM(160, 4, 2, dropout=0.5, batch_first=True),
    ],
)
def test_a_teacher_drops_nothing_where_its_student_does(build: Callable[[], nn.Module]) -> None:
    student = build().train()
    teacher = frozen_copy(student)
    x = torch.randn(4, 3, 160, 160) if hasattr(student, "forward_features") else torch.randn(4, 9, 160)

    def differs(module: nn.Module) -> bool:
        once, again = (copy.deepcopy(module)(x) for _ in range(2))
        return not torch.equal(*((y[0] if isinstance(y, tuple) else y) for y in (once, again)))

    assert differs(student)
    assert not differs(teacher)


def test_an_unsaved_teacher_is_in_no_state_dict_and_stays_as_it_is() -> None:
    def built() -> nn.Module:
        whole = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        unsaved(whole[1])
        return whole

    a, b = built().train(), built()
    a(torch.randn(8, 2)).sum().backward()
    assert list(a.state_dict()) == ["0.weight", "0.bias"]
    teacher = b[1][0].weight.clone()
    b.load_state_dict(a.state_dict())
    assert b[0].weight.equal(a[0].weight)
    assert b[1][0].weight.equal(teacher)
    assert b[1][1].num_batches_tracked == a[1][1].num_batches_tracked == 0
    assert all(p.grad is None for p in a[1].parameters())
    with pytest.raises(RuntimeError, match=r'Missing key.*: "0.bias"\. $'):
        b.load_state_dict({"0.weight": a[0].weight})
    # A checkpoint from before it was unsaved is still read.
    b.load_state_dict({**a.state_dict(), "1.0.weight": torch.ones(2, 2)})
    assert b[1][0].weight.equal(torch.ones(2, 2))


def test_a_schedule_goes_from_its_start_to_its_end_and_stays_there() -> None:
    assert [schedule(0.99, 1.0, p) for p in (0.0, 0.5, 1.0)] == [0.99, pytest.approx(0.995), 1.0]
    assert schedule(0.04, 0.4, 1 / 3) == pytest.approx(0.04 + 0.36 / 4)
    warming = [schedule(0.04, 0.07, p, "linear", share=0.3) for p in (0.0, 0.1, 0.3, 0.9)]
    assert warming == pytest.approx([0.04, 0.05, 0.07, 0.07])
    assert schedule(1.0, 2.0, 0.0, share=0.0) == 2.0


def test_a_frozen_copy_is_equal_apart_and_reached_by_no_gradient() -> None:
    module = mlp([4, 4, 2])
    copy = frozen_copy(module)
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad for p in module.parameters())
    torch.testing.assert_close(copy.state_dict(), module.state_dict())
    with torch.no_grad():
        module[0].weight.add_(1)
    assert not torch.equal(copy[0].weight, module[0].weight)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_average_moves_by_its_formula_and_leaves_statistics_alone(momentum: float) -> None:
    module, average = mlp([4, 4, 2]), frozen_copy(mlp([4, 4, 2]))
    module(torch.randn(8, 4))
    old = {n: p.clone() for n, p in average.named_parameters()}
    statistics = {n: b.clone() for n, b in average.named_buffers()}
    ema_update(average, module, momentum)
    for name, p in module.named_parameters():
        expected = momentum * old[name] + (1 - momentum) * p
        torch.testing.assert_close(average.get_parameter(name), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(dict(average.named_buffers()), statistics, atol=0, rtol=0)


def test_the_shape_of_an_output_is_found_without_a_trace() -> None:
    spec = ImageSpec(size=32)
    encoder = create_backbone(BackboneConfig(name="test_resnet"), spec)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    assert output_shape(encoder, encoder.feature_map, spec) == (1, encoder.map_width, 4, 4)
    assert encoder.training
    with pytest.raises(UserError, match="no stage 9"):
        output_shape(encoder.eval(), lambda x: encoder.stages(x, [9])[0], spec)
    assert not encoder.training
    torch.testing.assert_close(encoder.state_dict(), before, atol=0, rtol=0)


def test_the_nearest_of_a_queue_is_the_row_of_the_largest_cosine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, z = FeatureQueue(50, 4), torch.randn(9, 4)
    best = [max(queue.features, key=lambda row: float(row @ x)) for x in z]
    monkeypatch.setattr(ssl_zoo.nn, "MAX_SCORES", 150)  # three rows at a time
    nearest = queue.nearest(z.requires_grad_())
    assert torch.equal(nearest, torch.stack(best))
    assert not nearest.requires_grad


def test_a_first_mean_is_that_of_the_first_step_for_ever() -> None:
    mean = FirstMean()
    assert mean.of(torch.tensor([1.0, 3.0])) == 2
    mean.clear()  # a step that overflowed
    assert mean.of(torch.tensor([4.0, 6.0])) == 5
    assert mean.value == 0
    mean.update()
    assert mean.of(torch.tensor([7.0])) == mean.value == 5
    mean.update()
    assert mean.value == 5


def test_a_head_at_places_is_one_of_1_by_1_convolutions() -> None:
    head = mlp([3, 6, 4])
    linear, norm, act, last = cast(Any, head)
    x = torch.randn(5, 3, 2, 7)
    y = nn.functional.conv2d(x, linear.weight[:, :, None, None])
    y = act(nn.functional.batch_norm(y, None, None, norm.weight, norm.bias, training=True))
    y = nn.functional.conv2d(y, last.weight[:, :, None, None], last.bias)
    torch.testing.assert_close(at_places(head, x), y.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)
