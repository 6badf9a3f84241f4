"""Networks: padding, places, tokens, causality; those of transformers compute what they do there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ssl_zoo_audio.encoders.base import SoundEncoder
from ssl_zoo_audio.sound import Sound, pad_clips, standardise
from ssl_zoo_audio.spec import SoundSpec
from torch import Tensor

from ssl_zoo import Unsuitable, UserError
from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.config.schema import BackboneConfig

SPEC = SoundSpec(seconds=0.5)
OF_TRANSFORMERS = ["wav2vec2-mini", "hubert-mini", "data2vec-mini"]
ALL = ["mel-mini", "mel-gru", "mel-cnn", *OF_TRANSFORMERS]


def sounds(*lengths: int, seed: int = 0) -> Sound:
    generator = torch.Generator().manual_seed(seed)
    clips = [torch.randn(n, generator=generator) for n in lengths]
    return standardise(pad_clips(clips, max(lengths)))


def build(name: str, **options: Any) -> Any:
    small = {} if name in ("mel-gru", "mel-cnn") else {"layers": 2}
    config = BackboneConfig(name=name, options={"width": 32, **small, **options})
    encoder = build_encoder(config, SPEC, seed=0).eval()
    assert isinstance(encoder, SoundEncoder)
    return encoder


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_features_of_a_clip_depend_on_no_other(name: str) -> None:
    encoder, x = build(name), sounds(8000, 2500, 300, 7000)
    together = encoder(x)
    assert together.shape == (4, encoder.width)
    for row, n in enumerate(x.length.tolist()):
        alone = Sound(x.wave[row : row + 1, :n], x.length[row : row + 1])
        assert torch.allclose(encoder(alone)[0], together[row], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_places_are_as_many_as_is_said(name: str) -> None:
    encoder = build(name)
    for n in (100, 399, 400, 719, 720, 1999, 8000):
        x = sounds(n)
        local = encoder.local(x)
        (number,) = encoder.places(x.length).tolist()
        assert local.valid.shape == local.raw.shape[:2]
        assert number == local.valid.sum() == local.valid.shape[1]
        assert torch.equal(encoder.valid(x), local.valid)
        assert local.normed.shape[2] == encoder.local_width
        assert [y.shape for y in encoder.context(local)][-1] == (1, number, encoder.place_width)
    assert encoder.feature_map(x).shape == (1, encoder.place_width, number)
    pooled, (last,) = encoder.stages(x, [-1])
    assert torch.equal(pooled, encoder(x))
    assert torch.equal(last, encoder.feature_map(x))
    with pytest.raises(UserError, match="there is no layer 9"):
        encoder.stages(x, [9])


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
@torch.no_grad()
def test_places_are_counted_by_the_convolutions_not_by_their_stride(name: str) -> None:
    encoder = build(name)
    assert (encoder.hop, encoder.field) == (320, 400)
    assert encoder.places(torch.tensor([400, 719, 720, 16000])).tolist() == [1, 1, 2, 49]


@pytest.mark.parametrize("name", [name for name in ALL if name != "mel-cnn"])
@torch.no_grad()
def test_a_token_hides_what_a_place_had(name: str) -> None:
    encoder, x, y = build(name), sounds(8000), sounds(8000, seed=1)
    local, other = encoder.local(x), encoder.local(y)
    hidden = torch.zeros(local.valid.shape, dtype=torch.bool)
    hidden[:, 3:9] = True
    mixed = local._replace(normed=torch.where(hidden[..., None], other.normed, local.normed))
    token = torch.linspace(-1, 1, encoder.embed_width)  # norms would take a constant away
    shown = encoder.context(local)[-1]
    outputs = [encoder.context(part, hidden, token)[-1] for part in (local, mixed)]
    assert torch.equal(*outputs)
    assert not torch.allclose(outputs[0], shown)
    assert not torch.allclose(outputs[0], encoder.context(local, hidden, 2 * token)[-1])


def test_a_network_that_cannot_hide_says_which_can() -> None:
    encoder, x = build("mel-cnn"), sounds(8000)
    with pytest.raises(Unsuitable, match="--backbone mel-mini"):
        encoder.feature_map(x, torch.zeros(1, 12, dtype=torch.bool))


@pytest.mark.parametrize(("name", "options"), [("mel-gru", {}), ("mel-mini", {"causal": True})])
@torch.no_grad()
def test_causal_networks_see_no_later_places(name: str, options: dict[str, Any]) -> None:
    encoder, x = build(name, **options), sounds(8000)
    assert encoder.causal
    changed = Sound(x.wave.clone(), x.length)
    changed.wave[:, 5000:] = 0
    a, b = encoder.feature_map(x), encoder.feature_map(changed)
    first = int(encoder.places(torch.tensor(5000)))
    assert torch.allclose(a[..., :first], b[..., :first], atol=1e-6)
    assert not torch.allclose(a[..., first + 2], b[..., first + 2], atol=1e-3)


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
@pytest.mark.parametrize("config", [{}, {"do_stable_layer_norm": False}], ids=["default", "unstable"])
@torch.no_grad()
def test_outputs_are_those_of_transformers(name: str, config: dict[str, Any]) -> None:
    if config and name == "data2vec-mini":
        pytest.skip("it has no choice of where the norms stand")
    encoder, x = build(name, config=config), sounds(8000, 5000)
    model = encoder.exported_network
    assert type(model).__module__.startswith("transformers.")
    result = model(x.wave, attention_mask=x.valid().long(), output_hidden_states=True)
    layers, valid = encoder.context(encoder.local(x)), encoder.valid(x)
    if name == "data2vec-mini":  # theirs depends on padding
        valid[1] = False
    assert torch.allclose(layers[-1][valid], result.last_hidden_state[valid], atol=1e-5)
    assert torch.allclose(layers[0][valid], result.hidden_states[1][valid], atol=1e-5)


@torch.no_grad()
def test_padding_changes_the_features_of_data2vec_in_transformers_and_not_here() -> None:
    encoder, x = build("data2vec-mini"), sounds(8000, 5000)
    alone = Sound(x.wave[1:, :5000], x.length[1:])
    number = int(encoder.places(torch.tensor(5000)))
    ours, theirs = (
        [network(clips)[-1, :number] for clips in (x, alone)]
        for network in (
            lambda clips: encoder.context(encoder.local(clips))[-1],
            lambda clips: (
                encoder.exported_network(
                    clips.wave, attention_mask=clips.valid().long()
                ).last_hidden_state
            ),
        )
    )
    assert torch.allclose(*ours, atol=1e-5)
    assert torch.allclose(ours[1], theirs[1], atol=1e-5)
    assert (theirs[0] - theirs[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_pooled_layer_is_the_one_that_is_chosen() -> None:
    x = sounds(8000, 5000)
    encoder = build("mel-mini", layer=1, deviation=True)
    layer = encoder.context(encoder.local(x))[0]
    n = int(encoder.valid(x)[1].sum())
    expected: Tensor = torch.cat([layer[1, :n].mean(0), layer[1, :n].std(0, correction=0)])
    assert encoder.width == 64
    assert torch.allclose(encoder(x)[1], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mel-mini", {"layer": 3}, r"backbone\.options\.layer: there are 2 layers"),
        ("mel-mini", {"positions": "convolution", "causal": True}, "a convolution sees later places"),
        ("mel-mini", {"wdith": 3}, r"backbone\.options\.wdith.*width"),
        ("hubert-mini", {"config": {"feat_extract_norm": "group"}}, "depend on padding"),
        (
            "hubert-mini",
            {"config": {"hiden_dropout": 0.1}},
            r"config\.hiden_dropout: .*'hidden_dropout'",
        ),
        ("hubert-mini", {"config": {"conv_dim": 64}}, r"conv_dim: must be a list of 7 numbers.*\(64\)"),
        ("hubert-mini", {"heads": 5}, r"heads: must divide the width, 32 \(5\); give 2 or 4"),
        ("mel-mini", {"heads": 3}, r"heads: must divide the width, 32 \(3\); give 2 or 4"),
        (
            "hubert-mini",
            {"config": {"num_conv_pos_embedding_groups": 6}},
            r"num_conv_pos_embedding_groups: must divide the width",
        ),
        ("hubert-mini", {"config": {"hidden_act": "gellu"}}, "HubertConfig of transformers refuses it"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(name, **options)
    assert "\n" not in str(error.value)


def test_the_gradient_of_the_convolutions_is_scaled() -> None:
    encoder, x = build("wav2vec2-mini"), sounds(4000)
    gradients = []
    for factor in (1.0, 0.1):
        encoder.zero_grad()
        local = encoder.local(x, factor)
        local.normed[..., :5].square().sum().backward()
        first = next(encoder.model.feature_extractor.parameters()).grad
        norm = encoder.model.feature_projection.layer_norm.weight.grad
        gradients.append((first.clone(), norm.clone()))
    (plain, norm), (scaled, norm_too) = gradients
    assert plain.abs().sum() > 0
    assert torch.allclose(scaled, 0.1 * plain, atol=1e-4)
    assert torch.allclose(norm, norm_too, rtol=1e-4)


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    def gradients(recomputed: bool) -> list[Tensor | None]:
        encoder = build(name).train()
        if recomputed:
            encoder.checkpoint_gradients()
            assert encoder.model.encoder.layers[0].gradient_checkpointing
        encoder(sounds(8000, 2500)).square().sum().backward()
        return [parameter.grad for parameter in encoder.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-6, atol=1e-6)


def test_a_network_that_cannot_recompute_activations_is_refused() -> None:
    with pytest.raises(Unsuitable, match=r"^train.grad_checkpointing: MelCNN cannot recompute"):
        build("mel-cnn").checkpoint_gradients()
