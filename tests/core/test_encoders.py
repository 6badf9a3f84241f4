"""Places of an image can be hidden from any backbone that can do without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.backbones.sparse import resized
from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable
from ssl_zoo.evaluation.finetune import LAYER_DECAY, WEIGHT_DECAY, Classifier, groups
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.build import build_task
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Losses, Task
from ssl_zoo.training.passes import count_passes
from tests.conftest import small_config

TINY = {"depth": 2, "embed_dim": 24, "num_heads": 2}
EVA = {**TINY, "patch_size": 8, "class_token": True}
SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "patch_size": 2}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
OPTIONS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {**TINY, "patch_size": 8},
    "vit_small_patch16_dinov3": EVA,
    "eva02_tiny_patch14_224": EVA,
    "vit_small_patch16_rope_mixed_224": EVA,
    "beit_base_patch16_224": {**TINY, "patch_size": 8},
    "swin_tiny_patch4_window7_224": SWIN,
    "convnext_atto": CONVNEXT,
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
}
EVAS = ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "vit_small_patch16_rope_mixed_224"]
LEAVING_OUT = ["vit_tiny_patch16_224", *EVAS]
WITH_TOKEN = [*LEAVING_OUT, "beit_base_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"]
SPARSE = ["convnext_atto", "resnet18"]

SIZE = 64


def build(name: str, size: int = SIZE, **settings: Any) -> TimmEncoder:
    spec = ImageSpec(size=size)
    config = BackboneConfig(name=name, stem="original", options=OPTIONS.get(name, {}))
    torch.manual_seed(0)
    encoder = create_backbone(config, spec, **settings).eval()
    for name, parameter in encoder.named_parameters():  # also layer scale, which starts near 0
        if parameter.ndim < 2 and "gamma" in name:
            nn.init.ones_(parameter)
    return encoder


def images(size: int = SIZE, n: int = 3) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def hidden_places(encoder: Encoder, x: Tensor, equal: bool = True) -> Tensor:
    """Return a mask on the encoder's grid, with as many hidden places in each image, or not."""
    rows, columns = encoder.feature_map(x).shape[2:]
    places = torch.arange(rows * columns)
    masks = [(places + i) % 2 == 0 if equal else places % 4 < i for i in range(1, len(x) + 1)]
    return torch.stack(masks).view(-1, rows, columns)


def others(x: Tensor, where: Tensor) -> Tensor:
    """Return images with other pixels in some places of a grid."""
    return torch.where(resized(where, *x.shape[2:]).unsqueeze(1), 3 * torch.randn_like(x), x)


CASES = [(name, True) for name in WITH_TOKEN] + [(name, False) for name in (*LEAVING_OUT, *SPARSE)]


@pytest.mark.parametrize("equal", [True, False], ids=["as many in each", "any number"])
@pytest.mark.parametrize(("name", "with_token"), CASES)
@torch.no_grad()
def test_hidden_pixels_change_nothing_and_visible_ones_do(
    name: str, with_token: bool, equal: bool
) -> None:
    encoder, x = build(name), images()
    hidden = hidden_places(encoder, x, equal)
    assert encoder.embed_width is not None or not with_token
    token = torch.randn(encoder.embed_width or 1) if with_token else None
    pooled, before = encoder.pooled_and_map(x, hidden, token)
    assert torch.equal(before, encoder.feature_map(x, hidden, token))
    assert before.shape == encoder.feature_map(x).shape
    for a, b in zip(
        encoder.pooled_and_map(others(x, hidden), hidden, token), (pooled, before), strict=True
    ):
        assert torch.equal(a, b)
    after = encoder.feature_map(others(x, ~hidden), hidden, token)
    visible = ~hidden.unsqueeze(1)
    assert not torch.equal(after * visible, before * visible)
    assert bool((before * hidden.unsqueeze(1)).any()) == with_token  # or 0, where nothing stands
    if token is not None:
        assert not torch.equal(encoder.feature_map(x, hidden, -token), before)


@pytest.mark.parametrize("name", [*LEAVING_OUT, *SPARSE])
@torch.no_grad()
def test_stages_come_without_hidden_places_too(name: str) -> None:
    encoder, x = build(name), images()
    hidden = hidden_places(encoder, x, equal=False)
    pooled, maps = encoder.stages(x, [0, -1], hidden)
    assert torch.equal(pooled, encoder.pooled_and_map(x, hidden)[0])
    again = encoder.stages(others(x, hidden), [0, -1], hidden)[1]
    for plain, found, other in zip(encoder.stages(x, [0, -1])[1], maps, again, strict=True):
        assert torch.equal(found, other)
        assert found.shape == plain.shape
        cells = resized(hidden, *found.shape[2:]).unsqueeze(1)
        assert not (found * cells).any()
        assert (found * ~cells).any()


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_one_pass_gives_pooled_features_and_map_as_two_do(name: str) -> None:
    encoder, x = build(name), images()
    pooled, feature_map = encoder.pooled_and_map(x)
    assert torch.equal(pooled, encoder(x))
    assert torch.equal(feature_map, encoder.feature_map(x))
    if name not in LEAVING_OUT and name not in SPARSE:
        with pytest.raises(Unsuitable, match="choose a convolutional network, such as --backbone"):
            encoder.feature_map(x, hidden_places(encoder, x))


@pytest.mark.parametrize("name", LEAVING_OUT)
@torch.no_grad()
def test_nothing_hidden_or_everything_visible_is_the_whole_image(name: str) -> None:
    encoder, x = build(name), images()
    whole = encoder.feature_map(x)
    nothing = torch.zeros_like(whole[:, 0], dtype=torch.bool)
    torch.testing.assert_close(encoder.feature_map(x, nothing), whole)
    torch.testing.assert_close(encoder.feature_map(x, nothing, torch.ones(24)), whole)
    tokens = encoder.tokens(x)
    torch.testing.assert_close(tokens.transpose(1, 2).view_as(whole), whole)
    order = torch.randperm(64).repeat(3, 1)
    torch.testing.assert_close(
        encoder.tokens(x, order), tokens.gather(1, order[..., None].expand(3, 64, 24))
    )


@pytest.mark.parametrize("name", LEAVING_OUT)
@torch.no_grad()
def test_with_causal_attention_no_token_sees_a_later_patch(name: str) -> None:
    encoder, x = build(name), images()
    causal = torch.ones(1, 64, 64, dtype=torch.bool).tril()
    later = torch.zeros(3, 8, 8, dtype=torch.bool)
    later[:, 5:] = True  # 40 patches stay
    before, after = (encoder.tokens(y, attend=causal, prefix=True) for y in (x, others(x, later)))
    prefix = encoder.model.num_prefix_tokens
    assert prefix > 0
    assert torch.equal(before[:, prefix:][:, :40], after[:, prefix:][:, :40])
    assert not torch.equal(before[:, :prefix], after[:, :prefix])  # which look at everything
    assert torch.equal(encoder.tokens(x, attend=causal), before[:, prefix:])
    visible = torch.arange(0, 64, 2).repeat(3, 1)
    some = encoder.tokens(x, visible, causal[:, ::2, ::2])
    odd = torch.arange(64).view(1, 8, 8).expand(3, -1, -1) % 2 == 1
    assert torch.equal(encoder.tokens(others(x, odd), visible, causal[:, ::2, ::2]), some)
    with torch.no_grad():
        encoder.model.cls_token.add_(1.0)  # which no patch sees
    assert torch.equal(encoder.tokens(x, visible, causal[:, ::2, ::2]), some)


@torch.no_grad()
def test_prefix_gives_class_and_register_tokens_first() -> None:
    encoder, x = build("vit_small_patch16_dinov3"), images()
    visible = torch.arange(10).repeat(3, 1)
    tokens = encoder.tokens(x, visible, prefix=True)
    assert tokens.shape == (3, 5 + 10, 24)
    assert torch.equal(tokens[:, 5:], encoder.tokens(x, visible))
    beit = build("beit_base_patch16_224")
    assert torch.equal(beit.tokens(x, prefix=True), beit.model.forward_features(x))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("resnet18", lambda e, x: e.feature_map(x, hidden_places(e, x), torch.zeros(8))),
        ("resnet18", lambda e, x: e.tokens(x)),
        ("beit_base_patch16_224", lambda e, x: e.tokens(x, torch.zeros(3, 1, dtype=torch.long))),
        ("swin_tiny_patch4_window7_224", lambda e, x: e.tokens(x, attend=torch.ones(1, 64, 64).bool())),
    ],
)
def test_what_a_backbone_cannot_do_it_refuses_by_the_name_of_one_that_can(name: str, call: Any) -> None:
    with pytest.raises(
        Unsuitable, match=r"^the backbone has no [^\n]*--backbone vit_small_patch16_224$"
    ):
        call(build(name), images())


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "vit_small_patch16_dinov3"]
)
def test_an_error_inside_leaves_no_trace(name: str) -> None:
    encoder, x = build(name), images()
    with torch.no_grad():
        before, state = encoder(x), list(encoder.state_dict())
        for options in ({"token": torch.zeros(7)}, {}):
            with pytest.raises((RuntimeError, IndexError, Unsuitable)):
                encoder.feature_map(x, torch.ones(3, 8, 8, dtype=torch.bool)[:2], **options)
        assert torch.equal(encoder(x), before)
    assert list(encoder.state_dict()) == state


ANY_SIZE = [*LEAVING_OUT, "swin_tiny_patch4_window7_224", *SPARSE]


@pytest.mark.parametrize("name", ANY_SIZE)
@torch.no_grad()
def test_small_crops_go_through_a_network_that_is_built_for_any_size(name: str) -> None:
    fixed, encoder = build(name), build(name, any_size=True)
    for (key, a), b in zip(fixed.state_dict().items(), encoder.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    torch.testing.assert_close(encoder(images()), fixed(images()))
    x = images(32)
    pooled, feature_map = encoder.pooled_and_map(x)
    assert pooled.shape == (3, encoder.width)
    stride = SIZE // fixed.feature_map(images()).shape[-1]
    assert feature_map.shape == (3, encoder.map_width, 32 // stride, 32 // stride)
    hidden = torch.zeros_like(feature_map[:, 0], dtype=torch.bool)
    hidden[1:, 0, 0] = hidden.shape[-1] > 1
    if name in WITH_TOKEN:
        assert encoder.embed_width is not None
        masked = encoder.feature_map(x, hidden, torch.ones(encoder.embed_width))
        assert torch.equal(masked[0], feature_map[0])
    if name != "swin_tiny_patch4_window7_224":
        masked = encoder.feature_map(x, hidden)
        torch.testing.assert_close(masked[0], feature_map[0])
    wide = torch.cat([x, x], 3)
    assert encoder.feature_map(wide).shape[2:] == (32 // stride, 64 // stride)


@pytest.mark.parametrize("restored", [False, True])
def test_a_task_that_passes_other_sizes_says_so_and_gets_such_a_backbone(
    restored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.load_task("simclr"), "any_size", True)
    config = small_config("simclr")
    config.backbone = BackboneConfig(
        name="vit_tiny_patch16_224", options=OPTIONS["vit_tiny_patch16_224"]
    )
    task = build_task(config, ImageSpec(size=SIZE), restored=restored)
    assert task.encoder(images(24)).shape == (3, task.encoder.width)
    config.backbone = BackboneConfig(name="mixer_s16_224")
    with pytest.raises(
        Unsuitable, match=r"^backbone.name: mixer_s16_224 takes images of one size alone"
    ):
        build_task(config, ImageSpec(size=SIZE), restored=restored)


def test_other_sizes_are_refused_in_one_line_where_they_cannot_be() -> None:
    vit = build("vit_tiny_patch16_224")
    with pytest.raises(Unsuitable, match="cannot take 32×32 images, as it is built for 64×64: a task"):
        vit(images(32))
    with pytest.raises(Unsuitable, match="cannot take 36×36 images, which 8×8 patches do not cover"):
        build("vit_tiny_patch16_224", any_size=True).feature_map(images(36))
    with pytest.raises(Unsuitable, match="beit_base_patch16_224 takes images of one size alone"):
        build("beit_base_patch16_224", any_size=True)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224", "convnext_atto",
             "swin_tiny_patch4_window7_224"],
)  # fmt: skip
def test_rates_of_layers_in_fine_tuning_are_timms(name: str) -> None:
    encoder = build(name)
    network = encoder.model
    undecayed = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    if hasattr(network, "blocks"):
        expected = param_groups_layer_decay(network, WEIGHT_DECAY, undecayed, layer_decay=LAYER_DECAY)
        assert len(encoder.parameter_layers()) == len({g["lr_scale"] for g in expected}) > 2
    else:
        expected = param_groups_weight_decay(network, WEIGHT_DECAY, no_weight_decay_list=undecayed)
        assert len(encoder.parameter_layers()) == 1

    def rates(given: Any) -> dict[int, tuple[float, float]]:
        return {id(p): (g.get("lr_scale", 1.0), g["weight_decay"]) for g in given for p in g["params"]}

    model = Classifier(encoder, 10)
    head = {id(model.head.weight): (1.0, WEIGHT_DECAY), id(model.head.bias): (1.0, 0.0)}
    assert rates(groups(model)) == rates(expected) | head


class Passing(Task):
    """A task that calls an encoder in every way."""

    name = "passing"

    def views(self, batch: Any, rng: Any) -> tuple[Any, ...]:
        return (batch,)

    def loss(self, views: tuple[Any, ...]) -> Losses:
        (x,) = views
        self.encoder(x)
        self.encoder.feature_map(x)
        self.encoder.pooled_and_map(x=x)
        self.encoder.stages(x, [-1])
        self.encoder.tokens(x)
        return Losses(torch.zeros(()))


class Transposing(Encoder):
    """An encoder of a tree whose first layer sees the second axis first, and that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def feature_map(self, x: Any, hidden: Any = None, token: Any = None) -> Tensor:
        return self.layer(x[0].transpose(0, 1)).permute(1, 2, 0)

    def forward(self, x: Any) -> Tensor:
        return self.feature_map(x).mean(2)

    def stages(self, x: Any, indices: Any, hidden: Any = None) -> Any:
        return self(x), []

    def tokens(self, x: Any, visible: Any = None, attend: Any = None, prefix: bool = False) -> Tensor:
        return self.feature_map(x).transpose(1, 2)


@pytest.mark.parametrize("encoder", [build("vit_tiny_patch16_224"), Transposing()])
def test_passes_are_counted_by_sample_in_every_method(encoder: Encoder) -> None:
    task = Passing(encoder, None, None)
    x: Any = images() if isinstance(encoder, TimmEncoder) else (torch.zeros(3, 7, 4), torch.ones(3))
    names = set(vars(encoder))
    with count_passes(task) as passes:
        task.loss((x,))
    assert passes.samples == 5 * 3
    task.loss((x,))
    assert passes.samples == 5 * 3
    assert set(vars(encoder)) == names


class InParts(Transposing):
    """An encoder that tasks also call in two parts, the second of which is a pass."""

    passing_methods = ("second",)

    def first(self, x: Any) -> Any:
        return (2 * x[0], x[1])

    def second(self, x: Any) -> Tensor:
        return self(x)


def test_further_methods_that_an_encoder_names_are_passes_too() -> None:
    encoder, x = InParts(), (torch.zeros(3, 7, 4), torch.ones(3))
    task = Passing(encoder, None, None)
    names = set(vars(encoder))
    with count_passes(task) as passes:
        encoder.second(encoder.first(x))
    assert passes.samples == 3
    assert set(vars(encoder)) == names


def test_an_attribute_with_the_name_of_a_method_is_refused() -> None:
    class Shadowing(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.stages = torch.nn.ModuleList()

        def forward(self, x: Tensor) -> Tensor:
            return x

        def feature_map(
            self, x: Tensor, hidden: Tensor | None = None, token: Tensor | None = None
        ) -> Tensor:
            return x

    with pytest.raises(AttributeError, match="stages is a method of Encoder; choose another name"):
        Shadowing()
