"""Tasks on hidden patches: conformance, then what their papers say, against literal references."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Rng, Unsuitable, UserError
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.nn import sinkhorn
from ssl_zoo.testing import Check, SyntheticImages, parametrize_with_checks
from ssl_zoo.testing.check_data import TINY
from ssl_zoo.training.optimizer import parameter_groups
from ssl_zoo_vision.codes import PatchCodes
from ssl_zoo_vision.generative.aim import AIM
from ssl_zoo_vision.hog import hog
from ssl_zoo_vision.masked.beit import BEiT
from ssl_zoo_vision.masked.capi import CAPI
from ssl_zoo_vision.masked.data2vec import Data2Vec
from ssl_zoo_vision.masked.i_jepa import IJEPA
from ssl_zoo_vision.masked.simmim import SimMIM
from ssl_zoo_vision.masked.spark import SparK
from ssl_zoo_vision.patches import PatchGrid, normalised

VIT = {"name": "test_vit", "options": {"patch_size": 4}}
SWIN = {
    "name": "swin_tiny_patch4_window7_224",
    "options": {
        "patch_size": 2,
        "window_size": 2,
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [1, 2],
    },
}
CONVNEXT = {
    "name": "test_convnext",
    "options": {"patch_size": 1, "depths": [1] * 4, "dims": [8, 16, 24, 32]},
}
SMALL: dict[type[Any], dict[str, Any]] = {
    BEiT: {"codes": 16, "code_width": 4},
    CAPI: {"clusters": 8, "width": 32, "depth": 1},
    IJEPA: {"predictor_width": 32, "predictor_depth": 1},
    AIM: {"width": 32, "depth": 1},
    SparK: {"width": 32},
}


def build(cls: type[Any], size: int = 16, backbone: Any = VIT, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    images = SyntheticImages(BackboneConfig.model_validate(backbone), size, channels)
    task = cls(images.encoder(), cls.Options(**{**SMALL.get(cls, {}), **options}), images.spec)
    return task.eval()


def views_of(task: Any, n: int = 4, seed: int = 0) -> tuple[Tensor, ...]:
    views: tuple[Tensor, ...] = task.views(
        SyntheticImages(channels=task.spec.channels).batch(n), Rng(seed)
    )
    return views


def changed(task: Any, x: Tensor, places: Tensor) -> Tensor:
    """Return images with other pixels at some places [B, K]."""
    patches = torch.randn(*places.shape, task.grid.values)
    new: Tensor = task.grid.replaced(x, places, patches)
    return new


@parametrize_with_checks(SimMIM, backbone=VIT)
def test_simmim(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(SimMIM, options={"target": "hog", "masks": "blocks"}, backbone=SWIN)
def test_maskfeat_of_a_swin(check: Check) -> None:
    check()


@parametrize_with_checks(BEiT, options=SMALL[BEiT], backbone=VIT)
def test_beit(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(BEiT, options={"codes": 8, "tokenizer": "kmeans"}, backbone=VIT)
def test_beit_with_codes_of_k_means(check: Check) -> None:
    check()


@parametrize_with_checks(Data2Vec, backbone=VIT)
def test_data2vec(check: Check) -> None:
    check()


@parametrize_with_checks(IJEPA, options=SMALL[IJEPA], backbone=VIT)
def test_i_jepa(check: Check) -> None:
    check()


@parametrize_with_checks(CAPI, options=SMALL[CAPI], backbone=VIT)
def test_capi(check: Check) -> None:
    check()


@parametrize_with_checks(AIM, options=SMALL[AIM], backbone=VIT)
def test_aim(check: Check) -> None:
    check()


@parametrize_with_checks(SparK, options=SMALL[SparK], data=[SyntheticImages(size=32)])
def test_spark(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(
    SparK,
    options={"width": 32, "decoder": "block"},
    data=[SyntheticImages(BackboneConfig.model_validate(CONVNEXT), 32)],
)
def test_fcmae(check: Check) -> None:
    check()


# --- what is hidden does not count, what is visible does ---


@pytest.mark.parametrize("cls", [SimMIM, BEiT, Data2Vec])
def test_hidden_pixels_do_not_change_the_features_at_hidden_places(cls: type[Any]) -> None:
    task = build(cls)
    x, hidden = views_of(task)
    features = task.encode(x, hidden)
    assert features.shape == (4, hidden.shape[1], 64)
    assert torch.equal(task.encode(changed(task, x, hidden), hidden), features)
    visible = torch.stack([torch.tensor(sorted({*range(16)} - {*row})) for row in hidden.tolist()])
    moved = (task.encode(changed(task, x, visible), hidden) - features).abs().amax(2)
    assert (moved > 0).all()


@pytest.mark.parametrize("cls", [IJEPA, CAPI])
def test_predictions_depend_on_no_pixel_that_is_not_seen(cls: type[Any]) -> None:
    task = build(cls)
    x, visible, asked = views_of(task)
    predicted = task.predict((x, visible, asked))
    hidden = task.hidden_places((x, visible, asked))
    assert sorted(visible[0].tolist() + hidden[0].tolist()) == list(range(16))
    assert {*asked[0].flatten().tolist()} <= {*hidden[0].tolist()}
    assert torch.equal(task.predict((changed(task, x, hidden), visible, asked)), predicted)
    other = task.predict((changed(task, x, visible), visible, asked))
    assert ((other - predicted).abs().amax(2) > 0).all()


@pytest.mark.parametrize("cls", [IJEPA, CAPI])
def test_places_asked_for_in_another_order_are_predicted_in_that_order(cls: type[Any]) -> None:
    task = build(cls, 32)
    x, visible, asked = views_of(task, 2)
    predicted = task.predict((x, visible, asked)).view(*asked.shape, -1)
    reversed_ = task.predict((x, visible, asked.flip(-1))).view(*asked.shape, -1)
    torch.testing.assert_close(reversed_.flip(-2), predicted)
    assert (predicted[..., 0, :] - predicted[..., 1, :]).abs().amax() > 1e-3


# --- SimMIM and MaskFeat ---


def test_simmim_hides_units_of_two_by_two_patches_sixty_percent_of_them() -> None:
    task = build(SimMIM, 32)
    _, hidden = views_of(task, 9)
    assert hidden.shape == (9, 40)  # 10 of 16 units, as 0.6 · 16 is rounded up
    masks = torch.zeros(9, 64).scatter_(1, hidden, 1.0).view(9, 4, 2, 4, 2)
    assert ((masks.sum((2, 4)) == 4).sum((1, 2)) == 10).all()


def test_simmims_loss_is_the_mean_absolute_error_of_the_hidden_pixels() -> None:
    task = build(SimMIM)
    x, hidden = views_of(task)
    predicted = task.head(task.encode(x, hidden))
    errors = []
    for image in range(4):
        for k, place in enumerate(hidden[image].tolist()):
            row, column = divmod(place, 4)
            patch = x[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            errors.append((predicted[image, k] - patch.flatten()).abs().mean())
    torch.testing.assert_close(task.loss((x, hidden)).total, sum(errors) / len(errors))


def test_a_swin_predicts_the_pixels_of_the_places_of_its_last_stage() -> None:
    task = build(SimMIM, 32, SWIN)
    x, hidden = views_of(task)
    assert task.grid == PatchGrid(8, 8, (4, 4), 3, 32)
    assert task.token.shape == (16,)
    assert task.predict(x, hidden).shape == (4, 40, 48)


def test_a_unit_is_two_patches_wide_but_one_of_a_swins_last_map() -> None:
    assert build(SimMIM, 28).draw.keywords["unit"] == 2
    wide = {"name": "test_vit", "options": {"patch_size": 32}}
    task = build(SimMIM, 96, wide)  # 3 × 3 patches, of which 6 are hidden
    assert views_of(task)[1].shape == (4, 6)


def test_units_that_hang_over_the_border_are_cut_off_and_the_count_is_exact() -> None:
    task = build(SimMIM, 28)  # 7 × 7 patches: 4 × 4 units, of which 10 are hidden
    _, hidden = views_of(task, 16)
    assert hidden.shape == (16, round(0.6 * 49))
    masks = torch.zeros(16, 49).scatter_(1, hidden, 1.0).view(16, 7, 7)
    neighbours = (masks[:, :, 0:6:2] == masks[:, :, 1:7:2]).float().mean()
    assert neighbours > 0.8  # of single patches 0.52 would be alike


def test_a_unit_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(Unsuitable, match=r"^task\.unit: all 1 units of 4 × 4 places are hidden"):
        build(SimMIM, 16, unit=4)


def test_even_regions_are_no_matter_of_rounding() -> None:
    noise = 0.3 + 1e-7 * torch.randn(2, 1, 16, 16)
    assert hog(noise, 4).abs().max() < 1e-2
    patches = noise.unfold(2, 4, 4).unfold(3, 4, 4).reshape(2, 16, 16)
    assert (PatchCodes(16, 7, 5)(patches) == 7).all()  # the class of flat patches


def literal_hog(x: Tensor, cell: int) -> Tensor:
    """Return [9, h, w] of one channel [H, W]."""
    height, width = x.shape
    padded = F.pad(x[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
    cells = torch.zeros(9, height // cell, width // cell)
    for i in range(height):
        for j in range(width):
            near = padded[i : i + 3, j : j + 3]
            gx = sum(w * (near[k, 0] - near[k, 2]) for k, w in enumerate((1, 2, 1)))
            gy = sum(w * (near[0, k] - near[2, k]) for k, w in enumerate((1, 2, 1)))
            bin_ = math.floor(9 * math.atan2(gx, gy) / math.pi) % 9
            cells[bin_, i // cell, j // cell] += math.hypot(gx, gy)
    return cells / cells.norm(dim=0, keepdim=True).clamp(min=1e-12)


def test_hog_is_that_of_a_loop_over_pixels() -> None:
    x = torch.rand(2, 2, 8, 12)
    found = hog(x, 4)
    assert found.shape == (2, 18, 2, 3)
    for image in range(2):
        for channel in range(2):
            expected = literal_hog(x[image, channel], 4)
            torch.testing.assert_close(found[image, 9 * channel : 9 * channel + 9], expected)
    assert not hog(torch.full((1, 1, 8, 8), 0.3), 4).any()


def test_hog_has_no_sign_and_no_contrast_and_a_mirror_image_has_mirrored_bins() -> None:
    x = torch.rand(2, 1, 16, 16)
    target = hog(x, 4)
    torch.testing.assert_close(hog(-x, 4), target)
    torch.testing.assert_close(hog(2 * x, 4), target)
    # Within: at the left and the right border gradients are upright, and that is bin 0 in both images.
    mirrored = hog(x.flip(3), 4).flip(3)
    torch.testing.assert_close(mirrored[..., 1:-1], target.flip(1)[..., 1:-1])


def test_maskfeats_targets_are_those_of_the_whole_image() -> None:
    task = build(SimMIM, 32, target="hog")
    x, hidden = views_of(task)
    assert hidden.shape == (4, 26)
    assert task.targets(x).shape == (4, 64, 27)
    assert torch.equal(task.targets(x)[:, 9], hog(x, 4)[:, :, 1, 1])
    patches = build(SimMIM, 64, {"name": "test_vit", "options": {"patch_size": 16}}, target="hog")
    assert patches.targets(torch.rand(1, 3, 64, 64)).shape == (1, 16, 108)  # 2 × 2 cells of 8 pixels


def test_maskfeats_settings_are_those_of_its_authors_and_simmims_remain() -> None:
    """configs/masked_ssl/in1k_VIT_B_MaskFeat_PT.yaml of SlowFast: 40 %, crops of 0.5 to 1, norm 0.02."""
    for target, ratio, scale, norm in (
        ("hog", 0.4, (0.5, 1.0), 0.02),
        ("pixels", 0.6, (0.67, 1.0), 5.0),
    ):
        config = load_config(None, {"task.name": "simmim", "task.target": target})
        assert config.train.clip_norm == norm
        assert config.train.lr == SimMIM.recipe["train"]["lr"]
        task = build(SimMIM, 32, target=target, masks="blocks")
        assert task.hidden == round(ratio * 64)
        assert task.options.crop_scale == scale
        task = build(SimMIM, 32, target=target, masks="blocks", mask_ratio=0.5, crop_scale=(0.2, 0.4))
        assert (task.hidden, task.options.crop_scale) == (32, (0.2, 0.4))


# --- the start of residual blocks ---


def test_the_papers_start_of_residual_blocks_is_a_setting_of_the_network() -> None:
    plain, divided = (
        build(BEiT, 32, {"name": "vit4_narrow_gap", "options": options}).encoder.model.blocks
        for options in ({}, {"fix_init": True})
    )
    for number, (a, b) in enumerate(zip(plain, divided, strict=True), 1):
        for name in ("attn.proj.weight", "mlp.fc2.weight"):
            expected = a.get_parameter(name) / math.sqrt(2 * number)
            torch.testing.assert_close(b.get_parameter(name), expected)
        assert torch.equal(a.attn.qkv.weight, b.attn.qkv.weight)


# --- data2vec ---


def test_data2vecs_targets_are_the_normalised_mean_of_the_last_normalised_blocks() -> None:
    task = build(Data2Vec, layers=2)
    x, hidden = views_of(task)
    model, blocks = task.teacher[0].model, []
    for block in model.blocks[-2:]:
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output[:, 1:]))
    targets = task.targets(x)
    a, b = ((t - t.mean(2, True)) / (t.var(2, correction=0, keepdim=True) + 1e-5).sqrt() for t in blocks)
    torch.testing.assert_close(targets, F.layer_norm((a + b) / 2, (64,)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(targets.mean(2), torch.zeros(4, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(2, correction=0), torch.ones(4, 16), atol=1e-3, rtol=0)
    assert not torch.equal(task.targets(changed(task, x, hidden)), targets)


def test_data2vecs_loss_is_smooth_l1_at_hidden_places_and_trains_the_student_alone() -> None:
    task = build(Data2Vec)
    x, hidden = views_of(task)
    losses = task.loss((x, hidden))
    targets, predicted = task.targets(x), task.head(task.encode(x, hidden))
    errors = []
    for image in range(4):
        for k, place in enumerate(hidden[image].tolist()):
            e = (predicted[image, k] - targets[image, place]).abs()
            errors.append(torch.where(e < 2, e**2 / 4, e - 1).mean())
    torch.testing.assert_close(losses.total, sum(errors) / len(errors))
    losses.total.backward()
    assert all(p.grad is None for p in task.teacher.parameters())
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)


def test_more_layers_than_the_teacher_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"^task\.layers: the backbone has no stages .*; choose fewer$"):
        build(Data2Vec, layers=30)


def test_blocks_of_several_sizes_are_refused() -> None:
    with pytest.raises(Unsuitable, match=r"^backbone\.name: its last blocks have maps of several sizes"):
        build(Data2Vec, 32, SWIN)


# --- I-JEPA and CAPI ---


def test_a_network_that_pools_otherwise_than_it_is_evaluated_gives_a_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "ssl_zoo.notices")
    build(SimMIM, backbone=SimMIM.recipe["backbone"])
    assert not caplog.records
    build(SimMIM)  # pools by its class token
    assert "features are the mean of all patches" in caplog.text


def test_i_jepas_loss_is_the_smooth_l1_of_the_teachers_normalised_places_by_block() -> None:
    task = build(IJEPA, 32)
    for p in task.teacher.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x, visible, asked = views_of(task, 3)
    assert asked.shape == (3, 4, 9)
    y = task.teacher[0].feature_map(x).flatten(2).mT
    y = (y - y.mean(2, True)) / (y.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    tokens, errors = task.encoder.tokens(x, visible), []
    for block in range(4):
        z = task.predictor(tokens, visible, asked[:, block])
        for image in range(3):
            e = (z[image] - y[image, asked[image, block]]).abs()
            errors.append(torch.where(e < 1, e**2 / 2, e - 0.5).mean())
    torch.testing.assert_close(task.loss((x, visible, asked)).total, sum(errors) / 12)
    assert task.exported_encoder is task.teacher[0]


def test_more_visible_patches_than_a_context_surely_has_are_refused() -> None:
    with pytest.raises(Unsuitable, match=r"^task\.visible: a context may have only .* choose at most"):
        build(IJEPA, visible=0.9)


def test_assignments_are_balanced_at_each_position_and_follow_their_images() -> None:
    scores = torch.randn(12, 5, 4) + 3 * torch.randn(5, 4)  # each position has its own favourites
    q = sinkhorn(scores, rounds=50)
    torch.testing.assert_close(q.sum(2), torch.ones(12, 5))
    torch.testing.assert_close(q.mean(0), torch.full((5, 4), 0.25), atol=1e-3, rtol=0)
    for position in range(5):
        torch.testing.assert_close(q[:, position], sinkhorn(scores[:, position], rounds=50))
    order = torch.randperm(12)
    torch.testing.assert_close(sinkhorn(scores[order], rounds=50), q[order])


def test_capis_loss_is_two_cross_entropies_and_each_trains_its_part_alone() -> None:
    task = build(CAPI)
    x, visible, asked = views_of(task, 6)
    y = F.normalize(task.teacher[0].feature_map(x).flatten(2).mT, dim=2)
    scores = task.clusters(y)
    q = torch.stack([sinkhorn(scores[:, n] / 0.06) for n in range(16)], 1)
    clustering = -(q * (scores / 0.12).log_softmax(2)).sum(2).mean()
    z = task.decoder(task.encoder.tokens(x, visible), visible, asked)
    p = (F.normalize(z, dim=2) @ F.normalize(task.head.weight, dim=1).T / 0.12).log_softmax(2)
    wanted = torch.stack([q[i, asked[i]] for i in range(6)])
    prediction = -(wanted * p).sum(2).mean()
    losses = task.loss((x, visible, asked))
    torch.testing.assert_close(losses.total, clustering + prediction)
    losses.total.backward()
    (of_clusters,) = torch.autograd.grad(clustering, [task.clusters.weight])
    torch.testing.assert_close(task.clusters.weight.grad, of_clusters)


# --- SparK ---


@pytest.mark.parametrize(
    ("decoder", "backbone"), [("stages", TINY), ("stages", CONVNEXT), ("block", CONVNEXT)]
)
def test_hidden_cells_do_not_change_what_is_painted_and_visible_ones_do(
    decoder: str, backbone: Any
) -> None:
    task = build(SparK, 32, backbone, decoder=decoder).train()  # with the statistics of the batch
    x, hidden = views_of(task)
    n = task.grid.places
    assert hidden.shape == (4, round(0.6 * n))
    painted = task.predict(x, hidden)
    torch.testing.assert_close(task.predict(changed(task, x, hidden), hidden), painted)
    visible = torch.stack([torch.tensor(sorted({*range(n)} - {*row})) for row in hidden.tolist()])
    moved = (task.predict(changed(task, x, visible), hidden) - painted).abs().amax((1, 2))
    assert (moved > 1e-4).all()


def test_sparks_loss_is_that_of_the_normalised_pixels_of_hidden_cells() -> None:
    task = build(SparK, 32, TINY)
    x, hidden = views_of(task)
    predicted, errors = task.predict(x, hidden), []
    for image in range(4):
        for k, place in enumerate(hidden[image].tolist()):
            target = normalised(task.grid.patches(x)[image : image + 1, place : place + 1])
            errors.append((predicted[image, k] - target).square().mean())
    torch.testing.assert_close(task.loss((x, hidden)).total, sum(errors) / len(errors))


def test_the_tokens_in_hidden_cells_are_not_decayed() -> None:
    task = build(SparK, 32, CONVNEXT)
    config = load_config(overrides={"task.name": "spark"}).train
    decayed = {id(p) for g in parameter_groups(task, config) if g["weight_decay"] for p in g["params"]}
    tokens = [p for name, p in task.named_parameters() if name.endswith("token")]
    assert len(tokens) == len(task.stages)
    assert not any(id(token) in decayed for token in tokens)


def test_fcmae_has_settings_of_its_own() -> None:
    overrides = {"task.name": "spark", "task.decoder": "block"}
    train = load_config(overrides=overrides).train
    assert (train.clip_norm, train.optimizer_options) == (None, {"betas": [0.9, 0.95]})
    scales = [
        build(SparK, 32, CONVNEXT, decoder=decoder).options.crop_scale for decoder in ("block", "stages")
    ]
    assert scales == [(0.2, 1.0), (0.67, 1.0)]


def test_a_decoder_is_connected_to_each_resolution_of_the_network_once() -> None:
    channels = {"channels": [8] * 4, "layers": [1] * 4}
    dilated = {"name": "resnet26", "options": {**channels, "output_stride": 8}}
    task = build(SparK, 32, dilated)
    assert task.stages == (-4, -1)  # the last three stages have maps of 16 × 16 cells
    assert [len(up) for up in task.decoder.up] == [1, 0]
    finer = build(SparK, 32, TINY)
    assert [len(up) for up in finer.decoder.up] == [1, 1, 1, 0]
    assert len(finer.decoder.fill) == 4


@pytest.mark.parametrize("size", [28, (32, 28)])
def test_a_decoder_is_connected_where_maps_are_no_multiples_of_each_other(size: Any) -> None:
    task = build(SparK, size, TINY)  # maps of 28, 14, 7 and 4
    assert len(task.decoder.fill) == 4
    task.loss(views_of(task)).total.backward()
    assert all(p.grad is not None for p in task.decoder.parameters())


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"^data\.image_size: 16 × 16 pixels are 2 × 2 cells; choose --image-size 32,",
    ):
        build(SparK, 16, TINY)


# --- AIM ---


def test_a_patch_is_predicted_from_those_before_it_and_the_prefix_alone() -> None:
    task = build(AIM)
    x, _ = views_of(task, 1)
    x.requires_grad_()
    for prefix in (1, 6, 15):
        predicted = task.predict(x, torch.tensor([prefix]))
        for t in range(15):
            (gradient,) = torch.autograd.grad(predicted[0, t].sum(), x, retain_graph=True)
            seen = task.grid.patches(gradient)[0].any(1).nonzero()[:, 0].tolist()
            assert seen == list(range(max(t + 1, prefix)))


def test_aims_loss_is_that_of_the_normalised_patches_after_the_prefix() -> None:
    task = build(AIM)
    x, prefix = views_of(task, 3)
    assert ((prefix >= 1) & (prefix <= 15)).all()
    predicted, errors = task.predict(x, prefix), []
    for image in range(3):
        for place in range(int(prefix[image]), 16):
            patch = task.grid.patches(x)[image, place]
            target = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            errors.append((predicted[image, place - 1] - target).square().mean())
    losses = task.loss((x, prefix))
    torch.testing.assert_close(losses.total, sum(errors) / len(errors))
    assert losses.weight == len(errors)


@pytest.mark.parametrize("cls", [SimMIM, BEiT, Data2Vec, IJEPA, CAPI, AIM])
def test_a_convolutional_network_is_refused_in_one_line(cls: type[Any]) -> None:
    with pytest.raises(Unsuitable, match=r"^backbone\.name: .* --backbone vit_small") as refused:
        build(cls, 32, {"name": "resnet18"})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("cls", [SimMIM, BEiT, Data2Vec, IJEPA, CAPI, SparK])
def test_a_picture_shows_what_is_hidden_and_an_answer_where_it_is_asked(cls: type[Any]) -> None:
    task = build(cls, 32, TINY) if cls is SparK else build(cls)
    views = views_of(task)
    shown = {**task.gallery(views), **task.reconstructions(views)}
    patches = {name: task.grid.patches(x) for name, x in shown.items()}
    hidden = torch.zeros(4, 16).scatter_(1, task.hidden_places(views), 1.0).bool()
    asked = torch.zeros(4, 16).scatter_(1, task.asked_places(views), 1.0).bool()
    assert not patches["input"][hidden].any()
    assert torch.equal(patches["input"][~hidden], patches["image"][~hidden])
    assert patches["painted"][asked].any(1).all()
    assert torch.equal(patches["painted"][~asked], patches["input"][~asked])
