"""Contrastive tasks: the values that each paper's loss has where it can be computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.nn import contrastive_loss, info_nce, nt_xent
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task
from ssl_zoo.views import Rng
from ssl_zoo_vision.contrastive.densecl import DenseCL
from ssl_zoo_vision.contrastive.moco import MoCo
from ssl_zoo_vision.contrastive.moco_v3 import MoCoV3
from ssl_zoo_vision.contrastive.nnclr import NNCLR
from ssl_zoo_vision.contrastive.npid import NPID, nce
from ssl_zoo_vision.contrastive.pixpro import PixPro, pixpro_loss, positive_pairs
from ssl_zoo_vision.contrastive.supcon import SupCon
from ssl_zoo_vision.joint_embedding import correspondence
from tests.vision.small_tasks import TINY_RESNET, TINY_VIT, photos

N = 8


def build(cls: type[Task], backbone: Any = TINY_RESNET, size: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    spec = ImageSpec(size=size, classes=2, samples=32)
    task = cls(create_backbone(backbone, spec), cls.Options(**options), spec).double()
    task.before_step(0.0)
    return task


def views(task: Any) -> tuple[Tensor, ...]:
    drawn = task.views(photos(N), Rng(0))
    needed = {"labels": torch.arange(N) % 2, "index": torch.arange(N)}
    images = (x.double() if x.is_floating_point() else x for x in drawn)
    return *images, *(needed[name] for name in task.needs)


def collapse(head: nn.Module) -> None:
    """Let a head's output be the same for every input."""
    last = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    last.bias = nn.Parameter(torch.ones(last.out_features, dtype=torch.float64))


# --- SupCon ---


def test_supcon_with_all_labels_different_is_nt_xent() -> None:
    task = build(SupCon, temperature=0.3)
    x1, x2, _ = views(task)
    z1, z2 = F.normalize(task.head(task.encoder(torch.cat([x1, x2]))), dim=1).chunk(2)
    loss = task.loss((x1, x2, torch.arange(N))).total
    torch.testing.assert_close(loss, nt_xent(z1, z2, 0.3), rtol=1e-12, atol=0)


def test_supcon_of_one_class_and_one_embedding_is_log_2b_minus_1_where_solo_learns_is_0() -> None:
    task = build(SupCon)
    collapse(task.head)
    x1, x2, _ = views(task)
    loss = task.loss((x1, x2, torch.zeros(N, dtype=torch.long))).total
    assert loss.item() == pytest.approx(math.log(2 * N - 1), rel=1e-12)


# --- MoCo v3 ---


def test_moco_v3_of_one_embedding_is_4_tau_log_b() -> None:
    task = build(MoCoV3, hidden=32, out=16, temperature=0.3)
    collapse(task.predictor)
    collapse(task.key_encoder[1])
    losses = task.loss(views(task))
    assert losses.total.item() == pytest.approx(4 * 0.3 * math.log(N), rel=1e-12)
    assert losses.logs["mi_bound"].item() == pytest.approx(0, abs=1e-12)


def test_moco_v3_has_no_gradient_for_the_keys() -> None:
    task = build(MoCoV3, hidden=32, out=16)
    task.eval()  # so that batch statistics couple nothing
    x1, x2 = (x.requires_grad_() for x in views(task))
    with torch.no_grad():
        k2 = F.normalize(task.key_encoder(x2), dim=1)
    q1 = F.normalize(task.predictor(task.projector(task.encoder(x1))), dim=1)
    q2 = F.normalize(task.predictor(task.projector(task.encoder(x2))), dim=1)
    k1 = F.normalize(task.key_encoder(x1), dim=1)
    mine = 2 * 0.2 * (info_nce(q1, k2, None, 0.2) + info_nce(q2, k1, None, 0.2))
    loss = task.loss((x1, x2)).total
    torch.testing.assert_close(loss, mine, rtol=1e-12, atol=0)
    expected = torch.autograd.grad(0.4 * info_nce(q1, k2, None, 0.2), x1)
    torch.testing.assert_close(torch.autograd.grad(loss, x1), expected)


def test_moco_v3_leaves_the_patches_of_a_transformer_at_their_random_start() -> None:
    task = build(MoCoV3, TINY_VIT, hidden=32, out=16)
    frozen = {n for n, p in task.encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"model.patch_embed.proj.weight", "model.patch_embed.proj.bias"}
    assert task.temperature == 0.2
    free = build(MoCoV3, TINY_VIT, hidden=32, out=16, freeze_patches=False)
    assert all(p.requires_grad for p in free.encoder.parameters())


# --- NNCLR ---


def test_nnclr_with_a_queue_of_the_batch_itself_is_info_nce_of_projections_and_predictions() -> None:
    task = build(NNCLR, hidden=32, predictor=32, out=16, queue=2 * N)
    x1, x2 = views(task)
    z1, z2 = (task.projector(task.encoder(x)) for x in (x1, x2))
    u1, u2 = (F.normalize(z, dim=1).detach() for z in (z1, z2))
    p1, p2 = (F.normalize(task.predictor(z), dim=1) for z in (z1, z2))
    task.queue.push(torch.cat([u1, u2]))
    losses = task.loss((x1, x2))
    expected = (info_nce(u1, p2, None, 0.1) + info_nce(u2, p1, None, 0.1)) / 2
    torch.testing.assert_close(losses.total, expected, rtol=1e-12, atol=0)
    assert losses.logs["neighbour"].item() == pytest.approx(1)


def test_nnclr_of_one_prediction_is_log_b_and_looks_up_before_it_enqueues() -> None:
    task = build(NNCLR, hidden=32, predictor=32, out=16, queue=N)
    collapse(task.predictor)
    before = task.queue.features.clone()
    drawn = views(task)
    assert task.loss(drawn).total.item() == pytest.approx(math.log(N), rel=1e-12)
    assert torch.equal(task.queue.features, before)
    z1 = F.normalize(task.projector(task.encoder(drawn[0])), dim=1)
    task.after_step(0.1)
    torch.testing.assert_close(task.queue.features, z1.detach())  # the first views alone


# --- NPID ---


def test_npid_of_a_bank_of_equal_rows_is_log_n() -> None:
    task = build(NPID)
    task.bank.features[:] = task.bank.features[0].clone()
    assert task.loss(views(task)).total.item() == pytest.approx(math.log(32), rel=1e-12)


def test_npid_is_the_cross_entropy_of_a_batchs_images_among_all_rows() -> None:
    task = build(NPID)
    x, index = views(task)
    z = F.normalize(task.head(task.encoder(x)), dim=1)
    expected = F.cross_entropy(z @ task.bank.features.T / 0.1, index)
    torch.testing.assert_close(task.loss((x, index)).total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(contrastive_loss(z, task.bank.features, index, 0.1), expected)


def test_npid_with_4096_draws_has_the_known_value_where_all_rows_tie() -> None:
    scores = torch.full((3, 4097), 0.7, dtype=torch.float64)
    assert nce(scores, scores.exp().mean()).item() == pytest.approx(9.3179, abs=5e-5)
    task = build(NPID, negatives=64)
    task.bank.features[:] = task.bank.features[0].clone()
    task.head[0].weight.data.zero_()  # one embedding for all images
    expected = math.log1p(64) + 64 * math.log1p(1 / 64)
    assert task.loss(views(task)).total.item() == pytest.approx(expected, rel=1e-12)


def test_npids_estimate_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    scores, mean, k, n = torch.randn(3, 6, dtype=torch.float64), torch.tensor(0.8).double(), 5, 11
    total = 0.0
    for row in scores.tolist():
        p = [math.exp(s) / (n * float(mean)) for s in row]
        h = [x / (x + k / n) for x in p]
        total -= math.log(h[0]) + sum(math.log(1 - x) for x in h[1:])
    assert nce(scores, mean).item() == pytest.approx(total / 3, rel=1e-12)


def test_npid_reads_the_bank_before_it_moves_the_batchs_rows_which_stay_unit() -> None:
    task = build(NPID, negatives=16)
    before = task.bank.features.clone()
    drawn = views(task)
    task.loss(drawn)
    assert torch.equal(task.bank.features, before)
    assert task.mean_score.value == 0
    task.after_step(0.1)
    kept = task.mean_score.value.clone()
    assert kept > 0
    assert torch.equal(task.bank.features[N:], before[N:])
    assert not torch.isclose(task.bank.features[:N], before[:N]).all(1).any()
    torch.testing.assert_close(task.bank.features.norm(dim=1), torch.ones(32).double())
    task.before_step(0.1)
    task.loss(drawn)
    task.after_step(0.2)
    assert task.mean_score.value == kept


# --- DenseCL ---


def test_densecl_matches_each_place_of_two_equal_views_to_itself() -> None:
    task = build(DenseCL, size=64, queue=16)
    features = task.encoder.feature_map(torch.randn(3, 3, 64, 64, dtype=torch.float64))
    places = features.shape[2] * features.shape[3]
    assert places > 1
    assert torch.equal(correspondence(features, features), torch.arange(places).expand(3, -1))


def test_densecl_with_one_place_is_moco_on_a_second_head() -> None:
    task, moco = build(DenseCL, size=8, queue=16, weight=1.0), build(MoCo, size=8, queue=16)
    drawn = views(task)
    moco.encoder.load_state_dict(task.encoder.state_dict())
    moco.key_encoder[0].load_state_dict(task.key_encoder[0].state_dict())
    for head in (moco.head, moco.key_encoder[1]):
        head.load_state_dict(task.dense_head.state_dict())
    moco.queue.features.copy_(task.dense_queue.features)
    assert task.encoder.feature_map(drawn[0]).shape[2:] == (1, 1)
    torch.testing.assert_close(task.loss(drawn).total, moco.loss(drawn).total, rtol=1e-10, atol=0)
    task.after_step(0.5)
    moco.after_step(0.5)
    torch.testing.assert_close(task.dense_queue.features, moco.queue.features)


def test_densecl_without_weight_for_places_is_moco() -> None:
    task, moco = build(DenseCL, queue=16, weight_from=0.5), build(MoCo, queue=16)
    moco.load_state_dict(task.state_dict(), strict=False)
    drawn = views(task)
    torch.testing.assert_close(task.loss(drawn).total, moco.loss(drawn).total, rtol=1e-10, atol=0)
    task.before_step(0.5)
    assert not torch.isclose(task.loss(drawn).total, moco.loss(drawn).total)


# --- PixPro ---


def boxes(*sides: float) -> Tensor:
    return torch.tensor([sides], dtype=torch.float64)


def test_pixpro_pairs_each_place_of_two_equal_boxes_with_itself_alone() -> None:
    box = boxes(8, 16, 40, 48)
    pairs = positive_pairs(box, box, (4, 4), 0.7)
    assert torch.equal(pairs[0], torch.eye(16, dtype=torch.bool))


def test_pixpro_pairs_a_mirrored_box_with_the_mirrored_places() -> None:
    pairs = positive_pairs(boxes(8, 16, 40, 48), boxes(40, 16, 8, 48), (4, 4), 0.7)
    mirrored = torch.arange(16).view(4, 4).flip(1).flatten()
    assert torch.equal(pairs[0].nonzero()[:, 1], mirrored)


def test_pixpro_of_disjoint_boxes_is_0_without_gradient() -> None:
    pairs = positive_pairs(boxes(0, 0, 8, 8), boxes(40, 40, 60, 60), (4, 4), 0.7)
    assert not pairs.any()
    y = F.normalize(torch.randn(1, 16, 5, dtype=torch.float64), dim=2).requires_grad_()
    loss = pixpro_loss(y, y.detach(), pairs)
    loss.backward()
    assert (loss.item(), y.grad.abs().sum().item()) == (0, 0)


def test_pixpro_takes_boxes_in_pixels_of_images_that_are_no_squares() -> None:
    task = build(PixPro, hidden=32, out=16, crop_scale=[1.0, 1.0])
    *_, box = task.views(torch.zeros(2, 3, 24, 30, dtype=torch.uint8), Rng(0))
    assert box.abs().amax() > 20


def test_pixpro_of_equal_aligned_places_is_minus_4() -> None:
    y = F.normalize(torch.randn(2, 9, 5, dtype=torch.float64), dim=2)
    pairs = torch.eye(9, dtype=torch.bool).expand(2, 9, 9)
    assert pixpro_loss(y, y, pairs).item() == pytest.approx(-2, rel=1e-6)


def test_pixpros_propagation_is_the_papers_sum_over_places() -> None:
    task = build(PixPro, hidden=32, out=16)
    x = torch.randn(1, 3, 16, dtype=torch.float64)
    value = F.normalize(task.transform(x), dim=2)[0]
    for a, y in enumerate(task.propagate(x)[0]):
        cosines = [float(F.cosine_similarity(x[0, a], x[0, b], dim=0)) for b in range(3)]
        total = sum((max(0, c) ** 2 * v for c, v in zip(cosines, value, strict=True)), torch.zeros(16))
        torch.testing.assert_close(y, F.normalize(total, dim=0))
