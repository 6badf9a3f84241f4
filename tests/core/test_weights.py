"""Every weight of a file is loaded, converted with a notice, or refused: nothing is left random."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.load import load_config, load_encoder_config
from ssl_zoo.config.schema import BackboneConfig, RunConfig
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import evaluate
from ssl_zoo.notices import collect_notices
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import ImageSpec
from tests.conftest import Call, small_config, train
from tests.core.pictures import photo, write

RESNET: dict[str, Any] = {"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1]}
VIT: dict[str, Any] = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}

BRIEF: dict[str, Any] = {"train__epochs": None, "train__samples": 384}
FP32 = {"train.device": "cpu", "train.precision": "fp32"}

State = dict[str, Tensor]


def spec(size: int = 32, channels: int = 3) -> ImageSpec:
    return ImageSpec(channels=channels, size=size, mean=(0.5,) * channels, std=(0.25,) * channels)


def images(size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))


def source(name: str = "resnet18", classes: int = 10, **options: Any) -> nn.Module:
    """Return a timm model with a classifier, as another tool has trained it."""
    torch.manual_seed(1)
    options = {**(VIT | {"img_size": 32} if name.startswith("vit") else RESNET), **options}
    model = timm.create_model(name, num_classes=classes, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
    return model.eval()  # type: ignore[no-any-return]


def build(
    file: Path, name: str = "resnet18", size: int = 32, channels: int = 3, **settings: Any
) -> TimmEncoder:
    options = {**(VIT if name.startswith("vit") else RESNET), **settings.pop("options", {})}
    settings = {"stem": "original", "weights": str(file), "options": options, **settings}
    return create_backbone(BackboneConfig(name=name, **settings), spec(size, channels)).eval()


def features(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.forward_head(model.forward_features(x), pre_logits=True)  # type: ignore[operator,no-any-return]


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def body(state: State) -> State:
    """Return a state without the classifier."""
    return {name: t for name, t in state.items() if not name.startswith(("fc.", "head."))}


def other(state: State) -> State:
    """Return another network's weights under the same names."""
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def mlp(prefix: str) -> State:
    return {f"{prefix}.0.weight": torch.ones(4, 4), f"{prefix}.2.bias": torch.ones(4)}


def numbered(state: State) -> State:
    """Return the names as in ``torch.nn.Sequential(*list(resnet.children())[:-1])``."""
    order = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"]
    return {
        f"{order.index(name.partition('.')[0])}.{name.partition('.')[2]}": tensor
        for name, tensor in state.items()
    }


FILES: dict[str, tuple[str, Callable[[State], Any]]] = {
    "torchvision": ("resnet18", lambda s: s),
    "timm train": ("resnet18", lambda s: {"state_dict": other(s), "state_dict_ema": s, "epoch": 3}),
    "DataParallel": ("resnet18", lambda s: {"model": under("module.", s)}),
    "torch.compile": ("resnet18", lambda s: under("_orig_mod.", s)),
    "MoCo v2": (
        "resnet18",
        lambda s: {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": {
                **under("module.encoder_k.", {**other(body(s)), **mlp("fc")}),
                **under("module.encoder_q.", {**body(s), **mlp("fc")}),
                "module.queue": torch.ones(4, 8),
                "module.queue_ptr": torch.zeros(1),
            },
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 1}]},
        },
    ),
    "MoCo v3": (
        "vit_tiny_patch16_224",
        lambda s: {
            "state_dict": {
                **under("module.momentum_encoder.", {**other(body(s)), **mlp("head")}),
                **under("module.base_encoder.", {**body(s), **mlp("head")}),
                **mlp("module.predictor"),
            }
        },
    ),
    "SimSiam": (
        "resnet18",
        lambda s: {
            "state_dict": {
                **under("module.encoder.", {**body(s), **mlp("fc")}),
                **mlp("module.predictor"),
            }
        },
    ),
    "SwAV": (
        "resnet18",
        lambda s: under(
            "module.",
            {**body(s), **mlp("projection_head"), "prototypes.weight": torch.ones(3, 3)},
        ),
    ),
    "DINO": (
        "vit_tiny_patch16_224",
        lambda s: {
            "student": under("module.backbone.", other(body(s))) | mlp("module.head.mlp"),
            "teacher": under("backbone.", body(s)) | mlp("head.mlp"),
            "args": argparse.Namespace(arch="vit_tiny"),
        },
    ),
    "MAE": (
        "vit_tiny_patch16_224",
        lambda s: {
            "model": {
                **body(s),
                "mask_token": torch.ones(1, 1, 4),
                "decoder_pos_embed": torch.ones(1, 2, 4),
                **mlp("decoder_blocks.0.mlp"),
                "decoder_pred.weight": torch.ones(4, 4),
            },
            "args": argparse.Namespace(lr=1.0),
        },
    ),
    "I-JEPA": (
        "vit_tiny_patch16_224",
        lambda s: {
            "encoder": under("module.", other(body(s))),
            "predictor": mlp("module.predictor_blocks"),
            "target_encoder": under("module.", body(s)),
        },
    ),
    "lightly": (
        "resnet18",
        lambda s: {
            "state_dict": {
                **under("backbone.", numbered(body(s))),
                **under("backbone_momentum.", numbered(other(body(s)))),
                **mlp("projection_head.layers"),
            },
            "pytorch-lightning_version": "2.4.0",
        },
    ),
    "lightly-train": (
        "vit_tiny_patch16_224",
        lambda s: {
            "state_dict": {
                **under("student_embedding_model.wrapped_model._model.", other(body(s))),
                **under("teacher_embedding_model.wrapped_model._model.", body(s)),
                **mlp("student_projection_head.layers"),
            }
        },
    ),
    "solo-learn": (
        "resnet18",
        lambda s: {
            "state_dict": {
                **under("momentum_backbone.", other(body(s))),
                **under("backbone.", body(s)),
                **mlp("projector"),
                "classifier.weight": torch.ones(4, 4),
                "queue": torch.ones(2, 2),
            }
        },
    ),
    "VISSL": (
        "resnet18",
        lambda s: {
            "classy_state_dict": {
                "base_model": {
                    "model": {
                        "trunk": under("_feature_blocks.", body(s)),
                        "heads": mlp("0.clf"),
                    }
                }
            }
        },
    ),
    "Lightning": ("resnet18", lambda s: {"state_dict": under("model.encoder.", s), "global_step": 5}),
    "DeepSpeed": ("resnet18", lambda s: {"state_dict": under("_forward_module.model.", s)}),
}
"""The files of known tools, made from the weights of a network: the tool, and the names in its file."""


@pytest.mark.parametrize("tool", FILES)
def test_the_checkpoint_of_a_known_tool_has_the_features_of_its_network(
    tool: str, tmp_path: Path
) -> None:
    name, wrap = FILES[tool]
    model = source(name)
    torch.save(wrap(model.state_dict()), tmp_path / "weights.pth")
    with collect_notices() as notices:
        encoder = build(tmp_path / "weights.pth", name)
    assert torch.equal(features(encoder.model, images()), features(model, images()))
    texts = " ".join(notice["text"] for notice in notices)
    assert (tool == "torchvision") != ("tensors are taken from '" in texts)
    if tool != "I-JEPA":
        assert " are not used: " in texts  # at least the classifier
    if tool == "MoCo v2":
        assert "78 tensors are taken from 'state_dict.module.encoder_q.'" in texts
        assert "it also holds state_dict.module.encoder_k." in texts
        assert "state_dict.module.encoder_q.fc (2)" in texts
        assert "… (" in texts


def clip(state: State) -> State:
    """Return timm's names of a vision transformer as OpenAI's CLIP has them."""
    names = {
        "blocks": "transformer.resblocks",
        "norm_pre": "ln_pre",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "norm": "ln_post",
        "qkv": "in_proj",
        "proj": "out_proj",
        "fc1": "c_fc",
        "fc2": "c_proj",
    }
    renamed = {}
    for name, tensor in state.items():
        new = ".".join(names.get(part, part) for part in name.split("."))
        renamed[new.replace("in_proj.", "in_proj_")] = tensor
    renamed["class_embedding"] = renamed.pop("cls_token")[0, 0]
    renamed["positional_embedding"] = renamed.pop("pos_embed")[0]
    renamed["conv1.weight"] = renamed.pop("patch_embed.out_proj.weight")
    return renamed


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_that_timm_converts_are_found_in_the_file_too(tmp_path: Path, prefix: str) -> None:
    name, file = "vit_tiny_patch16_224", tmp_path / "clip.pt"
    options = {"pre_norm": True, "norm_layer": "layernorm"}
    model = source(name, **options)
    state = under(f"{prefix}visual.", clip(body(model.state_dict())))
    torch.save({"state_dict": state, "optimizer": {"state": {0: torch.ones(3)}}}, file)
    with collect_notices() as notices:
        encoder = build(file, name, options=options)
    assert torch.equal(features(encoder.model, images()), features(model, images()))
    assert "names, such as " in " ".join(n["text"] for n in notices)


def test_the_other_encoder_of_a_file_can_be_chosen(tmp_path: Path) -> None:
    model, file = source("vit_tiny_patch16_224"), tmp_path / "dino.pth"
    state = body(model.state_dict())
    torch.save({"student": under("module.", state), "teacher": other(state)}, file)
    encoder = build(file, model_name := "vit_tiny_patch16_224", weights_prefix="student.module")
    assert torch.equal(features(encoder.model, images()), features(model, images()))
    with pytest.raises(UserError, match=r"under 'pupil\.'; they stand under 'student\.module\.'"):
        build(file, model_name, weights_prefix="pupil")


def test_a_file_without_layer4_is_refused_and_with_the_option_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, state = tmp_path / "partial.safetensors", source().state_dict()
    save_file({n: t for n, t in state.items() if not n.startswith("layer4")}, file)
    with pytest.raises(UserError) as error:
        build(file)
    message = str(error.value)
    assert "15 missing in the file: layer4.0.conv1.weight, " in message
    assert "--set backbone.strict=false" in message
    assert len(message.replace(str(file), "")) < 450
    build(file, strict=False)
    assert "layer4.0.conv1.weight" in caplog.text
    assert "stay random" in caplog.text


def test_names_that_the_network_lacks_and_other_shapes_are_refused(tmp_path: Path) -> None:
    state = source(layers=[1, 1, 1, 2]).state_dict()
    save_file(state, tmp_path / "deeper.safetensors")
    with pytest.raises(UserError, match=r"12 unknown to the network: layer4\.1\."):
        build(tmp_path / "deeper.safetensors")
    save_file(source(channels=[8, 16, 32, 48]).state_dict(), tmp_path / "narrow.safetensors")
    with pytest.raises(UserError, match=r"of another shape: layer4\.0\.bn1\.bias \[48\], not \[64\]"):
        build(tmp_path / "narrow.safetensors")


def test_the_file_of_another_network_is_refused_even_with_the_option(tmp_path: Path) -> None:
    torch.save({"model": source("vit_tiny_patch16_224").state_dict()}, tmp_path / "vit.pth")
    for strict in (True, False):
        with pytest.raises(UserError, match="holds another network than resnet18: 0 of its"):
            build(tmp_path / "vit.pth", strict=strict)


@pytest.mark.parametrize("content", [b"no weights", b""])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"backbone\.weights: .* cannot be read"):
            build(tmp_path / name)
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="holds no tensors"):
        build(tmp_path / "empty.pth")


@pytest.mark.parametrize("prefix", ["encoder_q.", "backbone."])
def test_pretrained_from_a_file_with_a_prefix_is_refused_not_scored_at_random(
    tmp_path: Path, prefix: str
) -> None:
    file = tmp_path / "moco.pth"
    torch.save(under(prefix, source().state_dict()), file)
    overlay = {**RESNET, "pretrained_cfg_overlay": {"file": str(file)}}
    config = BackboneConfig(name="resnet18", pretrained=True, options=overlay)
    with pytest.raises(UserError, match=r"missing in the file: conv1\.weight.*--from FILE"):
        create_backbone(config, spec())


def test_pretrained_from_a_file_without_layer4_is_refused(tmp_path: Path) -> None:
    file, state = tmp_path / "partial.pth", source().state_dict()
    torch.save({n: t for n, t in state.items() if not n.startswith("layer4")}, file)
    overlay = {**RESNET, "pretrained_cfg_overlay": {"file": str(file)}}
    config = BackboneConfig(name="resnet18", pretrained=True, options=overlay)
    with pytest.raises(UserError, match=r"missing in the file: layer4\.0\.conv1\.weight"):
        create_backbone(config, spec())


# ---- data that differ from those of the weights


def test_colour_weights_on_gray_images_are_converted_and_it_is_said(tmp_path: Path) -> None:
    file, model = tmp_path / "w.pth", source()
    torch.save(model.state_dict(), file)
    with collect_notices() as notices:
        encoder = build(file, channels=1)
    assert "conv1.weight from 3 to 1 channels" in " ".join(n["text"] for n in notices)
    gray = images(channels=1)
    seen = features(model, gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(features(encoder.model, gray), seen, atol=1e-4, rtol=1e-4)


def test_gray_weights_on_colour_images_see_their_mean_and_it_is_said(tmp_path: Path) -> None:
    file, model = tmp_path / "w.pth", source(in_chans=1)
    torch.save(model.state_dict(), file)
    with collect_notices() as notices:
        encoder = build(file)
    assert "conv1.weight from 1 to 3 channels" in " ".join(n["text"] for n in notices)
    seen = features(model, images().mean(1, keepdim=True))
    torch.testing.assert_close(features(encoder.model, images()), seen, atol=1e-4, rtol=1e-4)


def test_channels_that_cannot_be_converted_are_refused(tmp_path: Path) -> None:
    torch.save(source(in_chans=5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"conv1\.weight \[64, 5, 7, 7\], not \[64, 3, 7, 7\]"):
        build(tmp_path / "w.pth")


def test_position_embeddings_are_resampled_for_another_image_size_and_it_is_said(tmp_path: Path) -> None:
    name, file = "vit_tiny_patch16_224", tmp_path / "w.pth"
    torch.save({"model": source(name).state_dict()}, file)
    with collect_notices() as notices:
        encoder = build(file, name, size=48)
    assert "pos_embed from [1, 17, 32] to [1, 37, 32]" in " ".join(n["text"] for n in notices)
    assert encoder.model.pos_embed.shape == (1, 37, 32)


def test_a_small_stem_takes_small_kernels_as_they_are_and_shrinks_others_with_a_notice(
    tmp_path: Path,
) -> None:
    file, model = tmp_path / "w.pth", source()
    torch.save(model.state_dict(), file)
    with collect_notices() as notices:
        shrunk = build(file, stem="small").model.conv1.weight
    assert "made small" in " ".join(n["text"] for n in notices)
    kernel: Tensor = model.conv1.weight.detach()  # type: ignore[union-attr,assignment]
    torch.testing.assert_close(shrunk.sum((2, 3)), kernel.sum((2, 3)))
    state = model.state_dict()
    small = {**state, "conv1.weight": kernel[:, :, 2:5, 2:5].clone()}  # solo-learn on CIFAR
    torch.save(small, file)
    with collect_notices() as notices:
        taken = build(file, stem="small").model.conv1.weight
    assert torch.equal(taken, small["conv1.weight"])
    assert "made small" not in " ".join(n["text"] for n in notices)


# ---- own weights


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train the default network on the digits: gray, with the small stem."""
    config = small_config("simclr", backbone__name="resnet10_narrow", **BRIEF)
    return train(config, out=tmp_path_factory.mktemp("runs") / "own")


def rotation_from(path: Path, **settings: Any) -> RunConfig:
    """Return the settings of a brief run that starts from weights; they bring the network."""
    settings = {**BRIEF, **settings}
    return small_config("rotation", backbone__name=None, backbone__weights=str(path), **settings)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_run_of_the_default_network_starts_another_task(
    own: Run, tmp_path: Path, as_file: bool
) -> None:
    weights = own.backbone_file if as_file else own.path
    run = train(rotation_from(weights), out=tmp_path / "next")
    scores, before = run.results()["scores"], own.results()["scores"]
    assert scores["pretrained"]["knn"] == before["simclr"]["knn"]
    assert "random-init" not in scores


def test_a_file_of_weights_alone_scores_as_its_run(own: Run) -> None:
    rows = evaluate(own.path, ["knn"])
    alone = evaluate(own.backbone_file, ["knn"], settings=FP32)
    file = str(own.backbone_file)
    assert alone == {file: rows["simclr"], **{n: rows[n] for n in ("pixels", "random-init")}}


def test_the_stem_stays_as_it_was_for_larger_images_in_colour(own: Run, tmp_path: Path) -> None:
    for i in range(24):
        write(tmp_path / "photos" / str(i % 2) / f"{i}.png", photo(seed=i, size=(96, 96)))
    config = rotation_from(
        own.path,
        data__source=str(tmp_path / "photos"),
        data__image_size=96,
        train__batch_size=8,
        train__samples=16,
    )
    with collect_notices() as notices:
        run = train(config, out=tmp_path / "next")
    assert "conv1.weight from 1 to 3 channels" in " ".join(n["text"] for n in notices)
    assert run.config().backbone.stem_size == 16
    file, photos = str(run.backbone_file), str(tmp_path / "photos")
    alone = evaluate(file, ["knn"], data=photos, settings=FP32)
    assert alone[file]["knn"] == run.results()["scores"]["rotation"]["knn"]


def test_another_network_than_the_weights_own_is_refused_with_what_they_have(own: Run) -> None:
    for setting, value, theirs in [
        ("name", "resnet18", "resnet10_narrow"),
        ("stem", "original", "small"),
        ("stem_stride", 1, "2"),
        ("options", {"layers": [2, 2, 2, 2]}, r"\[1, 1, 1, 1\]"),
    ]:
        with pytest.raises(SettingError, match=f"--it: backbone.{setting}: .* which has .*{theirs}"):
            load_config(
                None,
                {
                    "task.name": "simclr",
                    "backbone.weights": str(own.path),
                    f"backbone.{setting}": value,
                },
                flags={f"backbone.{setting}": "--it"},
            )
    further = {"backbone.weights": str(own.path), "backbone.options": {"drop_path_rate": 0.1}}
    assert load_encoder_config(further).backbone.options == {"drop_path_rate": 0.1}


def test_weights_cannot_be_combined_with_pretrained(own: Run) -> None:
    settings = {"backbone.weights": str(own.path), "backbone.pretrained": True}
    with pytest.raises(SettingError, match=r"weights cannot be combined with pretrained"):
        load_encoder_config(settings)


def test_a_run_without_a_backbone_and_a_missing_file_are_refused_at_once(tmp_path: Path) -> None:
    reasons = {tmp_path: "give a run that has ended", tmp_path / "no.pth": "does not exist"}
    for path, reason in reasons.items():
        with pytest.raises(SettingError, match=rf"backbone\.weights: .*{reason}"):
            load_encoder_config({"backbone.weights": str(path)})


def test_a_run_is_resumed_and_evaluated_when_the_file_it_started_from_is_gone(
    own: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = shutil.copytree(own.path, tmp_path / "first")
    run = train(rotation_from(first), out=tmp_path / "next")
    scores = run.results()["scores"]
    shutil.rmtree(first)
    run.results_file.unlink()
    train(resume=run.path)
    again = run.results()["scores"]
    assert again["rotation"] == scores["rotation"]
    assert "pretrained" not in again
    assert "the row 'pretrained' is left out" in caplog.text
    assert evaluate(run.path, ["knn"])["rotation"]["knn"] == scores["rotation"]["knn"]


# ---- the command line


def test_eval_names_a_foreign_checkpoints_network_and_scores_it(
    call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "moco.pth.tar"
    torch.save({"state_dict": under("module.encoder_q.", source().state_dict())}, file)
    options = [f"--set=backbone.options.{k}={v}" for k, v in RESNET.items()]
    options += ["--image-size=16", "--device=cpu", "--precision=fp32", "--protocol=knn", "--json"]
    with collect_notices() as notices:
        code, out, err = call("eval", "timm:resnet18", "--from", file, *options)
    assert code == 0, err
    said = " ".join(n["text"] for n in notices)
    assert "78 tensors are taken from 'state_dict.module.encoder_q.'" in said
    assert "random weights" not in caplog.text
    rows = json.loads(out)["scores"]
    assert list(rows) == [f"timm:resnet18 ({file})", "pixels", "random-init"]
    _, out, _ = call("eval", "timm:resnet18", *options, "--quiet")
    untrained = json.loads(out)["scores"]
    assert list(untrained) == ["timm:resnet18 (untrained)", "pixels"]
    assert untrained["timm:resnet18 (untrained)"] == rows["random-init"]
    assert rows[f"timm:resnet18 ({file})"] != rows["random-init"]
    assert "timm:resnet18 is evaluated with random weights; --pretrained" in caplog.text
    code, _, err = call("eval", file)
    assert code == 2
    assert f"ssl-zoo eval timm:NAME --from {file}" in err


def test_all_tasks_of_a_comparison_start_from_the_weights(call: Call, own: Run, tmp_path: Path) -> None:
    weights = shutil.copytree(own.path, tmp_path / "first")
    settings = {"data.image_size": 16, "train.samples": 256, "train.batch_size": 128, **FP32}
    sets = [f"--set={name}={value}" for name, value in settings.items()]
    names = ["--tasks=rotation", "--baselines=random-init", "--seeds=1", "--protocol=knn"]
    code, out, err = call("compare", "--from", weights, *names, *sets, "--out", "sweep", "--json")
    assert code == 0, err
    for row in ("rotation", "pretrained", "random-init"):
        assert f'"{row}"' in out
    shutil.rmtree(weights)
    code, _, err = call("compare", "sweep")
    assert code == 0, err


PATCHY = """
import torch
from ssl_zoo import Encoder, hookimpl

class Patchy(Encoder):
    def __init__(self, config, spec):
        super().__init__()
        self.width = self.map_width = 8
        self.patches = torch.nn.Conv2d(spec.channels, 8, 4, stride=4)

    def forward(self, x):
        return self.feature_map(x).mean((2, 3))

    def feature_map(self, x):
        return self.patches(x).relu()

@hookimpl
def ssl_zoo_register_backbones():
    return {"patchy": Patchy}
"""


def test_the_backbone_of_a_plugin_starts_from_its_own_run_too(
    isolated_registry: None, tmp_path: Path
) -> None:
    (tmp_path / "patchy.py").write_text(PATCHY)
    registry.load_file(tmp_path / "patchy.py")
    first = train(small_config("simclr", backbone__name="patchy", **BRIEF), out=tmp_path / "first")
    run = train(rotation_from(first.path), out=tmp_path / "next")
    assert run.config().backbone.name == "patchy"
    scores = run.results()["scores"]
    assert scores["pretrained"]["knn"] == first.results()["scores"]["simclr"]["knn"]
