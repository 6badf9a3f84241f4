"""Two processes that share an evaluation give the figures of one, and hold their shares of the bank."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.data import DataSet
from ssl_zoo.errors import FailedElsewhere, SslZooError, UserError
from ssl_zoo.evaluation import Metric, Protocol, Scores, Subject, finetune, health, knn, score, shares
from ssl_zoo.evaluation.features import Features
from ssl_zoo.evaluation.finetune import FINETUNE_FEW
from ssl_zoo.evaluation.health import HEALTH, deviation, rankme
from ssl_zoo.evaluation.knn import KNN, knn_predictions, nearest
from ssl_zoo.evaluation.linear import LINEAR, Axes, fit_linear
from ssl_zoo.evaluation.reading import standard_correctness
from ssl_zoo.nn import spread
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.eval_batch import EvalBatch
from ssl_zoo.testing.rank_server import server
from tests.conftest import small_config, ssl_zoo, train
from tests.core.test_distributed import joined
from tests.memory import Largest

BATCH = 64
"""The samples of a batch: 23 of the bank, 6 of the test split."""
CONFIG = small_config("simclr")
STANDARD = ("knn", "linear", "health")


def digits() -> DataSet:
    return build_data(CONFIG, torch.device("cpu"))


def trained_alike(data: DataSet, limits: tuple[int, int] | None = None) -> Subject:
    """Return a network, the same in each process, with synchronised batch norms as in training."""
    task = build_task(CONFIG, data.spec)
    if distributed.world_size() > 1:
        distributed.sync_batchnorm(task)
    device = Device(torch.device("cpu"), "fp32", False, eval_batch=EvalBatch(BATCH))
    return Subject.of_task(task, data, device, limits=limits)


def measure_as_alone(subject: Subject) -> Scores:
    """Return figures as a plugin's protocol does, which knows nothing of processes."""
    covariance = subject.test.T.cov()
    axes = Axes.of(subject.features.bank)
    brightness = subject.extract(subject.data.bank, None, lambda x: x.float().mean((1, 2, 3))[:, None])
    return {
        "trace": float(covariance.trace()),
        "variance": float(axes.variance.max()),
        "brightness": float(brightness.double().sum()),
        "processes": float(distributed.world_size()),
    }


AS_ALONE = Protocol(
    measure_as_alone, {n: Metric(n, n) for n in ("trace", "variance", "brightness", "processes")}
)


def evaluation() -> dict[str, Any]:
    """Return features, predictions and scores, by the processes that there are."""
    data = digits()
    subject, online = trained_alike(data), trained_alike(data, (300, 100))
    features = subject.features
    results: dict[str, Any] = {"bank": features.bank, "test": features.test}
    results |= {"bank labels": features.bank_labels, "test labels": features.test_labels}
    results["correct"] = {n: c.correct for n, c in standard_correctness(subject, STANDARD).items()}
    results["scores"] = score(subject, STANDARD)
    results["online"] = score(online, ["knn"])
    results["as alone"] = AS_ALONE(subject)
    return results | {"share": (len(subject.share.bank), len(subject.share.test))}


def evaluate(folder: Path, rank: int) -> None:
    """Save the evaluation of a rank."""
    with joined(folder, rank):
        torch.save(evaluation(), folder / f"evaluation-{rank}.pt")


def test_two_processes_have_the_features_the_predictions_and_the_scores_of_one(tmp_path: Path) -> None:
    assert server.run(evaluate, tmp_path) is None, (tmp_path / "output-0").read_text()
    one = evaluation()
    two = [torch.load(tmp_path / f"evaluation-{rank}.pt", weights_only=False) for rank in (0, 1)]
    for results in two:
        for name in ("bank", "test", "bank labels", "test labels"):
            assert results[name].equal(one[name]), name
        assert results["online"] == one["online"]
        assert results["correct"]["knn"].equal(one["correct"]["knn"])
        # Sums are taken in another order, and L-BFGS stops before its steps are as small as rounding.
        assert int((results["correct"]["linear"] != one["correct"]["linear"]).sum()) <= 1
        for name, value in one["scores"].items():
            rounding = {"abs": 100 / 359} if name == "linear" else {"rel": 1e-6}
            assert results["scores"][name] == pytest.approx(value, **rounding), name
        assert results["as alone"] == one["as alone"]
        assert results["as alone"]["processes"] == 1
    # Whole batches: 11 and 12 of the bank's 23, the last of 30 samples; 3 and 3 of the test split.
    assert [results["share"] for results in two] == [(11 * BATCH, 3 * BATCH), (11 * BATCH + 30, 167)]
    assert one["share"] == (1438, 359)


def some(classes: int = 4) -> Features:
    """Return features on a grid so coarse that many samples are equally near, and some equal."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-1, 2, (150, 3), generator=g).float()
    labels = torch.randint(classes, (150,), generator=g)
    return Features(x[:110], labels[:110], x[110:], labels[110:], classes)


def literal_knn(f: Features, k: int) -> list[int]:
    """Wu et al. 2018, section 3.4, sample by sample; of equally near samples the first are taken."""
    predicted = []
    for query in f.test.tolist():
        similarities = []
        for i, vector in enumerate(f.bank.tolist()):
            dot = sum(a * b for a, b in zip(query, vector, strict=True))
            lengths = sum(a * a for a in query) * sum(b * b for b in vector)
            similarities.append((-round(dot / math.sqrt(lengths), 6) if lengths else 0.0, i))
        votes = [0.0] * f.classes
        for similarity, i in sorted(similarities)[:k]:
            votes[int(f.bank_labels[i])] += math.exp(-similarity / 0.07)
        predicted.append(max(range(f.classes), key=lambda c: round(votes[c], 3)))
    return predicted


@pytest.mark.parametrize("k", [1, 5, 20])
def test_of_equally_near_samples_those_of_lower_index_vote(k: int) -> None:
    features = some()
    assert knn_predictions(features, k).tolist() == literal_knn(features, k)


def test_the_nearest_are_those_of_a_stable_sort() -> None:
    similarity = torch.randint(4, (50, 30), generator=torch.Generator().manual_seed(0)).float()
    for k in (1, 7, 30, 40):
        values, index = nearest(similarity, k)
        expected = similarity.sort(dim=1, descending=True, stable=True)
        assert values.equal(expected.values[:, :k])
        assert index.equal(expected.indices[:, :k])


def in_shares(cut: int, queries: int) -> dict[str, Any]:
    """Return figures of shares that are cut anywhere; the first process has all of it alone."""
    f = some()
    own = Features(f.bank, f.bank_labels, f.test, f.test_labels, f.classes)
    if distributed.world_size() > 1:
        bank, test = (slice(0, n) if distributed.rank() == 0 else slice(n, None) for n in (cut, queries))
        own = Features(f.bank[bank], f.bank_labels[bank], f.test[test], f.test_labels[test], f.classes)
    axes, weight = fit_linear(own)
    few = Axes.of(own.test.repeat(1, 40))  # fewer samples than features
    return {
        **{f"knn {k}": shares.gather(knn_predictions(own, k)) for k in (1, 5, 20, 500)},
        "std": axes.std,
        "variance": axes.variance,
        "linear": weight[:, :-1] @ axes.basis.T,
        "few": few.variance,
        "rankme": torch.tensor([rankme(own.bank), rankme(own.bank.repeat(1, 40))]),
        "spread": torch.tensor(deviation(own.bank)),
    }


CUTS = ((60, 20), (3, 40), (110, 0), (0, 1))
"""The rows of the first of two processes; the other has the rest, also where that is nothing."""


def work_in_shares(folder: Path, rank: int) -> None:
    """Save the figures of a rank, with the queries in blocks of a few."""
    knn.MAX_SIMILARITIES = 1000
    with joined(folder, rank):
        torch.save([in_shares(*cut) for cut in CUTS], folder / f"figures-{rank}.pt")


def test_knn_linear_and_health_do_not_depend_on_where_shares_are_cut(tmp_path: Path) -> None:
    assert server.run(work_in_shares, tmp_path) is None, (tmp_path / "output-0").read_text()
    one = in_shares(*CUTS[0])
    torch.testing.assert_close(one["spread"], spread(some().bank))
    for rank in (0, 1):
        for two in torch.load(tmp_path / f"figures-{rank}.pt", weights_only=True):
            for name, expected in one.items():
                exact = (
                    {"rtol": 0, "atol": 0} if name.startswith("knn") else {"rtol": 1e-3, "atol": 1e-4}
                )
                torch.testing.assert_close(two[name], expected, **exact, msg=name)


def failing(number: int) -> Subject:
    """Return a subject one of whose samples, the last of the bank, makes features fail."""
    data = digits()
    last = data.bank.batch(torch.tensor([len(data.bank) - 1]))

    def embed(x: Tensor) -> Tensor:
        features = x.flatten(1)
        if number < 2 and (data.spec.prepare(last) == x).flatten(1).all(1).any():
            if number == 0:
                raise UserError("data.source: the last file cannot be read; remove it")
            features = features / 0
        return features

    return Subject("x", data, Device(torch.device("cpu"), "fp32", False), embed, module=nn.Identity())


def fail(folder: Path, rank: int) -> None:
    """Save the errors of a rank, all of which the other causes, or none."""
    lines = []
    with joined(folder, rank):
        for number in (0, 1):
            try:
                KNN(failing(number))
            except SslZooError as error:
                lines.append([type(error).__name__, str(error), error.exit_code])
        # Both are still in step.
        lines.append(shares.gather(torch.tensor([rank])).tolist())
    torch.save(lines, folder / f"errors-{rank}.pt")


def test_an_error_in_one_process_ends_both_with_its_message(tmp_path: Path) -> None:
    assert server.run(fail, tmp_path) is None, (tmp_path / "output-0").read_text()
    first, second = (torch.load(tmp_path / f"errors-{rank}.pt", weights_only=True) for rank in (0, 1))
    message = "data.source: the last file cannot be read; remove it"
    assert first[0] == ["FailedElsewhere", message, UserError.exit_code]
    assert second[0] == ["UserError", message, UserError.exit_code]
    assert first[1][0] == FailedElsewhere.__name__
    assert second[1][0] == SslZooError.__name__
    assert first[1][1] == second[1][1]
    assert "are not finite" in first[1][1]
    assert first[2] == second[2] == [0, 1]


def measure_memory(folder: Path, rank: int) -> None:
    """Save the largest tensor of kNN, the linear probe and health in a rank."""
    knn.MAX_SIMILARITIES, health.MAX_PAIRED = 20_000, 100
    with joined(folder, rank):
        task = trained_alike(data := digits())
        data = replace(data, test=data.train)  # so that health sees as many

        def wide(x: Tensor) -> Tensor:
            return task.embed(x).repeat(1, 12)

        subject = Subject("wide", data, task.device, wide, module=task.module, limits=(600, 600))
        shape = subject.share.bank.shape  # the maps of the network are larger
        with Largest() as largest:
            for protocol in (KNN, LINEAR, HEALTH):
                protocol(subject)
        torch.save([largest.elements, *shape], folder / f"memory-{rank}.pt")


def test_no_process_holds_the_features_of_all_samples(tmp_path: Path) -> None:
    assert server.run(measure_memory, tmp_path) is None, (tmp_path / "output-0").read_text()
    for rank in (0, 1):
        largest, rows, width = torch.load(tmp_path / f"memory-{rank}.pt", weights_only=True)
        assert rows in (5 * BATCH, 600 - 5 * BATCH)
        assert largest == rows * width


STEPS = 10
"""The steps of fine-tuning, in place of 200."""


def finetune_in_two(folder: Path, rank: int) -> None:
    """Save the accuracy of fine-tuning in a rank."""
    finetune.EPOCHS = finetune.MIN_STEPS = STEPS
    with joined(folder, rank):
        torch.save(dict(FINETUNE_FEW(trained_alike(digits()))), folder / f"finetune-{rank}.pt")


def test_each_process_fine_tunes_the_network_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.run(finetune_in_two, tmp_path) is None, (tmp_path / "output-0").read_text()
    monkeypatch.setattr(finetune, "EPOCHS", STEPS)
    monkeypatch.setattr(finetune, "MIN_STEPS", STEPS)
    expected = FINETUNE_FEW(trained_alike(digits()))
    for rank in (0, 1):
        assert torch.load(tmp_path / f"finetune-{rank}.pt", weights_only=True) == expected


BROKEN = """
import os
from ssl_zoo import UserError, hookimpl
from ssl_zoo.evaluation import Metric, Protocol

def measure(subject):
    def brightness(x):
        if os.environ["RANK"] == "1":
            raise UserError("data.source: x.png cannot be read; remove it")
        return x.float().flatten(1).mean(1, keepdim=True)

    return {"bright": float(subject.extract(subject.data.train, None, brightness).mean())}

@hookimpl
def ssl_zoo_register_protocols():
    return {"bright": Protocol(measure, {"bright": Metric("bright", "brightness")}, labels=False)}
"""
"""A protocol that fails in the second process alone."""


def test_eval_in_two_processes_prints_the_scores_of_one_and_one_line_of_an_error(tmp_path: Path) -> None:
    settings = {"train__eval_batch_size": BATCH}
    run = train(small_config("simclr", **settings), out=tmp_path / "run", protocol=["knn", "health"])
    before = run.results()["scores"]
    command = ("eval", run.path, "--devices", "2", "--json")
    done = ssl_zoo(*command, "--protocol", "knn,health", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    for scores in (json.loads(done.stdout)["scores"], run.results()["scores"]):
        assert scores.keys() == before.keys()
        for row, values in before.items():
            assert scores[row]["knn"] == values["knn"]
            assert scores[row] == pytest.approx(values, rel=1e-6)
    (tmp_path / "bright.py").write_text(BROKEN)
    broken = ssl_zoo(
        *command, "--protocol", "bright", "--plugin", tmp_path / "bright.py", OMP_NUM_THREADS="1"
    )
    assert broken.returncode == UserError.exit_code
    assert broken.stderr == "error: data.source: x.png cannot be read; remove it\n"
