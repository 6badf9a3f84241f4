"""Fine-tuning trains a copy of the whole network, and leaves the network itself as it was."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.evaluation import Subject, score
from ssl_zoo.evaluation.finetune import LAYER_DECAY, WEIGHT_DECAY, Classifier, finetune, groups
from ssl_zoo.evaluation.lowshot import FEW, draw
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


@pytest.mark.parametrize("protocol", ["finetune", "finetune-few"])
def test_the_raw_input_has_no_network_to_train(data: DataSet, protocol: str) -> None:
    raw = Subject.raw(data, DEVICE)
    assert raw is not None
    assert score(raw, [protocol]) == {}


def test_with_few_labels_the_others_are_not_looked_at(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_zoo.evaluation.finetune.MIN_STEPS", 20)
    bank = data.bank
    assert isinstance(bank, ArraySplit)
    known = draw(bank.labels, FEW["lowshot_1pct"][1], seed=0)
    assert len(known) == 10  # 1 % of 30 images of each class is less than one
    others = torch.ones(len(bank), dtype=torch.bool).index_fill_(0, known, False)
    wrong = torch.where(others, (bank.labels + 1) % 10, bank.labels)
    mislabelled = replace(data, bank=ArraySplit(bank.samples, wrong))
    models = [
        finetune(Subject.of_encoder(encoder("test_resnet", data), d, DEVICE, "it"), known)
        for d in (data, mislabelled)
    ]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert one.equal(other)


def test_one_percent_of_the_labels_are_better_than_none_and_worse_than_all(data: DataSet) -> None:
    subject = Subject.of_encoder(encoder("test_resnet", data), data, DEVICE, "it")
    scores = score(subject, ["finetune", "finetune-few"])
    assert 20 < scores["finetune_1pct"] < scores["finetune"]


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
