"""Trained on A, a classifier fitted to B predicts C: what is kept is what was scored."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_zoo
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import evaluate
from ssl_zoo.evaluation.classifier import KeptClassifier
from ssl_zoo.runs.run import Run
from ssl_zoo.tools.embed import embed
from tests.conftest import Call, small_config, train
from tests.core.pictures import broken, write

CPU = {"train.device": "cpu"}
COLOURS = {"blue": (40, 60, 190), "green": (30, 170, 50), "red": (200, 40, 30)}


def colours(folder: Path, n: int, *names: str, labelled: bool = True, seed: int = 0) -> Path:
    """Write noisy pictures of one colour each, which names their folder or is part of their name."""
    rng = np.random.default_rng(seed)
    for name in names or COLOURS:
        for number in range(n):
            noise = rng.normal(COLOURS[name], 40, (20, 20, 3)).clip(0, 255).astype(np.uint8)
            file = f"{name}/{number}.png" if labelled else f"{number}-{name}.png"
            write(folder / file, Image.fromarray(noise))
    return folder


@pytest.fixture(name="run", scope="module")
def run_with_a_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run on unlabelled pictures, and fit a classifier to labelled ones."""
    place = tmp_path_factory.mktemp("predict")
    a = colours(place / "a", 20, labelled=False, seed=1)
    config = small_config("simclr", data__source=str(a), train__batch_size=16, train__epochs=2)
    run = train(config, out=place / "run").path
    b = colours(place / "b", 30, seed=2)
    rows = evaluate(run, ["linear"], with_baselines=False, data=str(b), settings=CPU, keep=True)
    assert rows.classifier == run / "classifier.safetensors"
    assert rows["simclr"]["linear"] > 90
    return run


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_pre_train_on_a_classify_b_predict_c(run: Path, call: Call, tmp_path: Path) -> None:
    c = colours(tmp_path / "c", 8, labelled=False, seed=3)
    broken(c / "broken.png")
    code, out, err = call("predict", run, "--data", c, "-o", "predictions.csv")
    assert code == 0, err
    assert out.startswith("wrote predictions.csv: 24 samples: ")
    assert "left out 1 that cannot be read" in out
    assert "accuracy" not in out
    assert "c: 24 images: 24 in the train split, none in the test split; no labels" in err
    assert "mirror" not in err
    rows = read(Path("predictions.csv"))
    assert list(rows[0]) == ["name", "split", "class", "probability", "p_blue", "p_green", "p_red"]
    assert sorted(row["name"] for row in rows) == sorted(
        f"{number}-{name}.png" for name in COLOURS for number in range(8)
    )
    assert sum(row["class"] in row["name"] for row in rows) >= 22
    for row in rows:
        probabilities = {name: float(row[f"p_{name}"]) for name in COLOURS}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert row["class"] == max(probabilities, key=lambda name: probabilities[name])
        assert float(row["probability"]) == max(probabilities.values())


def test_the_kept_classifier_has_the_accuracy_that_was_printed(run: Path, tmp_path: Path) -> None:
    kept = KeptClassifier.load(run / "classifier.safetensors")
    (b,) = Run(run).results()["transfer"]
    assert kept.classes == ("blue", "green", "red")
    assert (kept.data, kept.protocol) == (b, "linear")
    assert kept.scores == Run(run).results()["transfer"][b]["simclr"]
    assert kept.spec["mean"] == list(Run(run).spec().mean)
    # On the data that it was fitted to, the test split alone counts.
    predicted = ssl_zoo.predict(run, b, tmp_path / "b.csv", settings=CPU)
    assert predicted.accuracy == pytest.approx(kept.scores["linear"])
    assert predicted.judged == sum(row["split"] == "test" for row in read(tmp_path / "b.csv")) < 90


def test_the_probabilities_are_those_of_the_files_tensors_on_embedded_features(
    run: Path, tmp_path: Path
) -> None:
    c = colours(tmp_path / "c", 3, seed=4)
    ssl_zoo.predict(run, str(c), tmp_path / "c.csv", settings=CPU)
    embed(run, str(c), tmp_path / "c.npz", "cpu")
    probabilities = {row["name"]: float(row["p_red"]) for row in read(tmp_path / "c.csv")}
    classifier = KeptClassifier.load(run / "classifier.safetensors").classifier
    with np.load(tmp_path / "c.npz") as rows:
        x = (torch.from_numpy(rows["features"]) - classifier.mean) / classifier.std
        expected = (x @ classifier.weight.T + classifier.bias).softmax(1)[:, 2]
        assert [probabilities[name] for name in rows["name"]] == pytest.approx(
            expected.tolist(), abs=1e-4
        )


def test_with_labels_the_accuracy_is_that_of_classes_by_name(
    run: Path, call: Call, tmp_path: Path
) -> None:
    # Other classes than those learnt, so their numbers differ.
    c = colours(tmp_path / "c", 6, "green", "red", seed=5)
    for number in range(2):
        write(c / "black" / f"{number}.png", Image.new("RGB", (20, 20)))
    code, out, err = call("--quiet", "predict", run, "--data", c, "-o", "c.csv")
    assert (code, err.partition(":")[0]) == (0, "warning")
    assert "accuracy on 12 of 14 labelled samples: " in out

    code, out, err = call("predict", run, "--data", c, "-o", "c.parquet", "--json")
    printed = json.loads(out)
    (text,) = (n["text"] for n in printed["notices"] if n["notice"] == "warning")
    assert text.startswith("2 samples of classes that the classifier has not learnt (black 2): each")
    assert (code, err) == (0, f"warning: {text}\n")
    assert (printed["samples"], printed["judged"], printed["unlearnt"]) == (14, 12, {"black": 2})
    assert printed["accuracy"] > 90
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra ssl-zoo[parquet] is missing")
    columns = parquet.read_table("c.parquet").to_pydict()
    assert set(columns["label"]) == {"black", "green", "red"}
    assert columns["label"] == [name.split("/")[0] for name in columns["name"]]


def test_data_without_class_names_has_numbers(tmp_path: Path) -> None:
    run = train(small_config("simclr", train__epochs=0.2), out=tmp_path / "run", protocol=()).path
    evaluate(run, ["knn", "linear"], with_baselines=False, settings=CPU, keep=True)
    predicted = ssl_zoo.predict(run, None, tmp_path / "p.csv", settings=CPU)
    assert predicted.samples == 1797
    assert predicted.accuracy == pytest.approx(Run(run).results()["scores"]["simclr"]["linear"])
    assert set(predicted.classes) <= set("0123456789")


# ---- what is refused


def complaint(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        ssl_zoo.predict(*arguments, **keywords)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_without_a_classifier_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a run", small_config("simclr")).path
    assert complaint(run, None, tmp_path / "p.csv") == (
        f"{run}/classifier.safetensors does not exist; make it with: "
        f"ssl-zoo eval '{run}' --data LABELLED --keep"
    )
    (run / "classifier.safetensors").write_bytes(b"broken")
    assert "is not a classifier of ssl-zoo" in complaint(run, None, tmp_path / "p.csv")
    assert "must end in .csv or .parquet" in complaint(run, None, tmp_path / "p.txt")
    assert not (tmp_path / "p.csv").exists()


def test_a_classifier_of_other_weights_is_refused(run: Path, tmp_path: Path) -> None:
    other = train(small_config("simclr", train__epochs=0.2), out=tmp_path / "run", protocol=()).path
    file = run / "classifier.safetensors"
    message = complaint(other, None, tmp_path / "p.csv", classifier=file, settings=CPU)
    assert message.startswith(f"{file} was fitted to other weights than {other} has now; make it again")
    assert message.endswith(f"ssl-zoo eval {other} --data {KeptClassifier.load(file).data} --keep")


def test_what_cannot_keep_a_classifier_is_refused_before_the_work(run: Path) -> None:
    with pytest.raises(UserError, match=r"--keep: --protocol knn has no classifier to keep; add linear"):
        evaluate(run, ["knn"], keep=True)
    with pytest.raises(UserError, match=r"--keep: timm:resnet18 is not a run"):
        evaluate("timm:resnet18", ["linear"], keep=True)


def test_the_classifier_of_other_data_is_not_replaced_without_a_word(
    run: Path, call: Call, tmp_path: Path
) -> None:
    before = (run / "classifier.safetensors").read_bytes()
    old = KeptClassifier.load(run / "classifier.safetensors").data
    d = colours(tmp_path / "d", 8, "green", "red", seed=6)
    try:
        code, out, err = call("eval", run, "--protocol", "linear", "--data", d, "--keep")
        assert code == 0, err
        assert f"the classifier of {old} will be replaced by that of {d}" in err
        assert out.splitlines()[-2:] == [
            f"classifier: {run}/classifier.safetensors",
            f"  ssl-zoo predict {run} --data DATA -o predictions.csv",
        ]
    finally:
        (run / "classifier.safetensors").write_bytes(before)
