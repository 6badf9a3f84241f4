"""Unusual labels: every protocol gives finite figures or fails with one line."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Subject, known_protocols, score, unsupported_protocols, warnings
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import ImageSpec
from tests.conftest import Call, flags
from tests.core.pictures import CPU, write
from tests.core.sound_tasks import Convolutions

SPEC = ImageSpec(channels=1, size=16, mean=(0.5,), std=(0.25,))
PROTOCOLS = ("knn", "linear", "lowshot", "finetune", "dense", "health")
DEVICE = Device(CPU, "fp32", False)


def split(labels: Sequence[int] | int, same: bool = False) -> ArraySplit:
    """Return random images with these labels, or a number of images without labels."""
    count = labels if isinstance(labels, int) else len(labels)
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (1 if same else count, 1, 16, 16), generator=generator)
    known = None if isinstance(labels, int) else torch.tensor(labels)
    return ArraySplit(images.byte().expand(count, -1, -1, -1), known)


LABELS: dict[str, tuple[ArraySplit, ArraySplit | None]] = {
    "one class": (split([0] * 20), split([0] * 5)),
    "one class, and another in the test split": (split([0] * 20), split([0, 1, 1])),
    "one sample of a class": (split([*[0] * 19, 1]), split([0, 1, 0])),
    "one sample of each class": (split([0, 1]), split([0, 1])),
    "one sample of each of many classes": (split(range(30)), split(range(30))),
    "a class that the train split lacks": (split([0, 1] * 10), split([0, 1, 2, 2])),
    "a class that the test split lacks": (split([0, 1, 2] * 7), split([0, 1, 1])),
    "no class in common": (split([0, 1] * 10), split([2, 3])),
    "classes that nothing is of": (split([0, 99] * 10), split([99, 0, 7])),
    "999 to 1": (split([*[0] * 999, 1]), split([*[0] * 9, 1])),
    "a test split of one image": (split([0, 1] * 10), split([1])),
    "a test split of two images": (split([0, 1] * 10), split([1, 0])),
    "a test split of equal images": (split([0, 1] * 10), split([1, 0, 1], same=True)),
    "equal images": (split([0, 1] * 10, same=True), split([1, 0, 1], same=True)),
    "no test split": (split([0, 1] * 10), None),
    "no labels": (split(20), split(5)),
    "no labels, and a single image": (split(1), None),
    "labels in the train split alone": (split([0, 1] * 10), split(5)),
    "labels in the test split alone": (split(20), split([0, 1, 1])),
}


def refused(case: str, protocol: str) -> bool:
    """Return whether a protocol must refuse a case."""
    without_accuracy = ("one class", "one class, and another in the test split", "no test split")
    common = ("no class in common",)
    return protocol != "health" and (
        case in without_accuracy or "labels" in case or (protocol == "dense" and case in common)
    )


def trials() -> Iterator[Any]:
    """Yield every case under every protocol; the dense protocol is slow unless it refuses the labels."""
    for case in LABELS:
        for protocol in PROTOCOLS:
            long = protocol == "dense" and not refused(case, protocol)
            yield pytest.param(case, protocol, marks=[pytest.mark.slow] if long else [])


@pytest.mark.parametrize(("case", "protocol"), list(trials()))
def test_every_protocol_gives_finite_figures_or_one_line(
    case: str, protocol: str, tried: Counter[str]
) -> None:
    tried["odd labels under a protocol"] += 1
    bank, test = LABELS[case]
    data = DataSet("odd", SPEC, bank, test, bank)
    raw = Subject.raw(data, DEVICE)
    assert raw is not None
    for subject in (Subject.of_encoder(Convolutions(1, norm=True), data, DEVICE, "network"), raw):
        if refused(case, protocol):
            if subject is not raw or protocol not in ("finetune", "dense"):
                with pytest.raises(UserError) as error:
                    score(subject, [protocol])
                assert "\n" not in str(error.value)
            # A run chooses only protocols that its labels support.
            assert protocol == "dense" or unsupported_protocols([protocol], data)
            continue
        scores = score(subject, [protocol])
        assert scores or subject is raw
        assert all(map(math.isfinite, scores.values())), scores
        assert scores.keys() <= known_protocols()[protocol].metrics.keys()
        if test is not None and len(test) == 1:
            assert warnings(scores) == []


def errors(text: str) -> int:
    """Return the number of lines, without the warnings about the labels."""
    return len([line for line in text.splitlines() if not line.startswith("warning: ")])


@pytest.mark.parametrize(
    ("files", "figures"),
    [
        ({"train/a": 20, "train/b": 1, "test/a": 1}, ["knn", "alignment"]),
        ({"train/a": 20, "train/b": 20, "test/b": 1}, ["knn", "alignment"]),
        ({"train/a": 20, "train/b": 20, "test/b": 3, "test/c": 3}, ["rankme", "alignment"]),
        ({"a": 30, "b": 1}, ["knn", "rankme", "alignment"]),
        ({"a": 20}, ["rankme", "alignment"]),
        ({".": 20}, ["rankme", "alignment"]),
        ({".": 2}, ["alignment"]),
        ({"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2}, ["knn", "rankme", "alignment"]),
    ],
    ids=str,
)
def test_a_run_on_such_folders_ends_with_valid_results(
    files: dict[str, int],
    figures: list[str],
    tmp_path: Path,
    call: Call,
    tried: Counter[str],
) -> None:
    tried["folders of odd classes"] += 1
    colours = iter(range(0, 256, 3))
    for place, count in files.items():
        for i in range(count):
            write(
                tmp_path / "photos" / place / f"{i}.png", Image.new("RGB", (9, 9), (next(colours), i, 9))
            )
    batch = min(8, sum(count for place, count in files.items() if "test" not in place) - 1)
    arguments = flags("simclr", train__batch_size=max(2, batch), data__holdout=0.2)
    code, _, err = call("--quiet", "train", "--data", tmp_path / "photos", *arguments, "--out", "run")
    if "." in files and files["."] == 2:  # the single train image has no other to be contrasted with
        assert code == 2
        assert errors(err) == 1
        return
    assert code == 0, err

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in results.json")

    text = Path("run/results.json").read_text()
    scores = json.loads(text, parse_constant=refuse)["scores"]["simclr"]
    assert set(figures) <= scores.keys()
    assert ("knn" in scores) == ("knn" in figures)
    assert all(map(math.isfinite, scores.values()))
    code, _, err = call("--quiet", "eval", "run", "--protocol", "knn,linear,lowshot,health")
    assert code == (0 if "knn" in figures else 2)
    assert code == 0 or errors(err) == 1
    if "rankme" not in figures:
        assert call("report", "run")[0] == 0
    assert Run.open("run").results()["scores"]["simclr"].items() >= scores.items()
