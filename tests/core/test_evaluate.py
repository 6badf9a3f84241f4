"""kNN is the literal formula's, and evaluating changes nothing of what is evaluated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.data.order import sample_indices
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.evaluation import (
    Features,
    Subject,
    baselines,
    dry_run,
    evaluate,
    knn,
    known_protocols,
    score,
    standard_protocols,
    unsupported_protocols,
)
from ssl_zoo.evaluation.features import extract
from ssl_zoo.evaluation.knn import knn_accuracy
from ssl_zoo.runs.backbone import write_backbone
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runtime.device import Device
from ssl_zoo.training import train
from tests.conftest import SMALL, small_config
from tests.core.pictures import photo, write
from tests.memory import Largest

CPU = torch.device("cpu")
DEVICE = Device(CPU, "fp32", False)


def some(n: int = 120, m: int = 60, width: int = 5, classes: int = 4, seed: int = 0) -> Features:
    """Classes that overlap, so that neighbours disagree."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n + m,), generator=g)
    centres = torch.randn(classes, width, generator=g)
    x = centres[labels] + 1.2 * torch.randn(n + m, width, generator=g)
    return Features(x[:n], labels[:n], x[n:], labels[n:], classes)


def literal_knn(f: Features, k: int, temperature: float) -> float:
    """Wu et al. 2018, section 3.4, sample by sample in float64."""
    right = 0
    for query, label in zip(f.test.double(), f.test_labels.tolist(), strict=True):
        similarities = []
        for vector, its in zip(f.bank.double(), f.bank_labels.tolist(), strict=True):
            cosine = float(query @ vector) / (float(query.norm()) * float(vector.norm()))
            similarities.append((cosine, its))
        votes = [0.0] * f.classes
        for cosine, its in sorted(similarities, reverse=True)[:k]:
            votes[its] += math.exp(cosine / temperature)
        right += votes.index(max(votes)) == label
    return 100 * right / len(f.test)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (500, 0.07)])
def test_knn_is_the_papers_vote(k: int, temperature: float, seed: int) -> None:
    # 500 is more than the bank holds: then all of it votes.
    features = some(seed=seed)
    ours = knn_accuracy(features, k, temperature)
    assert ours == pytest.approx(literal_knn(features, k, temperature))
    assert 100 / features.classes < ours < 100


def scikit_learn(f: Features) -> float:
    """Return the accuracy of the same vote by scikit-learn, in percent."""
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    theirs.fit(f.bank.double().numpy(), f.bank_labels.numpy())
    return 100 * float(theirs.score(f.test.double().numpy(), f.test_labels.numpy()))


def test_knn_agrees_with_scikit_learn() -> None:
    features = some(n=400, m=300, seed=3)
    assert knn_accuracy(features) == pytest.approx(scikit_learn(features))


def test_knn_on_the_pixels_of_the_digits_agrees_with_scikit_learn() -> None:
    data = build_data(small_config("simclr"), CPU)
    raw = Subject.raw(data, DEVICE)
    assert raw is not None
    features = raw.features
    assert knn_accuracy(features) == pytest.approx(scikit_learn(features))
    assert knn_accuracy(features) > 95


@pytest.mark.parametrize("most", [1, 7 * 120, 60 * 120 - 1])
def test_in_parts_knn_is_that_of_the_whole(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features = some()
    whole = [knn_accuracy(features, k) for k in (1, 5, 20, 500)]
    monkeypatch.setattr(knn, "MAX_SIMILARITIES", most)
    assert [knn_accuracy(features, k) for k in (1, 5, 20, 500)] == whole


@pytest.mark.parametrize("bank", [50, 500, 5000, 50_000])
def test_knn_takes_no_more_memory_with_a_larger_bank(bank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 60_000
    monkeypatch.setattr(knn, "MAX_SIMILARITIES", most)
    # Neither the features themselves are larger than that, nor one row of similarities, or of votes.
    for classes in (4, 600):
        features = some(bank, m=2000, width=1, classes=classes)
        with Largest() as largest:
            knn_accuracy(features)
        assert most / 2 < largest.elements <= most


def test_knn_does_not_depend_on_the_length_of_vectors() -> None:
    features = some()
    longer = Features(
        features.bank * torch.rand(120, 1).add(0.1), features.bank_labels,
        features.test * 1e3, features.test_labels, features.classes,
    )  # fmt: skip
    assert knn_accuracy(longer) == knn_accuracy(features)


def test_a_small_temperature_does_not_overflow() -> None:
    assert knn_accuracy(some(), temperature=1e-6) == pytest.approx(knn_accuracy(some(), k=1))


def test_features_of_a_split_are_those_of_its_samples_in_order() -> None:
    split = ArraySplit(torch.arange(10).view(10, 1), None)
    assert extract(lambda b: b.half(), split, CPU, batch_size=4).equal(torch.arange(10.0).view(10, 1))


@pytest.fixture(name="data", scope="module")
def small_data() -> DataSet:
    whole = build_data(small_config("simclr"), CPU)
    train, test = (
        ArraySplit(s.batch(torch.arange(100)), s.labels[:100] if s.labels is not None else None)
        for s in (whole.train, whole.test or whole.train)
    )
    return DataSet("digits", whole.spec, train, test, train)


@pytest.mark.parametrize("raises", [False, True])
def test_evaluating_leaves_a_task_in_the_state_and_modes_it_was_in(
    data: DataSet, task_name: str, raises: bool
) -> None:
    task = build_task(small_config(task_name), data.spec).train()
    task.encoder.model.layer1.eval()  # as somebody who freezes a part has it
    if raises:
        task.features = lambda x: nn.Linear(3, 3)(x.flatten(1))  # type: ignore[method-assign]
    modes = [module.training for module in task.modules()]
    state = {name: value.clone() for name, value in task.state_dict().items()}
    randomness = torch.get_rng_state()
    if raises:
        with pytest.raises(RuntimeError):
            score(Subject.of_task(task, data, DEVICE), ["knn", "health"])
    else:
        first, second = (score(Subject.of_task(task, data, DEVICE), ["knn", "health"]) for _ in "ab")
        assert first == second
        dry_run(task, data, DEVICE)
        assert torch.get_rng_state().equal(randomness)
    assert [module.training for module in task.modules()] == modes
    assert all(value.equal(state[name]) for name, value in task.state_dict().items())
    assert all(p.grad is None for p in task.parameters())


def test_features_are_computed_in_evaluation_mode_without_gradients(data: DataSet) -> None:
    task = build_task(small_config("simclr"), data.spec).train()
    seen = set()
    real = task.features

    def watched(x: Tensor) -> Tensor:
        seen.add((task.training, torch.is_grad_enabled()))
        return real(x)

    task.features = watched  # type: ignore[method-assign]
    score(Subject.of_task(task, data, DEVICE), ["knn", "linear", "lowshot", "health"])
    dry_run(task, data, DEVICE)
    assert seen == {(False, False)}


@pytest.mark.parametrize("missing", ["test", "labels", "bank"])
@pytest.mark.parametrize("protocol", ["knn", "linear", "lowshot", "finetune"])
def test_where_there_are_no_labels_a_protocol_that_needs_them_says_so(
    data: DataSet, missing: str, protocol: str
) -> None:
    blank = ArraySplit(data.train.batch(torch.arange(100)), None)
    without = {
        "test": DataSet("x", data.spec, data.train, None, data.bank),
        "labels": DataSet("x", data.spec, data.train, blank, data.bank),
        "bank": DataSet("x", data.spec, data.train, data.test, blank),
    }[missing]
    task = build_task(small_config("simclr"), data.spec)
    assert list(unsupported_protocols([protocol, "health"], without)) == [protocol]
    assert unsupported_protocols([protocol, "health"], data) == {}
    with pytest.raises(UserError, match=r"x has no .*; this protocol needs two labelled"):
        score(Subject.of_task(task, without, DEVICE), [protocol])
    assert score(Subject.of_task(task, without, DEVICE), ["health"])["rankme"] >= 1


@pytest.mark.parametrize("protocol", ["knn", "linear", "lowshot", "finetune"])
def test_with_one_class_alone_no_accuracy_is_given(data: DataSet, protocol: str) -> None:
    same = ArraySplit(data.train.batch(torch.arange(100)), torch.zeros(100, dtype=torch.long))
    task = build_task(small_config("simclr"), data.spec)
    with pytest.raises(UserError, match=r"x has only one class \(0\), so accuracy means nothing"):
        score(Subject.of_task(task, DataSet("x", data.spec, same, same, same), DEVICE), [protocol])


@pytest.mark.parametrize("protocol", ["knn", "linear", "lowshot", "health"])
def test_features_that_are_not_finite_are_counted_and_refused(data: DataSet, protocol: str) -> None:
    task = build_task(small_config("simclr"), data.spec)

    def broken(x: Tensor) -> Tensor:
        features = torch.ones(len(x), 4)
        features[:2] = torch.nan
        return features

    task.features = broken  # type: ignore[method-assign]
    with pytest.raises(
        SslZooError, match="features of 2 of 100 samples are not finite; the network has"
    ):
        score(Subject.of_task(task, data, DEVICE), [protocol])


def test_a_sample_is_always_the_same_and_all_where_there_are_few() -> None:
    assert sample_indices(10, 10).equal(torch.arange(10))
    few = sample_indices(1000, 100)
    assert few.equal(sample_indices(1000, 100))
    assert few.equal(few.unique())
    assert len(few) == 100


def test_a_part_of_the_samples_is_evaluated_as_a_data_set_of_these_would_be(data: DataSet) -> None:
    task = build_task(small_config("simclr"), data.spec)
    part = Subject.of_task(task, data, DEVICE, limits=(60, 30)).features
    whole = Subject.of_task(task, data, DEVICE).features
    bank, test = sample_indices(100, 60), sample_indices(100, 30)
    torch.testing.assert_close(part.bank, whole.bank[bank])
    torch.testing.assert_close(part.test, whole.test[test])
    assert part.bank_labels.equal(whole.bank_labels[bank])
    assert part.test_labels.equal(whole.test_labels[test])


def test_a_network_that_did_not_start_at_random_is_not_called_so(data: DataSet, tmp_path: Path) -> None:
    untrained, file = small_config("simclr"), tmp_path / "backbone.safetensors"
    write_backbone(file, build_task(untrained, data.spec).encoder, untrained.backbone, data.spec)
    pretrained = small_config("simclr", backbone__weights=str(file))
    for config, name in ((untrained, "random-init"), (pretrained, "pretrained")):
        assert [s.name for s in baselines(config, data, DEVICE)] == ["pixels", name]


@pytest.fixture(name="run", scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("e") / "run"
    return train(small_config("simclr", train__epochs=0.3), out=out, protocol=["knn", "health"])


def test_evaluating_a_run_gives_its_own_scores_again_and_adds_to_its_results(run: Any) -> None:
    before = run.results()["scores"]
    rows = evaluate(run.path, ["knn", "health"])
    assert rows == before
    cpu = {"train.device": "cpu"}
    linear = evaluate(str(run.path), ["linear"], with_baselines=False, settings=cpu)
    assert list(linear) == ["simclr"]
    after = run.results()["scores"]
    assert after["simclr"] == {**before["simclr"], **linear["simclr"]}
    assert after["pixels"] == before["pixels"]


def test_without_names_the_standard_protocols_are_measured(run: Any) -> None:
    rows = evaluate(run.path, with_baselines=False)
    known = known_protocols()
    assert standard_protocols("image") == standard_protocols() == ["knn", "linear", "health"]
    assert {*rows["simclr"]} <= {m for name in standard_protocols() for m in known[name].metrics}
    assert {"knn", "linear", "rankme"} <= {*rows["simclr"]}


def test_an_unknown_protocol_is_named_with_those_that_there_are(run: Any) -> None:
    with pytest.raises(UserError) as caught:
        evaluate(run.path, ["knn", "linaer"])
    assert str(caught.value) == (
        "--protocol: there is no protocol 'linaer'. Did you mean 'linear'? "
        "There are: dense, finetune, finetune-few, health, knn, label-curve, linear, lowshot, "
        "pretext"
    )


def test_a_run_is_transferred_to_other_data_and_its_own_scores_stay(run: Any, tmp_path: Path) -> None:
    before = run.results()["scores"]
    folder = tmp_path / "other"
    for kind in "abc":
        for i in range(12):
            write(folder / kind / f"{i}.png", photo((40, 40 + i), seed=ord(kind)))
    rows = evaluate(run.path, ["knn"], data=str(folder), settings={"train.device": "cpu"})
    assert list(rows) == ["simclr", "pixels", "random-init"]
    after = run.results()
    assert after["scores"] == before
    assert after["transfer"] == {str(folder): rows}


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"backbone.name": "resnet18"}, "backbone.name"), ({"train.lr": 1.0}, "train.lr"),
     ({"data.image_size": 32}, "data.image_size")],
)  # fmt: skip
def test_a_run_keeps_the_settings_that_made_it(run: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"{named}: cannot be changed for an existing run"):
        evaluate(run.path, ["knn"], settings=settings)


def test_any_timm_model_is_evaluated_beside_the_raw_input(run: Any) -> None:
    network = ("backbone.options.channels", "backbone.stem_stride")
    same = (*network, "data.image_size", "train.precision", "train.device")
    settings = {name: SMALL[name] for name in same}
    rows = evaluate("timm:test_resnet", ["knn", "health"], data="digits", settings=settings)
    assert list(rows) == ["timm:test_resnet (untrained)", "pixels"]
    # The network before training is the same one that a run begins with.
    assert rows["timm:test_resnet (untrained)"] == pytest.approx(run.results()["scores"]["random-init"])
    assert rows["pixels"] == run.results()["scores"]["pixels"]
    other = evaluate("timm:test_resnet", ["knn"], data="digits", settings={**settings, "train.seed": 1})
    assert other["timm:test_resnet (untrained)"]["knn"] != rows["timm:test_resnet (untrained)"]["knn"]


def test_a_model_that_timm_has_not_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="timm has no model 'resnet81'"):
        evaluate("timm:resnet81", ["knn"])
