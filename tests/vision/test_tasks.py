"""The five tasks: what each paper asks for; what all of them promise is in test_conformance."""

from __future__ import annotations

import copy
import itertools
import math
from collections import deque
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.errors import UserError
from ssl_zoo.nn import byol_loss, info_nce, nt_xent, shuffled_groups
from ssl_zoo.task import Encoder, Task
from ssl_zoo.training.loop import warn_of_chance
from ssl_zoo.views import Rng
from ssl_zoo_vision.contrastive.moco import MoCo
from ssl_zoo_vision.contrastive.simclr import SimCLR
from ssl_zoo_vision.distillation.byol import BYOL
from ssl_zoo_vision.masked.inpainting import Inpainting
from ssl_zoo_vision.predictive.rotation import Rotation
from tests.vision.small_tasks import (
    TINY_RESNET,
    build,
    every_variant,
    photos,
    spec,
    views,
)


@every_variant
@pytest.mark.parametrize(
    ("size", "channels", "height", "width"),
    [(16, 3, 20, 20), (16, 1, 8, 8), (17, 3, 21, 13), (32, 1, 28, 28)],
)
def test_views_are_normalised_images_of_the_networks_size_whatever_the_datas(
    cls: type[Task], options: dict[str, Any], size: int, channels: int, height: int, width: int
) -> None:
    task = build(cls, size, channels, **options)
    raw = torch.randint(256, (5, channels, height, width), dtype=torch.uint8)
    pictures = [v for v in task.views(raw, Rng(3)) if v.ndim == 4 and v.is_floating_point()]
    assert len(pictures) == {Rotation: 4, Inpainting: 1}.get(cls, 2)
    for view in pictures:
        assert view.shape == (5, channels, size, size)
        assert view.dtype == torch.float32
        assert view.min() >= -2 - 1e-4  # (0 - mean) / std
        assert view.max() <= 2 + 1e-4


@every_variant
def test_the_gallery_and_the_reconstructions_are_columns_of_images(
    cls: type[Task], options: dict[str, Any]
) -> None:
    task = build(cls, **options).eval()
    drawn = views(task, 3)
    columns = {**task.gallery(drawn), **task.reconstructions(drawn)}
    assert len(columns) == {Rotation: 5, Inpainting: 3}.get(cls, 2)
    for caption, column in columns.items():
        assert caption
        assert column.shape == (3, 3, 16, 16)
        assert column.is_floating_point()


def test_an_image_is_turned_back_by_the_rotation_that_is_predicted() -> None:
    task = build(Rotation).eval()
    drawn = views(task, 3)
    quarters = task.head(task.encoder(drawn[1])).argmax(1)
    (answer,) = task.reconstructions(drawn).values()
    for image, turned, q in zip(answer, drawn[1], quarters.tolist(), strict=True):
        assert torch.equal(torch.rot90(image, q, (1, 2)), turned)


# --- SimCLR ---


def test_simclr_is_nt_xent_of_the_heads_output_for_both_views() -> None:
    task = build(SimCLR, temperature=0.3).eval()
    x1, x2 = views(task)
    z1, z2 = (F.normalize(task.head(task.encoder(x)), dim=1) for x in (x1, x2))
    losses = task.loss((x1, x2))
    torch.testing.assert_close(losses.total, nt_xent(z1, z2, 0.3), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses.logs["mi_bound"], math.log(15) - losses.total.detach())


def test_decoupled_simclr_is_dcl_and_bounds_no_mutual_information() -> None:
    task = build(SimCLR, temperature=0.3, decoupled=True).eval()
    drawn = views(task)
    z1, z2 = (F.normalize(task.head(task.encoder(x)), dim=1) for x in drawn)
    losses = task.loss(drawn)
    torch.testing.assert_close(losses.total, nt_xent(z1, z2, 0.3, True), atol=1e-5, rtol=1e-5)
    assert losses.logs == {}


def test_simclr_normalises_both_views_as_one_batch() -> None:
    task = build(SimCLR)
    seen: list[int] = []
    task.encoder.register_forward_hook(lambda module, x, y: seen.append(len(y)))
    task.loss(views(task))
    assert seen == [16]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nt_xent_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    z = F.normalize(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)), dim=1).to(dtype)
    z1, z2 = z.chunk(2)
    expected = nt_xent(z1.float(), z2.float(), 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1, z2, 0.01)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()


@pytest.mark.parametrize(("size", "temperature"), [(16, 0.5), (64, 0.5), (65, 0.1)])
def test_simclrs_temperature_is_the_papers_for_small_and_for_large_images(
    size: int, temperature: float
) -> None:
    assert build(SimCLR, size).temperature == temperature
    assert build(SimCLR, size, temperature=0.2).temperature == 0.2


def test_simclrs_head_is_as_wide_as_the_features_unless_told_otherwise() -> None:
    def widths(task: Any) -> list[tuple[int, int]]:
        return [(m.in_features, m.out_features) for m in task.head if isinstance(m, nn.Linear)]

    assert widths(build(SimCLR)) == [(64, 64), (64, 128)]
    assert widths(build(SimCLR, hidden=20, out=10)) == [(64, 20), (20, 10)]


# --- MoCo ---


def unit_keys(task: Any, x: Tensor, shuffle: Tensor) -> Tensor:
    k: Tensor = shuffled_groups(task.key_encoder, x, shuffle, task.options.key_groups)
    return F.normalize(k, dim=1)


def moco_step(task: Any, drawn: tuple[Tensor, ...], skipped: bool = False) -> Tensor:
    """Make a step without a change of weights, as when fp16 overflows."""
    task.before_step(0.5)
    total: Tensor = task.loss(drawn).total
    total.backward()
    if not skipped:
        task.after_step(0.5)
    task.zero_grad(set_to_none=True)
    return total.detach()


def test_mocos_negatives_are_the_queue_as_it_was_before_the_step() -> None:
    task = build(MoCo, queue=11, key_groups=1)
    for seed in range(4):
        x1, x2, shuffle = views(task, seed=seed)
        queue = task.queue.features.clone()
        reference = copy.deepcopy(task)
        q = F.normalize(reference.head(reference.encoder(x1)), dim=1)
        k = F.normalize(reference.key_encoder(x2[shuffle]), dim=1)[shuffle.argsort()]
        expected = info_nce(q, k, queue, 0.2)
        torch.testing.assert_close(moco_step(task, (x1, x2, shuffle)), expected.detach())


@pytest.mark.parametrize(("queue", "batch"), [(24, 8), (11, 8), (7, 8), (3, 8), (8, 3), (1, 2)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mocos_queue_holds_the_latest_keys_for_any_batch_size(
    queue: int, batch: int, symmetric: bool
) -> None:
    task = build(MoCo, queue=queue, symmetric=symmetric)
    latest = deque(task.queue.features.tolist(), maxlen=queue)
    for seed in range(4):
        drawn = views(task, batch, seed)
        reference = copy.deepcopy(task)
        for view in (drawn[1], drawn[0])[: 1 + symmetric]:
            latest.extend(unit_keys(reference, view, drawn[2]).tolist())
        moco_step(task, drawn)
        held = task.queue.features.roll(-int(task.queue.place), 0)
        torch.testing.assert_close(held, torch.tensor(list(latest)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(task.queue.features.norm(dim=1), torch.ones(queue))


def test_mocos_keys_are_unit_vectors_in_the_order_of_their_images() -> None:
    task = build(MoCo).eval()
    _, x2, shuffle = views(task)
    keys = unit_keys(task, x2, shuffle)
    assert not keys.requires_grad
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(8))
    expected = F.normalize(task.key_encoder(x2), dim=1)
    torch.testing.assert_close(keys, expected, atol=1e-5, rtol=1e-5)


def test_mocos_key_encoder_is_the_exact_average_of_the_query_encoder() -> None:
    task = build(MoCo, momentum=0.9)
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    query = nn.Sequential(task.encoder, task.head)
    average = {n: p.double() for n, p in query.named_parameters()}
    for seed in range(3):
        task.before_step(seed / 3)
        task.loss(views(task, seed=seed)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(0.5)
        for name, p in query.named_parameters():
            average[name] = 0.9 * average[name] + 0.1 * p.detach().double()
            key = task.key_encoder.get_parameter(name)
            torch.testing.assert_close(key.double(), average[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("size", "momentum", "queue"), [(16, 0.99, 4096), (65, 0.999, 65536)])
def test_mocos_momentum_and_queue_are_the_papers_or_for_small_images(
    size: int, momentum: float, queue: int
) -> None:
    task = build(MoCo, size, queue=None)
    assert task.key_encoder.momentum(0.5) == momentum
    assert task.queue.features.shape == (queue, 128)


def test_mocos_head_is_v2s_or_v1s() -> None:
    assert [type(m) for m in build(MoCo).head] == [nn.Linear, nn.ReLU, nn.Linear]
    (linear,) = build(MoCo, head="linear").head
    assert (linear.in_features, linear.out_features) == (64, 128)


def test_symmetric_moco_is_the_mean_over_both_roles() -> None:
    task = build(MoCo, symmetric=True).eval()
    x1, x2, shuffle = views(task)
    one_way = build(MoCo).eval()
    one_way.load_state_dict(task.state_dict())
    losses = [one_way.loss((a, b, shuffle)).total for a, b in ((x1, x2), (x2, x1))]
    torch.testing.assert_close(task.loss((x1, x2, shuffle)).total, sum(losses) / 2)


def test_accumulated_batches_all_reach_mocos_queue_but_are_no_negatives_of_each_other() -> None:
    task = build(MoCo, queue=24)
    before = task.queue.features.clone()
    keys = []
    for seed in (0, 1):
        drawn = views(task, seed=seed)
        keys.append(unit_keys(copy.deepcopy(task), drawn[1], drawn[2]))
        task.loss(drawn).total.backward()
        assert torch.equal(task.queue.features, before)
    task.after_step(0.5)
    torch.testing.assert_close(task.queue.features[:16], torch.cat(keys), atol=1e-5, rtol=1e-5)
    assert torch.equal(task.queue.features[16:], before[16:])
    assert task.queue.place == 16


def test_keys_of_a_step_that_overflow_skipped_never_reach_mocos_queue() -> None:
    task = build(MoCo, queue=24)
    moco_step(task, tuple(v * torch.nan if v.ndim == 4 else v for v in views(task)), skipped=True)
    for norm in task.modules():  # forget the statistics of that batch, which are another matter
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
    moco_step(task, views(task, seed=1))
    assert task.queue.features.isfinite().all()
    assert task.queue.place == 8


def test_evaluating_mocos_loss_keeps_its_keys_out_of_the_queue() -> None:
    task = build(MoCo).eval()
    task.loss(views(task))
    before = task.queue.features.clone()
    task.queue.update()
    assert task.queue.features.equal(before)


def test_mocos_keys_are_normalised_in_groups_that_the_queries_do_not_share() -> None:
    task = build(MoCo, key_groups=2)
    seen: dict[str, list[int]] = {"query": [], "key": []}
    task.encoder.register_forward_hook(lambda m, x, y: seen["query"].append(len(y)))
    task.key_encoder.register_forward_hook(lambda m, x, y: seen["key"].append(len(y)))
    x1, x2, shuffle = views(task, 8)
    task.loss((x1, x2, shuffle))
    assert seen == {"query": [8], "key": [4, 4]}
    # In training, a key depends on its group: whole-batch statistics give another one.
    assert not torch.allclose(
        unit_keys(task, x2, shuffle), F.normalize(task.key_encoder(x2), dim=1), atol=1e-3
    )
    same = copy.deepcopy(task)
    group = shuffle[:4]
    torch.testing.assert_close(
        unit_keys(task, x2, shuffle)[group], F.normalize(same.key_encoder(x2[group]), dim=1)
    )


@pytest.mark.parametrize(("batch", "groups"), [(2, 2), (3, 2), (5, 4), (7, 3), (7, 100)])
def test_no_image_is_normalised_alone_however_many_groups_are_asked_for(batch: int, groups: int) -> None:
    task = build(MoCo, key_groups=groups, backbone=TINY_RESNET)
    seen: list[int] = []
    task.key_encoder.register_forward_hook(lambda m, x, y: seen.append(len(y)))
    task.loss(views(task, batch))
    assert sum(seen) == batch
    assert min(seen) >= 2


# --- BYOL ---


def test_byol_is_the_loss_of_both_predictions_against_the_targets_of_the_other_view() -> None:
    task = build(BYOL).eval()
    x1, x2 = views(task)
    p1, p2 = (task.predictor(task.projector(task.encoder(x))) for x in (x1, x2))
    expected = byol_loss(p1, task.target(x2)) + byol_loss(p2, task.target(x1))
    torch.testing.assert_close(task.loss((x1, x2)).total, expected)
    torch.testing.assert_close(task.loss((x2, x1)).total, expected)
    assert 0 <= expected <= 8


def test_byols_loss_ends_at_8_where_predictions_and_targets_are_opposed() -> None:
    task = build(BYOL).eval()
    task.predictor = nn.Identity()
    x = views(task)[0]
    torch.testing.assert_close(task.loss((x, x)).total, torch.tensor(0.0), atol=1e-5, rtol=0)
    for layer in (task.target[1][-1].weight, task.target[1][-1].bias):
        layer.data.neg_()
    torch.testing.assert_close(task.loss((x, x)).total, torch.tensor(8.0), atol=1e-5, rtol=0)


def test_byols_target_is_the_average_with_a_momentum_that_ends_at_1() -> None:
    task = build(BYOL, momentum=0.9)
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    online = nn.Sequential(task.encoder, task.projector)
    average = {n: p.double() for n, p in online.named_parameters()}
    for step, progress in enumerate((1 / 3, 2 / 3, 1.0)):
        task.loss(views(task, seed=step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        last = {n: p.clone() for n, p in task.target.named_parameters()}
        task.after_step(progress)
        m = 1 - 0.1 * (math.cos(math.pi * progress) + 1) / 2
        for name, p in online.named_parameters():
            average[name] = m * average[name] + (1 - m) * p.detach().double()
            target = task.target.get_parameter(name)
            torch.testing.assert_close(target.double(), average[name], atol=1e-6, rtol=1e-5)
    for name, p in task.target.named_parameters():
        assert torch.equal(p, last[name])


def test_byols_target_normalises_by_its_own_batch() -> None:
    task = build(BYOL)
    x = views(task)[0]
    last = task.target[1][1]
    outputs: list[Tensor] = []
    last.register_forward_hook(lambda m, x, y: outputs.append(y.clone()))
    task.loss((x, x))
    for out in outputs:
        torch.testing.assert_close(out.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    assert len(outputs) == 2


def test_byols_views_differ_in_blur_and_solarisation_for_large_images() -> None:
    task = build(BYOL, 65)
    parts = [{type(t).__name__: t for t in v.transforms} for _, v in task.pair.crops]
    assert [p["GaussianBlur"].p for p in parts] == [1.0, 0.1]
    assert [p["RandomSolarise"].p for p in parts] == [0.0, 0.2]
    small = build(BYOL)
    parts = [{type(t).__name__: t for t in v.transforms} for _, v in small.pair.crops]
    assert [p["GaussianBlur"].p for p in parts] == [0.0, 0.0]
    assert [p["RandomSolarise"].p for p in parts] == [0.0, 0.2]


def test_only_byols_second_view_is_ever_solarised() -> None:
    plain = {"jitter_p": 0, "grayscale_p": 0, "crop_scale": (1.0, 1.0), "flip": 0, "solarise_p": 1}
    task = build(BYOL, **plain)
    white = torch.full((4, 3, 16, 16), 255, dtype=torch.uint8)
    first, second = (task.spec.denormalise(v) for v in task.views(white, Rng(0)))
    assert (first == 1).all()
    assert (second == 0).all()


@pytest.mark.parametrize(("size", "momentum"), [(16, 0.99), (65, 0.996)])
def test_byols_momentum_starts_as_the_papers_or_for_small_images(size: int, momentum: float) -> None:
    assert build(BYOL, size).target.momentum(0.0) == momentum


def test_byols_heads_are_the_papers() -> None:
    task = build(BYOL, hidden=4096, out=256)
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(m) for m in task.projector] == [type(m) for m in task.predictor] == kinds
    assert task.projector[0].weight.shape == (4096, 64)
    assert task.predictor[0].weight.shape == (4096, 256)
    assert task.predictor[-1].weight.shape == (256, 4096)


# --- Rotation ---


def test_rotations_views_are_the_exact_quarter_turns_of_the_first() -> None:
    task = build(Rotation, 17)
    drawn = views(task)
    for quarters, x in enumerate(drawn):
        assert torch.equal(x, torch.rot90(drawn[0], quarters, (2, 3)))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


class Corners(Encoder):
    """Features that tell where the brightest corner is."""

    width = 4

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, r, c] for r, c in ((0, 0), (-1, 0), (-1, -1), (0, -1))], 1)

    def feature_map(self, x: Tensor) -> Tensor:
        return x


def test_rotations_accuracy_counts_the_turns_told_right() -> None:
    task = Rotation(Corners(), Rotation.Options(), spec())
    with torch.no_grad():
        task.head.weight.copy_(torch.eye(4))
        task.head.bias.zero_()
    x = torch.zeros(6, 3, 16, 16)
    x[:4, :, 0, 0] = 1  # of the last two nothing can be told, and class 0 is answered
    turned = tuple(torch.rot90(x, quarters, (2, 3)) for quarters in range(4))
    losses = task.loss(turned)
    assert losses.logs["accuracy"].item() == pytest.approx((4 * 4 + 2) / 24)
    told = math.log(1 + 3 * math.exp(-1))
    assert losses.total.item() == pytest.approx((16 * told + 8 * math.log(4)) / 24)


def test_rotation_that_knows_nothing_loses_log_4() -> None:
    task = build(Rotation)
    nn.init.zeros_(task.head.weight)
    nn.init.zeros_(task.head.bias)
    assert task.loss(views(task)).total.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(("stage", "width"), [(0, 64), (2, 16), (-2, 32)])
def test_rotations_features_are_those_of_the_chosen_stage(stage: int, width: int) -> None:
    task = build(Rotation, stage=stage).eval()
    x = task.spec.prepare(photos())
    assert task.features(x).shape == (8, width)
    assert torch.equal(task.features(x), task.encoder.stages(x, [stage])[1][0].mean((2, 3)))


def test_a_stage_that_does_not_exist_is_refused_before_training() -> None:
    with pytest.raises(UserError, match=r"task\.stage: the backbone has no stage 7 "):
        build(Rotation, stage=7)
    with pytest.raises(UserError, match="stages"):
        Rotation(Corners(), Rotation.Options(stage=1), spec())


def test_a_loss_that_stays_at_chance_is_said(caplog: pytest.LogCaptureFixture) -> None:
    task = build(Rotation)
    torch.nn.init.zeros_(task.head.weight)
    torch.nn.init.zeros_(task.head.bias)
    assert task.loss(views(task)).total.item() == pytest.approx(task.chance_loss)
    for start, end, said in ((1.6, 1.39, True), (1.39, 1.2, False)):
        caplog.clear()
        warn_of_chance(task, [{"loss": start, "progress": 0.4}, {"loss": end, "progress": 0.9}])
        assert ("the loss stayed at 1.386" in caplog.text) is said
