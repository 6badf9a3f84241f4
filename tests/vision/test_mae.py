"""MAE: the conformance suite, then what the paper says, against slow literal references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ssl_zoo
from ssl_zoo import ImageSpec, Rng, Unsuitable, UserError
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.runs.build import restore_task
from ssl_zoo.testing import Check, SyntheticImages, parametrize_with_checks
from ssl_zoo_vision.masked.mae import MAE
from ssl_zoo_vision.patches import moments, patchify, put, take, unpatchify
from ssl_zoo_vision.predictor import Predictor

SMALL = {"decoder_width": 32, "decoder_depth": 1}
VIT = {"name": "test_vit", "options": {"patch_size": 4}}  # has a class token, and pools by it


def build(size: int = 16, channels: int = 3, backbone: Any = VIT, **options: Any) -> Any:
    torch.manual_seed(0)
    images = SyntheticImages(BackboneConfig.model_validate(backbone), size, channels)
    return MAE(images.encoder(), MAE.Options(**{**SMALL, **options}), images.spec)


def vit(**options: Any) -> dict[str, Any]:
    return {"name": "test_vit", "options": {"patch_size": 4, **options}}


def views(task: Any, n: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    raw = SyntheticImages(channels=task.spec.channels).batch(n, seed)
    x, visible, hidden = task.views(raw, Rng(seed))
    return x, visible, hidden


def patch_of(x: Tensor, place: int, columns: int, p: int) -> Tensor:
    """Return the pixels [C, p, p] of one patch of an image [C, H, W], cut out."""
    row, column = divmod(place, columns)
    return x[:, row * p : (row + 1) * p, column * p : (column + 1) * p]


def pixels_at(x: Tensor, places: Tensor, columns: int, p: int) -> Tensor:
    """Return a mask [B, 1, H, W], true in the patches at `places` [B, K]."""
    mask = torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.bool)
    for image, row in zip(mask, places, strict=True):
        for place in row.tolist():
            patch_of(image, place, columns, p).fill_(True)
    return mask


@parametrize_with_checks(MAE, options=SMALL, backbone=VIT)
def test_conformance(check: Check) -> None:
    check()


# --- patches ---


def test_patches_are_cut_row_by_row() -> None:
    x = torch.randn(2, 3, 8, 12)
    patches = patchify(x, (4, 4))
    assert patches.shape == (2, 6, 48)
    for image in range(2):
        for place in range(6):
            expected = patch_of(x[image], place, 3, 4).flatten()
            assert torch.equal(patches[image, place], expected)


@pytest.mark.parametrize("patch", [(2, 2), (4, 4), (8, 8), (2, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_laid_out_again_are_the_image(patch: tuple[int, int], channels: int) -> None:
    x = torch.randn(2, channels, 8, 8)
    assert torch.equal(unpatchify(patchify(x, patch), patch, 8), x)


def test_what_is_taken_from_places_and_put_back_is_where_it_was() -> None:
    patches, places = torch.randn(2, 5, 3), torch.tensor([[4, 1], [0, 2]])
    taken = take(patches, places)
    for image in range(2):
        for k in range(2):
            assert torch.equal(taken[image, k], patches[image, places[image, k]])
    assert torch.equal(put(patches, places, taken), patches)
    changed = put(patches, places, torch.zeros_like(taken))
    assert torch.equal(take(changed, places), torch.zeros_like(taken))
    assert torch.equal((changed != patches).any(2).sum(1), torch.tensor([2, 2]))


# --- the mask ---


@pytest.mark.parametrize(
    ("size", "ratio", "visible"),
    [(16, 0.75, 4), (28, 0.75, 12), (32, 0.75, 16), (16, 0.5, 8), (16, 0.01, 15), (16, 0.999, 1)],
)
def test_of_every_image_exactly_the_same_share_is_hidden(size: int, ratio: float, visible: int) -> None:
    task = build(size, mask_ratio=ratio)
    places = (size // 4) ** 2
    _, seen, hidden = views(task, 9)
    assert seen.shape == (9, visible)
    assert hidden.shape == (9, places - visible)
    for a, b in zip(seen.tolist(), hidden.tolist(), strict=True):
        assert sorted(a + b) == list(range(places))


def test_each_place_is_hidden_as_often_as_any_other_and_in_each_image_others_are() -> None:
    task = build()
    _, _, hidden = task.views(torch.zeros(4000, 3, 8, 8, dtype=torch.uint8), Rng(0))
    share = hidden.flatten().bincount(minlength=16) / 4000
    assert share.sum() == pytest.approx(12)
    torch.testing.assert_close(share, torch.full((16,), 0.75), atol=0.03, rtol=0)  # 4 deviations
    assert len(hidden.sort(1).values.unique(dim=0)) > 1200  # of 1820 sets of 12 places among 16


def test_images_are_cropped_and_mirrored_where_that_may_be_and_nothing_else() -> None:
    raw = SyntheticImages(height=16, width=16).batch(1).expand(64, -1, -1, -1).contiguous()
    for mirror in (False, True):
        task = build(crop_scale=(1.0, 1.0))
        spec = replace(task.spec, mirror=mirror)
        task = MAE(task.encoder, task.options, spec)
        x, _, _ = task.views(raw, Rng(0))
        image = spec.prepare(raw[:1])
        as_it_is = (x - image).abs().amax((1, 2, 3)) < 1e-5
        mirrored = (x - image.flip(3)).abs().amax((1, 2, 3)) < 1e-5
        assert (as_it_is ^ mirrored).all()
        assert mirrored.any() == mirror


# --- the encoder sees what is visible, and only that ---


def test_hidden_pixels_do_not_change_what_is_painted_and_visible_ones_do() -> None:
    task = build().eval()
    x, visible, hidden = views(task)
    painted = task.predict(x, visible, hidden)
    for places, same in ((hidden, True), (visible, False)):
        other = torch.where(pixels_at(x, places, 4, 4), torch.randn_like(x), x)
        assert torch.equal(task.predict(other, visible, hidden), painted) == same


def test_only_visible_tokens_go_through_the_encoders_blocks_and_all_through_the_decoders() -> None:
    task = build(32)
    counted: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            counted[name] = output.shape[1]

        return hook

    task.encoder.model.blocks[0].register_forward_hook(count("encoder"))
    task.decoder.blocks[0].register_forward_hook(count("decoder"))
    task.loss(views(task))
    assert counted == {"encoder": 64 // 4 + 1, "decoder": 64}  # and the class token


def test_the_order_in_which_visible_patches_are_named_means_nothing() -> None:
    task = build().eval()
    x, visible, hidden = views(task)
    painted = task.predict(x, visible, hidden)
    torch.testing.assert_close(task.predict(x, visible.flip(1), hidden), painted)
    torch.testing.assert_close(task.predict(x, visible, hidden.flip(1)), painted.flip(1))


# --- the decoder ---


@pytest.mark.parametrize("grid", [(4, 4), (2, 5)])
def test_the_decoders_positions_are_sines_and_cosines_of_row_and_column(grid: tuple[int, int]) -> None:
    width = 32
    positions = Predictor(8, 3, grid, width, 1).positions
    expected = torch.empty(grid[0] * grid[1], width)
    quarter = width // 4
    for row in range(grid[0]):
        for column in range(grid[1]):
            place = expected[row * grid[1] + column]
            for i in range(quarter):
                turns = torch.tensor([row, column]) / 10000 ** (i / quarter)
                place[i], place[quarter + i] = turns.sin()
                place[2 * quarter + i], place[3 * quarter + i] = turns.cos()
    torch.testing.assert_close(positions, expected)
    assert not positions.requires_grad
    assert len(positions.unique(dim=0)) == len(positions)


@pytest.mark.parametrize("cross", [False, True])
def test_visible_tokens_and_mask_tokens_get_the_positions_of_their_places(cross: bool) -> None:
    decoder = Predictor(8, 3, (2, 3), 32, 1, cross)
    tokens = torch.randn(2, 2, 8)
    visible, wanted = torch.tensor([[5, 1], [0, 3]]), torch.tensor([[2], [4]])
    given: list[Any] = []
    decoder.blocks[0].register_forward_pre_hook(lambda module, inputs: given.extend(inputs))
    assert decoder(tokens, visible, wanted).shape == (2, 1, 3)
    seen = decoder.embed(tokens) + decoder.positions[visible]
    asked = decoder.mask_token + decoder.positions[wanted]
    expected = [asked, seen] if cross else [torch.cat([seen, asked], 1)]
    for found, value in zip(given, expected, strict=True):
        torch.testing.assert_close(found, value)


# --- the loss ---


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_is_the_mean_squared_error_of_hidden_patches(normalise: bool, channels: int) -> None:
    task = build(channels=channels, normalise_targets=normalise)
    x, visible, hidden = views(task)
    painted = task.decoder(task.encoder.tokens(x, visible), visible, hidden)
    errors = []
    for image in range(len(x)):
        for k, place in enumerate(hidden[image].tolist()):
            target = patch_of(x[image], place, 4, 4).flatten()
            if normalise:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors += [(a - b) ** 2 for a, b in zip(painted[image, k], target, strict=True)]
    assert len(errors) == 4 * 12 * 16 * channels
    torch.testing.assert_close(task.loss((x, visible, hidden)).total, sum(errors) / len(errors))


def test_targets_have_no_mean_and_unit_deviation_and_an_even_patch_is_zero() -> None:
    patches = 3 + 5 * torch.randn(2, 4, 48)
    patches[0, 0] = 0.7
    mean, deviation = moments(patches)
    normalised = (patches - mean) / deviation
    torch.testing.assert_close(normalised.mean(2), torch.zeros(2, 4), atol=1e-5, rtol=0)
    assert normalised[0, 0].abs().max() < 1e-3
    torch.testing.assert_close(normalised.std(2).flatten()[1:], torch.ones(7), atol=1e-4, rtol=0)


def test_a_network_that_only_knows_the_means_has_a_loss_of_one() -> None:
    task = build()
    nn.init.zeros_(task.decoder.out.weight)
    assert task.loss(views(task)).total.item() == pytest.approx(47 / 48, rel=1e-3)  # 48 values a patch


# --- any transformer ---

POOLING = {
    "class token": (vit(), set()),
    "registers": (vit(reg_tokens=2), set()),
    "mean, normalised before": (vit(global_pool="avg", fc_norm=False), set()),
    "mean, normalised after": (
        vit(global_pool="avg", fc_norm=True, class_token=False),
        {"fc_norm.weight", "fc_norm.bias"},
    ),
    "no positions": (vit(pos_embed="none"), set()),
    "distilled": (
        {"name": "deit_tiny_distilled_patch16_224", "options": {"patch_size": 4, "depth": 2}},
        set(),
    ),
}


@pytest.mark.parametrize("kind", POOLING)
def test_all_that_the_tokens_depend_on_is_trained_and_nothing_else(kind: str) -> None:
    backbone, frozen = POOLING[kind]
    task = build(backbone=backbone)
    task.loss(views(task)).total.backward()
    for name, parameter in task.encoder.model.named_parameters():
        assert parameter.requires_grad == (name not in frozen), name
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_a_pooling_head_is_frozen() -> None:
    task = build(backbone=vit(global_pool="map", class_token=False))
    frozen = {n for n, p in task.encoder.model.named_parameters() if not p.requires_grad}
    assert frozen == {f"attn_pool.{n}" for n, _ in task.encoder.model.attn_pool.named_parameters()}


@pytest.mark.parametrize("kind", POOLING)
def test_features_are_the_mean_of_the_patch_tokens(kind: str) -> None:
    task = build(backbone=POOLING[kind][0]).eval()
    x, _, _ = views(task)
    model = task.encoder.model
    tokens = model.forward_features(x)[:, model.num_prefix_tokens :]
    assert tokens.shape[1] == 16
    torch.testing.assert_close(task.features(x), sum(tokens.unbind(1)) / 16)


def test_the_features_of_the_recipes_network_are_those_of_its_own_pooling() -> None:
    task = build(backbone=MAE.recipe["backbone"]).eval()
    x, _, _ = views(task)
    torch.testing.assert_close(task.features(x), task.encoder(x))


def test_building_leaves_the_encoder_as_it_was() -> None:
    images = SyntheticImages(BackboneConfig.model_validate(VIT))
    encoder = images.encoder().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    torch.manual_seed(3)
    MAE(encoder, MAE.Options(**SMALL), images.spec)
    assert all(module.training for module in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "size", "reason"),
    [
        ({"name": "resnet18"}, 32, "^backbone.name: the backbone has no patches that can be left out"),
        ({"name": "test_convnext"}, 32, "^backbone.name: .* choose a vision transformer"),
        (
            {"name": "vit_tiny_r_s16_p8_224", "options": {"depth": 1}},
            64,
            "^backbone.name: its patches overlap or come from convolutions",
        ),
        (vit(patch_size=16), 16, "^backbone.options.patch_size: patches of 16 × 16 leave nothing to"),
        (
            vit(patch_size=5, dynamic_img_pad=True, dynamic_img_size=True),
            17,
            "^backbone.options.patch_size: 4 × 4 patches do not divide images of 17 × 17",
        ),
        (
            vit(patch_size=16, dynamic_img_pad=True, dynamic_img_size=True),
            28,
            "^backbone.name: its patches overlap or come from convolutions",
        ),
    ],
)
def test_a_network_without_patches_to_hide_is_refused(
    backbone: dict[str, Any], size: int, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        build(size, backbone=backbone)
    assert "\n" not in str(refused.value)
    # `compare --tasks all` leaves the task out where it is the network itself that will not do.
    assert isinstance(refused.value, Unsuitable) == reason.startswith("^backbone.name")


def test_patches_of_a_single_value_are_refused() -> None:
    with pytest.raises(UserError, match="patches of 1 × 1 leave nothing to reconstruct"):
        build(4, channels=1, backbone=vit(patch_size=1))


@pytest.mark.parametrize(
    "options",
    [{"mask_ratio": 0}, {"mask_ratio": 1}, {"decoder_width": 48}, {"decoder_depth": 0},
     {"crop_scale": (0.5, 0.2)}, {"crop_scale": (0, 1)}, {"flip": 2}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MAE.Options(**options)


# --- pictures ---


def test_the_masked_picture_is_the_mean_where_hidden_and_the_image_elsewhere() -> None:
    task = build()
    x, visible, hidden = views(task)
    columns = task.gallery((x, visible, hidden))
    mask = pixels_at(x, hidden, 4, 4)
    assert torch.equal(columns["image"], x)
    assert torch.equal(columns["input"], x.masked_fill(mask, 0))
    assert mask.float().mean() == 0.75


@pytest.mark.parametrize("normalise", [True, False])
def test_a_perfect_painter_paints_the_image(normalise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = build(normalise_targets=normalise)
    x, visible, hidden = views(task)
    target = take(patchify(x, (4, 4)), hidden)
    if normalise:
        target = (target - target.mean(2, keepdim=True)) / target.std(2, keepdim=True)
    monkeypatch.setattr(task, "predict", lambda *given: target)
    painted = task.reconstructions((x, visible, hidden))["painted"]
    torch.testing.assert_close(painted, x, atol=1e-3, rtol=0)


def test_a_run_paints_hidden_patches_and_leaves_visible_ones(tmp_path: Path) -> None:
    given = {
        **{"task.name": "mae", "data.image_size": 16, "train.samples": 256, "train.batch_size": 64},
        **{"train.device": "cpu", "train.precision": "fp32", "backbone.options.depth": 1},
        **{f"task.{name}": value for name, value in SMALL.items()},
    }
    run = ssl_zoo.train(ssl_zoo.load_config(overrides=given), out=tmp_path / "run")
    model = ssl_zoo.load_backbone(run.path)
    spec = model.ssl_zoo_spec
    assert isinstance(spec, ImageSpec)
    task: Any = restore_task(run, spec)
    x, visible, hidden = views(task.eval())
    with torch.no_grad():
        (painted,) = task.reconstructions((x, visible, hidden)).values()
    assert painted.shape == x.shape == (4, 1, 16, 16)
    mask = pixels_at(x, hidden, 4, 4)
    assert torch.equal(painted.masked_fill(mask, 0), x.masked_fill(mask, 0))
    assert (painted != x)[mask].float().mean() > 0.9
    torch.testing.assert_close(model(x), task.features(x))  # its own pooling, for who loads it with timm
