"""Self-distillation: the properties that the papers, and the authors' code, give each method."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_zoo import Rng
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable
from ssl_zoo.nn import places_of, sinkhorn, undecayed_names
from ssl_zoo.task import Task
from ssl_zoo.testing import SyntheticImages
from ssl_zoo.testing.check_data import TINY
from ssl_zoo.views.masks import block_places
from ssl_zoo_vision.distillation.dino import DINO
from ssl_zoo_vision.distillation.dinov2 import DINOv2
from ssl_zoo_vision.distillation.ibot import IBOT
from ssl_zoo_vision.distillation.msn import MSN, mean_entropy_gap
from ssl_zoo_vision.distillation.simsiam import SimSiam, negative_cosine

VIT = BackboneConfig(name="test_vit", options={"patch_size": 4})


def build(cls: type[Task], size: int = 16, backbone: BackboneConfig = TINY, **options: Any) -> Any:
    """Return a task in float64, on a tiny network."""
    torch.manual_seed(0)
    images = SyntheticImages(backbone, size, any_size=cls.any_size)
    return cls(images.encoder(), cls.Options(**options), images.spec).double()


def views(task: Any, n: int = 4, seed: int = 0) -> tuple[Tensor, ...]:
    """Return views of n images, in float64."""
    task.before_step(task.progress)
    drawn = task.views(SyntheticImages().batch(n, seed), Rng(seed))
    return tuple(x.double() if x.is_floating_point() else x for x in drawn)


# --- SimSiam ---


def test_simsiams_target_gets_no_gradient() -> None:
    task = build(SimSiam, out=32, hidden=16).eval()  # so that batch norm couples no images
    x1, x2 = (x.requires_grad_() for x in views(task))
    p1, z2 = task.predictor(task.projector(task.encoder(x1))), task.projector(task.encoder(x2))
    total = negative_cosine(p1, z2)
    of_x1, of_x2 = torch.autograd.grad(total, [x1, x2], allow_unused=True)
    assert of_x2 is None
    assert of_x1.abs().sum() > 0


def test_simsiam_of_a_constant_network_is_minus_1() -> None:
    task = build(SimSiam, out=32, hidden=16).eval()
    x = views(task)[0]
    task.predictor = nn.Identity()
    assert task.loss((x, x)).total.item() == pytest.approx(-1, abs=1e-12)


def test_simsiams_projector_and_predictor_are_the_papers() -> None:
    task = build(SimSiam, 65)
    linear = [m for m in task.projector if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64, 64), (64, 64), (64, 2048)]
    assert all(m.bias is None for m in linear)
    assert not task.projector[-1].affine
    assert len([m for m in build(SimSiam).projector if isinstance(m, nn.Linear)]) == 2
    assert [type(m) for m in task.predictor] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert task.predictor[-1].bias is not None


def test_simsiams_predictor_alone_keeps_its_rate() -> None:
    task = build(SimSiam, out=32, hidden=16)
    constant = {name.split(".")[0] for name, _ in task.named_parameters() if task.lr_constant(name)}
    assert constant == {"predictor"}


# --- DINO ---

DINO_SMALL = {"prototypes": 24, "hidden": 32, "out": 16}


@pytest.mark.parametrize("temperature", [0.02, 0.07])
def test_dinos_targets_are_uniform_where_all_outputs_are_their_centre(temperature: float) -> None:
    task = build(DINO, **DINO_SMALL, teacher_start=temperature)
    g = torch.randn(24, dtype=torch.float64)
    task.centre.centre.copy_(g)
    targets = task.targets(g.expand(8, 24), task.centre)
    torch.testing.assert_close(targets, torch.full_like(targets, 1 / 24))
    # Against uniform targets nothing is better than a uniform prediction, at log K.
    losses = task.matched(targets, [torch.randn(4, 64, dtype=torch.float64) for _ in range(2)])
    assert losses.total.item() > math.log(24)
    assert losses.logs["target_entropy"].item() == pytest.approx(math.log(24))
    task.prototypes.weight.data.copy_(task.prototypes.weight[:1].expand(24, 16))
    losses = task.matched(targets, [torch.randn(4, 64, dtype=torch.float64) for _ in range(2)])
    assert losses.total.item() == pytest.approx(math.log(24))


def test_a_vector_added_to_dinos_outputs_and_to_their_centre_changes_nothing() -> None:
    task = build(DINO, **DINO_SMALL)
    g, shift = torch.randn(8, 24, dtype=torch.float64), torch.randn(24, dtype=torch.float64)
    before = task.targets(g, task.centre)
    task.centre.centre += shift
    torch.testing.assert_close(task.targets(g + shift, task.centre), before)


def test_dinos_first_centre_is_a_tenth_of_the_mean_output_for_the_large_crops() -> None:
    task = build(DINO, **DINO_SMALL, local=2)
    drawn = views(task)
    assert [len(x) for x in drawn] == [4] * 4
    outputs = task.teacher(torch.cat(drawn[:2]))
    task.loss(drawn)
    assert not task.centre.centre.any()  # it is used before it moves
    task.after_step(0.1)
    torch.testing.assert_close(task.centre.centre, 0.1 * outputs.mean(0))


def test_dinos_loss_is_the_papers_sum_over_crops_and_other_large_ones() -> None:
    task = build(DINO, **DINO_SMALL, local=2).eval()  # so that batch norm couples no crops
    drawn = views(task)
    total = 0.0
    for i, large in enumerate(drawn[:2]):
        p = ((task.teacher(large) - task.centre.centre) / 0.04).softmax(1)
        for j, crop in enumerate(drawn):
            if j != i:
                s = task.prototypes(task.head(task.encoder(crop))) / 0.1
                total -= (p * s.log_softmax(1)).sum(1).mean().item() / 6
    assert task.loss(drawn).total.item() == pytest.approx(total, rel=1e-10)


def test_dinos_teacher_warms_up_within_30_percent_and_its_last_layer_waits() -> None:
    task = build(DINO, **DINO_SMALL)
    g = torch.randn(4, 24, dtype=torch.float64)
    for progress, temperature in ((0.0, 0.04), (0.15, 0.055), (0.3, 0.07), (1.0, 0.07)):
        task.before_step(progress)
        torch.testing.assert_close(task.targets(g, task.centre), (g / temperature).softmax(1))
    for progress, trained in ((0.0, False), (0.01, True)):
        task.before_step(progress)
        task.zero_grad()
        task.loss(views(task)).total.backward()
        assert (task.prototypes.weight.grad is not None) is trained


def test_dinos_teacher_starts_as_its_student_with_the_same_head() -> None:
    task = build(DINO, **DINO_SMALL).eval()
    x = views(task)[0]
    torch.testing.assert_close(task.teacher(x), task.prototypes(task.head(task.encoder(x))))
    assert task.exported_encoder is task.teacher[0]


@pytest.mark.parametrize(
    ("size", "options", "crops", "scale"),
    [
        (16, {}, [2], (0.14, 1.0)),
        (16, {"local": 3}, [1, 1, 3], (0.4, 1.0)),
        (65, {}, [1, 1, 8], (0.4, 1.0)),
        (65, {"local": 0}, [1, 1], (0.14, 1.0)),
        (65, {"local": 0, "crop_scale": (0.3, 0.9)}, [1, 1], (0.3, 0.9)),
    ],
)
def test_dinos_crops_are_the_papers_or_large_ones_alone_for_small_images(
    size: int, options: dict[str, Any], crops: list[int], scale: tuple[float, float]
) -> None:
    task = build(DINO, size, **{**DINO_SMALL, **options})
    assert sum(number for number, _ in task.crops.crops) == sum(crops)
    assert task.crops.crops[0][1].transforms[0].scale == scale


# --- iBOT ---


def ibot_pieces(task: Any, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the large crops, their masks, and the teacher's and the student's scores of patches."""
    large, masks = torch.cat(drawn[:2]), drawn[-2]
    encoder, head, last = task.teacher
    teacher = last(head(places_of(encoder.pooled_and_map(large)[1]).flatten(0, 1)))
    patches = task.encoder.pooled_and_map(large, masks, task.token)[1]
    return large, masks, teacher, task.prototypes(task.head(places_of(patches).flatten(0, 1)))


@pytest.mark.parametrize("cls", [IBOT, DINOv2])
def test_patches_lose_the_mean_over_crops_of_the_mean_over_their_own_hidden_patches(
    cls: type[IBOT],
) -> None:
    task = build(cls, backbone=VIT, **DINO_SMALL, **({"centring": "centre"} if cls is DINOv2 else {}))
    drawn = views(task)
    _, masks, teacher, student = ibot_pieces(task, drawn)
    total, places = 0.0, masks[0].numel()
    for image, mask in enumerate(masks.flatten(1)):
        losses = []
        for place in mask.nonzero()[:, 0].tolist():
            p = (teacher[image * places + place] / 0.04).softmax(0)
            s = student[image * places + place] / 0.1
            losses.append(-(p * s.log_softmax(0)).sum().item())
        total += sum(losses) / max(1, len(losses)) / len(masks)
    assert task.loss(drawn).logs["patch_loss"].item() == pytest.approx(total, rel=1e-10)


def test_half_of_the_large_crops_are_masked_with_evenly_spread_shares() -> None:
    task = build(IBOT, 32, VIT, **DINO_SMALL)
    for seed in range(3):
        *_, masks, (hidden,) = views(task, 8, seed)
        counts = masks.flatten(1).sum(1)
        shares = [0.1 + 0.4 * (i + 0.5) / 8 for i in range(8)]
        assert sorted(counts.tolist()) == [0] * 8 + [round(64 * share) for share in shares]
        assert hidden.equal(masks.flatten().nonzero()[:, 0])


@pytest.mark.parametrize(("cls", "area"), [(IBOT, 16), (DINOv2, 4)])
def test_the_smallest_hidden_block_is_a_ninth_of_the_map_in_ibot_and_4_patches_in_dinov2(
    cls: type[IBOT], area: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build(cls, backbone=VIT, size=48, **DINO_SMALL)  # 12 × 12 patches
    asked: list[int] = []

    def recorded(*arguments: Any) -> Tensor:
        asked.append(arguments[-1])
        drawn: Tensor = block_places(*arguments)
        return drawn

    monkeypatch.setattr("ssl_zoo_vision.distillation.ibot.block_places", recorded)
    task.views(SyntheticImages(size=48).batch(4), Rng(0))
    assert asked == [area]


def test_only_the_teacher_sees_pixels_that_are_hidden_and_only_hidden_patches_count() -> None:
    task = build(IBOT, backbone=VIT, **DINO_SMALL, mask_low=0.4)
    drawn = views(task)
    masks = drawn[-2]
    pixels = masks.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
    large = torch.cat(drawn[:2])
    other = torch.where(pixels, torch.randn_like(large), large)
    _, _, _, student = ibot_pieces(task, drawn)
    changed = (*other.chunk(2), *drawn[2:])
    torch.testing.assert_close(ibot_pieces(task, changed)[3], student)
    seen: list[Tensor] = []
    task.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    task.loss(drawn)
    assert len(seen[-1]) == masks.sum()  # the last pass of the student's head


@pytest.mark.parametrize("cls", [IBOT, DINOv2])
def test_with_nothing_hidden_patches_lose_0_with_a_finite_gradient(cls: type[IBOT]) -> None:
    task = build(cls, backbone=VIT, **DINO_SMALL, mask_low=0, mask_high=0)
    losses = task.loss(views(task))
    assert losses.logs["patch_loss"] == 0
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)


@pytest.mark.parametrize(("cls", "seen"), [(IBOT, "all"), (DINOv2, "hidden")])
def test_the_patch_centre_is_of_all_patches_in_ibot_and_of_hidden_ones_in_dinov2(
    cls: type[IBOT], seen: str
) -> None:
    task = build(cls, backbone=VIT, **DINO_SMALL)
    drawn = views(task)
    _, _, teacher, _ = ibot_pieces(task, drawn)
    task.loss(drawn)
    task.after_step(0.1)
    expected = teacher if seen == "all" else teacher[drawn[-1][0]]
    torch.testing.assert_close(task.patch_centre.centre, 0.1 * expected.mean(0))


def test_a_network_without_patches_is_refused_with_one_that_has_them() -> None:
    with pytest.raises(Unsuitable, match="choose another, such as --backbone vit_small_patch16_224"):
        build(IBOT, **DINO_SMALL)


# --- DINOv2 ---


@pytest.mark.parametrize("local", [0, 2])
def test_dinov2_without_patches_and_koleo_and_with_a_centre_is_dino_to_the_bit(local: int) -> None:
    options: dict[str, Any] = {**DINO_SMALL, "local": local, "crop_scale": (0.3, 1.0)}
    dino = build(DINO, backbone=VIT, **options, local_scale=(0.05, 0.32), train_gain=True)
    plain = {"patch_weight": 0, "koleo_weight": 0, "centring": "centre", "mask_low": 0, "mask_high": 0}
    dinov2 = build(DINOv2, backbone=VIT, **options, **plain)
    assert set(dinov2.load_state_dict(dino.state_dict(), strict=False).missing_keys) == {
        "token",
        "patch_centre.centre",
    }
    drawn = views(dino)
    assert torch.equal(drawn[0], views(dinov2)[0])
    losses = [task.loss(x).total for task, x in ((dino, drawn), (dinov2, views(dinov2)))]
    assert losses[0] == losses[1]


def test_dinov2_adds_a_tenth_of_koleo_of_each_large_crop() -> None:
    task = build(DINOv2, backbone=VIT, **DINO_SMALL, koleo_weight=0.1)
    width = task.encoder.width
    features = [torch.eye(width, dtype=torch.float64)[:4] for _ in range(2)]
    targets = torch.full((8, 24), 1 / 24, dtype=torch.float64)
    losses = task.matched(targets, features)
    assert losses.logs["koleo"].item() == pytest.approx(-math.log(2), abs=1e-7)  # twice -½ log 2
    without = DINO.matched(task, targets, features).total
    assert (losses.total - without).item() == pytest.approx(-0.1 * math.log(2), abs=1e-7)


def test_dinov2s_targets_ignore_a_constant_added_to_a_prototypes_scores() -> None:
    task = build(DINOv2, backbone=VIT, **DINO_SMALL)
    scores = torch.randn(16, 24, dtype=torch.float64)
    targets = task.targets(scores, task.centre)
    torch.testing.assert_close(targets.sum(1), torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(task.targets(scores + torch.randn(24), task.centre), targets)


def test_dinov2s_patch_embedding_has_a_fifth_of_the_rate() -> None:
    task = build(DINOv2, backbone=VIT, **DINO_SMALL)
    slow = {name for name, _ in task.named_parameters() if task.lr_scale(name) != 1}
    assert slow == {"encoder.model.patch_embed.proj.weight", "encoder.model.patch_embed.proj.bias"}


# --- MSN ---

MSN_SMALL = {"prototypes": 24, "hidden": 32, "out": 16}


def test_msns_regulariser_is_0_for_even_use_of_prototypes_and_log_k_for_one_alone() -> None:
    even = torch.eye(24, dtype=torch.float64)
    assert mean_entropy_gap(even).item() == pytest.approx(0, abs=1e-12)
    assert mean_entropy_gap(even[:1].expand(8, 24)).item() == pytest.approx(math.log(24))


def test_msns_regulariser_evens_the_use_of_prototypes() -> None:
    logits = torch.randn(8, 24, dtype=torch.float64).requires_grad_()
    before = mean_entropy_gap(logits.softmax(1))
    (gradient,) = torch.autograd.grad(before, logits)
    assert mean_entropy_gap((logits - gradient).softmax(1)) < before


def test_msns_targets_are_distributions_sharper_than_the_teachers_predictions() -> None:
    task = build(MSN, backbone=VIT, **MSN_SMALL).eval()
    p = (task.prototypes(task.target(views(task)[0])) / 0.1).softmax(1)
    targets = task.targets(views(task)[0])
    sharp = p**4 / (p**4).sum(1, keepdim=True)
    torch.testing.assert_close(targets, sinkhorn(sharp.log()))
    torch.testing.assert_close(targets.sum(1), torch.ones(4, dtype=torch.float64))
    assert (torch.special.entr(sharp).sum(1) < torch.special.entr(p).sum(1)).all()
    assert not targets.requires_grad


def test_msns_masked_crop_alone_misses_patches_and_small_crops_have_the_same_target() -> None:
    task = build(MSN, backbone=VIT, **MSN_SMALL, local=2, mask_ratio=0.5).eval()
    whole, masked, *small, mask = drawn = views(task)
    assert [x.shape[-1] for x in (whole, masked, *small)] == [16, 16, 8, 8]
    assert (mask.sum((1, 2)) == 8).all()
    features = [task.encoder.pooled_and_map(masked, mask)[0], *map(task.encoder, small)]
    log_p = [(task.prototypes(task.head(x)) / 0.1).log_softmax(1) for x in features]
    expected = -sum((task.targets(whole) * x).sum(1).mean() for x in log_p) / 3
    losses = task.loss(drawn)
    torch.testing.assert_close(losses.logs["cross_entropy"], expected.detach())
    gap = mean_entropy_gap(torch.cat(log_p).exp())
    torch.testing.assert_close(losses.total, losses.logs["cross_entropy"] + gap)


def test_msns_teacher_moves_on_a_line_that_reaches_1_after_five_quarters_of_the_run() -> None:
    target = build(MSN, 65, BackboneConfig(name="resnet18"), **MSN_SMALL).target
    moves = [1 - target.momentum(progress) for progress in (0.0, 0.5, 1.0)]
    assert moves == pytest.approx([0.004, 0.004 * (1 - 0.4), 0.004 * (1 - 0.8)])
    assert undecayed_names(build(MSN, **MSN_SMALL)) == {"prototypes.weight"}
