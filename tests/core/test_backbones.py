"""Any timm model is a backbone, or says in one line why it cannot be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import Tensor, nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.backbones.small_stem import use_small_stem
from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import UserError
from ssl_zoo.spec import ImageSpec

TINY = {"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1]}
"""ResNet-10 with an eighth of the width."""

FAMILIES: dict[str, dict[str, Any]] = {
    "densenet121": {"block_config": [1, 1, 1, 1]},
    "efficientnet_b0": {},
    "efficientformer_l1": {},
    "fastvit_t8": {"layers": [1, 1, 1, 1], "embed_dims": [8, 16, 32, 64]},
    "ghostnet_050": {},
    "hgnetv2_b0": {},
    "legacy_seresnet18": {},
    "mixer_s16_224": {},
    "mobilenetv3_small_050": {},
    "mobilevit_xxs": {},
    "regnetx_002": {},
    "repvgg_a0": {},
    "resnet10t": {},
    "resnet18": TINY,
    "resnet18d": TINY,
    "resnetv2_18": {},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 16,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 4, 8],
    },
    "test_byobnet": {},
    "test_efficientnet": {},
    "test_efficientnet_evos": {},
    "test_efficientnet_gn": {},
    "test_efficientnet_ln": {},
    "test_mambaout": {},
    "test_nfnet": {},
    "test_resnet": {},
    "test_vit": {"patch_size": 4},
    "test_vit2": {"patch_size": 4},
    "test_vit3": {"patch_size": 4},
    "test_vit_relpos": {"patch_size": 4},
    "vgg11": {"mlp_ratio": 1 / 32},
    "vit_tiny_patch16_224": {"patch_size": 4, "depth": 2},
}
"""Models of many families, made small by their own options where they are large."""

REFUSED = {
    ("densenet121", 28): "Output size is too small",
    ("efficientformer_l1", 28): "size",
    ("efficientformer_l1", 32): "size",
    ("mixer_s16_224", 28): "16×16 patches do not cover",
    ("vgg11", 28): "Output size is too small",
}
"""Combinations that cannot work, and a part of the reason."""


def spec(size: int = 32, channels: int = 3) -> ImageSpec:
    return ImageSpec(channels=channels, size=size, mean=(0.5,) * channels, std=(0.25,) * channels)


def build(name: str = "resnet18", size: int = 32, channels: int = 3, **settings: Any) -> TimmEncoder:
    if name == "resnet18":
        settings["options"] = {**TINY, **settings.get("options", {})}
    return create_backbone(BackboneConfig(name=name, **settings), spec(size, channels))


def images(size: int = 32, channels: int = 3, n: int = 2) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def pooled_stage(encoder: TimmEncoder, x: Tensor, index: int) -> Tensor:
    _, (feature_map,) = encoder.stages(x, [index])
    return feature_map.mean((2, 3))


def refusal(*args: Any, **kwargs: Any) -> str:
    """Return the message of the error that building raises: one line of less than 450 characters."""
    with pytest.raises(UserError) as error:
        build(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 450
    return message


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_a_model_of_any_family_gives_pooled_features_and_a_map_or_says_why_not(
    name: str, size: int, channels: int
) -> None:
    if (name, size) in REFUSED:
        message = refusal(name, size, channels, options=FAMILIES[name])
        assert message.startswith(f"backbone.name: {name} cannot take {size}×{size} images")
        assert REFUSED[name, size] in message
        assert "--image-size" in message
        return
    encoder = build(name, size, channels, options=FAMILIES[name]).eval()
    x = images(size, channels)
    with torch.no_grad():
        pooled, feature_map, last = encoder(x), encoder.feature_map(x), pooled_stage(encoder, x, -1)
    assert pooled.shape == (2, encoder.width)
    batch, width, rows, columns = feature_map.shape
    assert (batch, width) == (2, encoder.map_width)
    assert rows == columns > 0
    assert last.ndim == 2
    assert pooled.isfinite().all()
    assert not torch.equal(pooled[0], pooled[1])


@pytest.mark.parametrize("name", ["test_convnext", "test_coatnet", "test_maxvit", "densenet121"])
def test_what_is_too_small_for_a_model_works_once_it_is_larger(name: str) -> None:
    options = FAMILIES.get(name, {})
    assert "--image-size" in refusal(name, 28 if name != "test_coatnet" else 8, options=options)
    assert build(name, 64, options=options)(images(64)).ndim == 2


def test_pooled_features_are_those_of_the_timm_model_itself() -> None:
    encoder = build().eval()
    model = timm.create_model("resnet18", num_classes=0, **TINY).eval()
    use_small_stem(model)
    model.load_state_dict(encoder.model.state_dict())
    torch.testing.assert_close(encoder(images()), model(images()))
    torch.testing.assert_close(encoder.feature_map(images()), model.forward_features(images()))
    torch.testing.assert_close(encoder(images()), encoder.feature_map(images()).mean((2, 3)))


def test_a_transformers_map_lays_its_tokens_out_as_the_patches_lie() -> None:
    encoder = build("test_vit3", 28, options={"patch_size": 4}).eval()
    x = images(28)
    tokens = encoder.model.forward_features(x)
    prefix = encoder.model.num_prefix_tokens
    feature_map = encoder.feature_map(x)
    assert feature_map.shape == (2, encoder.map_width, 7, 7)
    assert tokens.shape[1] == prefix + 49
    for row in range(7):
        for column in range(7):
            token = tokens[:, prefix + 7 * row + column]
            torch.testing.assert_close(feature_map[:, :, row, column], token)


def test_a_map_with_channels_last_is_turned_round() -> None:
    encoder = build("test_mambaout").eval()
    unpooled = encoder.model.forward_features(images())
    assert unpooled.shape[-1] == encoder.map_width
    torch.testing.assert_close(encoder.feature_map(images()), unpooled.movedim(-1, 1))


def test_a_residual_networks_small_stem_is_a_3x3_convolution_of_stride_1_and_no_pooling() -> None:
    model = build().model
    conv = model.conv1
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert conv.weight.shape == (64, 3, 3, 3)
    assert isinstance(model.maxpool, nn.Identity)
    assert build().feature_map(images()).shape[-2:] == (4, 4)  # 32 / 8: the three later stages


@pytest.mark.parametrize(
    ("stem", "size", "side"), [("auto", 64, 8), ("auto", 96, 3), ("original", 64, 2), ("small", 96, 12)]
)
def test_the_stem_is_small_up_to_64_pixels_or_as_it_is_told(stem: str, size: int, side: int) -> None:
    assert build(size=size, stem=stem).feature_map(images(size)).shape[-1] == side


def test_the_original_stem_is_left_alone() -> None:
    model = build(stem="original").model
    assert model.conv1.kernel_size == (7, 7)
    assert isinstance(model.maxpool, nn.MaxPool2d)


@pytest.mark.parametrize("name", ["resnet18", "resnet10t", "efficientnet_b0", "regnetx_002"])
def test_the_small_stems_stride_can_be_2(name: str) -> None:
    side = build(name).feature_map(images()).shape[-1]
    assert build(name, stem_stride=2).feature_map(images()).shape[-1] == side // 2


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("resnet10t", 4),
        ("resnet18d", 4),
        ("resnetv2_18", 4),
        ("efficientnet_b0", 2),
        ("mobilenetv3_small_050", 2),
        ("regnetx_002", 2),
        ("convnext_atto", 1),
        ("densenet121", 1),
        ("repvgg_a0", 1),
        ("fastvit_t8", 1),
        ("test_maxvit", 1),
        ("test_vit", 1),
    ],
)
def test_a_stem_gets_finer_where_it_can_and_is_left_alone_elsewhere(name: str, factor: int) -> None:
    options = FAMILIES.get(name, {})
    auto, original = (build(name, stem=stem, options=options) for stem in ("auto", "original"))
    sides = [encoder.feature_map(images()).shape[-1] for encoder in (auto, original)]
    assert sides[0] == factor * sides[1]
    if factor == 1:
        assert str(auto.model) == str(original.model)
        message = refusal(name, stem="small", options=options)
        assert message.startswith(f"backbone.stem: {name} has no stem that can be made small")
        assert "stem=original" in message


def test_an_unknown_model_is_refused_with_its_near_matches() -> None:
    message = refusal("resnet81")
    assert message.startswith("backbone.name: timm has no model 'resnet81'. Did you mean 'resnet18'")
    assert "timm.list_models()" in message


def test_more_patches_than_usual_are_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    small = {"depth": 1, "patch_size": 4, "embed_dim": 24, "num_heads": 1}
    build("vit_tiny_patch16_224", 128, options=small)
    assert "patches" not in caplog.text
    build("vit_tiny_patch16_224", 224, options=small)
    assert "sees 3,136 patches of 4×4 an image" in caplog.text


def test_patches_that_leave_a_border_unseen_are_refused_with_what_would_fit() -> None:
    message = refusal("vit_tiny_patch16_224", 28, options={"depth": 1})
    assert "16×16 patches do not cover" in message
    assert "divisors of 28" in message
    assert "--image-size 32" in message
    assert build("vit_tiny_patch16_224", 28, options={"depth": 1, "patch_size": 7}).feature_map(
        images(28)
    ).shape[-2:] == (4, 4)


@pytest.mark.parametrize("name", ["coat_tiny", "efficientvim_m1"])
def test_a_model_with_several_maps_says_so(name: str) -> None:
    assert "several feature maps" in refusal(name, 64)


def test_options_are_passed_on_to_timm() -> None:
    encoder = build(options={"drop_path_rate": 0.5})
    assert encoder.width == 64
    rates = [m.drop_prob for m in encoder.model.modules() if isinstance(m, DropPath)]
    assert max(rates) == pytest.approx(0.5)
    assert not [m for m in build().model.modules() if isinstance(m, DropPath)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"layerz": [1]}, "layerz"),
        ({"layers": 3}, "int"),
        ({"channels": [8]}, "layer2"),
        ({"in_chans": 4}, "follows from the data"),
        ({"num_classes": 10}, "without a classifier"),
        ({"pretrained": True}, "backbone.pretrained"),
        ({"features_only": True}, "no pooled features"),
        ({"global_pool": ""}, "does not pool"),
        ({"checkpoint_path": "weights.pt"}, "--from FILE"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(options: dict[str, Any], reason: str) -> None:
    message = refusal(options=options)
    assert message.startswith("backbone.")
    assert reason in message


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Write weights as timm publishes them: three channels, a classifier, the original stem."""
    torch.manual_seed(1)
    state = timm.create_model("resnet18", **TINY).state_dict()
    state = {k: v + 0.25 if v.is_floating_point() else v for k, v in state.items()}
    save_file(state, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", state


def pretrained(file: Path, channels: int = 3, stem: str = "auto") -> TimmEncoder:
    options = {"pretrained_cfg_overlay": {"file": str(file)}}
    return build(channels=channels, stem=stem, pretrained=True, options=options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stem", ["original", "auto"])
def test_pretrained_weights_are_all_loaded_and_the_first_kernels_fitted(
    weights: tuple[Path, dict[str, Tensor]], channels: int, stem: str
) -> None:
    file, state = weights
    loaded = pretrained(file, channels, stem).model.state_dict()
    assert loaded.keys() == state.keys() - {"fc.weight", "fc.bias"}
    for name, value in loaded.items():
        if name != "conv1.weight":
            torch.testing.assert_close(value, state[name])
    # One channel sees what gray in three would be seen as; the kernel keeps its sum.
    kernel = state["conv1.weight"]
    kernel = kernel.sum(1, keepdim=True) if channels == 1 else kernel
    if stem == "original":
        torch.testing.assert_close(loaded["conv1.weight"], kernel)
    else:
        assert loaded["conv1.weight"].shape == (64, channels, 3, 3)
        torch.testing.assert_close(loaded["conv1.weight"].sum((2, 3)), kernel.sum((2, 3)))


def test_a_shrunk_kernel_sees_of_an_image_what_the_kernel_saw_of_it_enlarged() -> None:
    model = timm.create_model("resnet18", **TINY)
    kernel = model.conv1.weight.detach().clone()
    use_small_stem(model, keep_weights=True)
    x = images(3)
    # In units of a third of the old kernel's pixels, the image's pixels are seven wide.
    enlarged, fine = F.interpolate(x, scale_factor=7), F.interpolate(kernel, scale_factor=3) / 9
    torch.testing.assert_close(
        F.conv2d(x, model.conv1.weight), F.conv2d(enlarged, fine), atol=1e-5, rtol=1e-5
    )


def test_a_3x3_kernel_is_kept_as_it_is() -> None:
    model = timm.create_model("resnet18", **TINY)
    model.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    kernel = model.conv1.weight.detach().clone()
    use_small_stem(model, keep_weights=True)
    torch.testing.assert_close(model.conv1.weight, kernel)


def test_a_pretrained_backbone_can_be_built_again_without_its_first_weights(
    weights: tuple[Path, dict[str, Tensor]],
) -> None:
    encoder = pretrained(weights[0]).eval()
    again = build().eval()
    again.model.load_state_dict(encoder.model.state_dict())
    torch.testing.assert_close(again(images()), encoder(images()))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"resnet18 are not available.*--from FILE"):
        pretrained(tmp_path / "other.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match="weights of resnet18 are not available"):
        pretrained(tmp_path / "broken.pt")
    with pytest.raises(UserError, match="weights of resnet18 are not available: there is no such file"):
        pretrained(tmp_path / "nowhere.pt")


def test_pretrained_asks_for_timms_weights_and_offline_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        create_backbone(
            BackboneConfig(name="resnet18", pretrained=True, options={"cache_dir": str(tmp_path)}),
            spec(),
        )
    message = str(error.value)
    assert message.startswith("backbone.pretrained: the weights of resnet18 are not available: ")
    assert "\n" not in message
    assert "--from FILE" in message


def test_weights_that_timm_does_not_have_are_refused() -> None:
    assert "Invalid pretrained tag (nothing)" in refusal("resnet18d.nothing", pretrained=True)
    assert "Invalid pretrained tag (nothing)" in refusal("resnet10t.nothing")
    assert "No pretrained weights exist" in refusal("convnext_atto_rms", pretrained=True)


def test_stages_are_counted_as_timm_counts_them_from_both_ends() -> None:
    encoder = build().eval()
    widths = [pooled_stage(encoder, images(), index).shape[1] for index in range(5)]
    assert widths == [64, 8, 16, 32, 64]
    torch.testing.assert_close(pooled_stage(encoder, images(), -2), pooled_stage(encoder, images(), 3))
    torch.testing.assert_close(pooled_stage(encoder, images(), -1), encoder(images()))


def test_a_stage_is_the_mean_over_its_map() -> None:
    encoder = build().eval()
    model = encoder.model
    x = model.act1(model.bn1(model.conv1(images())))
    expected = model.layer2(model.layer1(x)).mean((2, 3))
    torch.testing.assert_close(pooled_stage(encoder, images(), 2), expected)


def test_stages_come_with_the_pooled_features_of_the_same_pass() -> None:
    encoder = build().train()  # in which each pass moves the statistics of the normalisations
    twin = build().train()
    twin.load_state_dict(encoder.state_dict())
    pooled, (third, last) = encoder.stages(images(), [-2, -1])
    assert third.shape[1] == 32
    assert torch.equal(pooled, twin(images()))
    torch.testing.assert_close(last.mean((2, 3)), pooled)
    torch.testing.assert_close(encoder.state_dict(), twin.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("index", [5, -6, 99])
def test_a_stage_that_does_not_exist_is_refused(index: int) -> None:
    with pytest.raises(UserError, match=rf"^the backbone has no stage {index} "):
        build().stages(images(), [index])


def test_building_leaves_no_trace_in_the_statistics_and_the_model_in_training() -> None:
    encoder = build()
    assert encoder.training
    assert encoder.model.training
    statistics = [b for n, b in encoder.named_buffers() if n.endswith("num_batches_tracked")]
    assert statistics
    assert all(b == 0 for b in statistics)


def test_in_evaluation_dropout_and_batch_statistics_play_no_part() -> None:
    encoder = build(options={"drop_rate": 0.5, "drop_path_rate": 0.5})
    x = images(n=4)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    torch.testing.assert_close(encoder(x), encoder(x), atol=0, rtol=0)
    torch.testing.assert_close(encoder(x[:1]), encoder(x)[:1])
    torch.testing.assert_close(encoder.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "vit_tiny_patch16_224"])
def test_tokens_of_all_places_are_the_feature_map(name: str) -> None:
    encoder = build(name, options={"depth": 2, "patch_size": 4, "fc_norm": False}).eval()
    everywhere = torch.arange(64).repeat(2, 1)
    tokens = encoder.tokens(images(), everywhere)
    torch.testing.assert_close(tokens.transpose(1, 2).view(2, -1, 8, 8), encoder.feature_map(images()))
    assert torch.equal(encoder(images()), encoder(images()))  # as ever, once tokens were left out


def test_tokens_know_their_place_and_nothing_of_what_is_left_out() -> None:
    encoder = build("test_vit", options={"patch_size": 4}).eval()
    visible = torch.tensor([[9, 0, 62], [5, 6, 7]])  # in any order, different in each image
    x = images()
    seen = encoder.tokens(x, visible)
    assert seen.shape == (2, 3, encoder.map_width)
    torch.testing.assert_close(encoder.tokens(x, visible.flip(1)), seen.flip(1))
    hidden = torch.ones(2, 64, dtype=torch.bool).scatter(1, visible, False).view(2, 1, 8, 8)
    other = torch.where(F.interpolate(hidden.float(), scale_factor=4) > 0, torch.randn_like(x), x)
    torch.testing.assert_close(encoder.tokens(other, visible), seen)
    same = torch.zeros_like(x)  # of the same content everywhere
    a, b = encoder.tokens(same, torch.tensor([[0, 1], [2, 3]])).chunk(2)
    assert not torch.allclose(a, b)


@pytest.mark.parametrize("name", ["resnet18", "test_convnext"])
def test_what_cannot_leave_places_out_says_so(name: str) -> None:
    with pytest.raises(UserError, match="choose a vision transformer, such as --backbone vit_small"):
        build(name).tokens(images(), torch.zeros(2, 1, dtype=torch.long))
