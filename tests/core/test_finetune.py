"""Fine-tuning trains a copy of the whole network, and leaves the network itself as it was."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.evaluation import Subject, score
from ssl_zoo.evaluation.finetune import LAYER_DECAY, WEIGHT_DECAY, Classifier, finetune, groups
from ssl_zoo.runs.build import build_data
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Encoder
from tests.conftest import small_config

CPU = torch.device("cpu")
DEVICE = Device(CPU, "fp32", channels_last=True)


@pytest.fixture(name="data", scope="module")
def some_digits() -> DataSet:
    whole = build_data(small_config("simclr"), CPU)
    assert isinstance(whole.train, ArraySplit)
    few = whole.train.subset(torch.arange(300))
    return DataSet("digits", whole.spec, few, whole.test, few)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_zoo.evaluation.finetune.EPOCHS", 4)
    monkeypatch.setattr("ssl_zoo.evaluation.finetune.MIN_STEPS", 60)


def encoder(name: str, data: DataSet) -> Encoder:
    return build_encoder(BackboneConfig(name=name), data.spec, seed=0)


def test_the_whole_copy_learns_and_the_network_stays(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = encoder("test_resnet", data)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    subject = Subject.of_encoder(network, data, DEVICE, "it")
    models: list[Classifier] = []
    monkeypatch.setattr(
        "ssl_zoo.evaluation.finetune.finetune", lambda s: models.append(finetune(s)) or models[-1]
    )
    frozen = score(subject, ["linear"])["linear"]
    tuned = score(subject, ["finetune"])["finetune"]
    assert tuned > max(50, frozen - 30)
    assert tuned == score(subject, ["finetune"])["finetune"]
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    (model,) = models[-1:]
    moved = [name for name, p in model.encoder.named_parameters() if not p.equal(before[name])]
    assert len(moved) == len(list(model.encoder.parameters()))


def test_the_raw_input_has_no_network_to_train(data: DataSet) -> None:
    raw = Subject.raw(data, DEVICE)
    assert raw is not None
    assert score(raw, ["finetune"]) == {}


def test_in_transformers_the_rate_falls_from_layer_to_layer(data: DataSet) -> None:
    model = Classifier(encoder("test_vit", data), 10)
    names = {id(p): name for name, p in model.named_parameters()}
    scales: dict[str, float] = {}
    for group in groups(model):
        parameters = group["params"]
        assert isinstance(parameters, list)
        scales |= {names[id(p)]: float(str(group.get("lr_scale", 1.0))) for p in parameters}
    assert scales.keys() == dict(model.named_parameters()).keys()
    blocks = [scales[f"encoder.model.blocks.{i}.attn.qkv.weight"] for i in range(6)]
    assert all(b == pytest.approx(a / LAYER_DECAY) for a, b in pairwise(blocks))
    assert scales["encoder.model.patch_embed.proj.weight"] == pytest.approx(blocks[0] * LAYER_DECAY)
    assert blocks[-1] <= scales["head.weight"]
    assert scales["head.weight"] == 1.0


def test_in_other_networks_it_is_the_same_everywhere_and_vectors_are_not_decayed(data: DataSet) -> None:
    model = Classifier(encoder("test_resnet", data), 10)
    given = groups(model)
    assert all(group["lr_scale"] == 1.0 for group in given)
    for group in given:
        parameters = group["params"]
        assert isinstance(parameters, list)
        decays = {0.0 if p.ndim < 2 else WEIGHT_DECAY for p in parameters}
        assert decays in ({group["weight_decay"]}, set())
