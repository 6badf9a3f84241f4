"""Files of runs of another modality, or of a plugin's backbone: written, and read again."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssl_zoo
from ssl_zoo import UserError, registry
from ssl_zoo.config.load import load_config
from ssl_zoo.evaluation.classifier import KeptClassifier
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.tools.export import export
from ssl_zoo.training import train
from tests.conftest import SMALL, Call, small_settings
from tests.core.pictures import photo, write

NEXT_BYTE = Path(__file__).with_name("thirdparty") / "next_byte.py"
PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
WORDS = {"fruit": "apple pear plum fig", "tool": "saw drill axe file", "sky": "<sun> & moon"}
MACHINE = {"train.device": "cpu", "train.precision": "fp32"}


def write_texts(file: Path, n: int, seed: int) -> None:
    rng = random.Random(seed)
    names = rng.choices(list(WORDS), k=n)
    lines = [f"{name}\t{' '.join(rng.choices(WORDS[name].split(), k=3))}\n" for name in names]
    file.write_text("".join(lines))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, others, and a run on the first."""
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder / "words.tsv", 200, seed=0)
    write_texts(folder / "other.tsv", 60, seed=1)
    settings = {"task.name": "next-byte", "data.source": str(folder / "words.tsv"), **MACHINE}
    with registry.isolated():
        registry.load_file(NEXT_BYTE)
        train(load_config(None, {**settings, "train.epochs": 1}), out=folder / "run", protocol=["knn"])
    return folder


@pytest.fixture
def plugin(isolated_registry: None) -> tuple[str, str]:
    """Return the options of the command line that load the plugin of texts."""
    return ("--plugin", str(NEXT_BYTE))


def features(file: str | Path) -> Any:
    with np.load(file) as rows:
        return rows["features"]


def complaint(code: int, err: str) -> str:
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    return line.removeprefix("error: ")


# ---- texts


def test_a_run_on_texts_is_evaluated_on_others_read_as_its_own_were(
    place: Path, plugin: tuple[str, str], call: Call
) -> None:
    run, other = place / "run", place / "other.tsv"
    for subject in (run, run / "backbone.safetensors"):
        code, out, err = call(*plugin, "eval", subject, "--data", other, "--protocol", "knn", "--json")
        assert code == 0, err
        scores = json.loads(out)["scores"]
        assert scores["byte counts"]["knn"] > 90
        assert len(scores) == 3
    code, _, err = call(*plugin, "eval", run, "--data", "digits")
    assert complaint(code, err) == (
        "--data digits: the network takes texts that are read with data.options={'longest': 32}: digits "
        "has no options; leave them out"
    )
    short = ("--set", "data.options.longest=8")
    code, _, err = call(*plugin, "eval", run, "--data", other, *short)
    assert complaint(code, err).startswith("data.options.longest: cannot be changed for an existing run")


def test_training_that_starts_from_a_run_reads_texts_as_its_own_were(
    place: Path, plugin: tuple[str, str], tmp_path: Path
) -> None:
    registry.load_file(NEXT_BYTE)
    settings = {"task.name": "next-byte", "backbone.weights": str(place / "run"), **MACHINE}
    settings |= {"data.source": str(place / "other.tsv"), "train.samples": 64}
    config = load_config(None, settings)
    assert config.data.options == {"longest": 32}
    train(config, out=tmp_path / "run", protocol=[])
    with pytest.raises(UserError, match=r"^backbone\.weights: .*run: the data has longest=8, but the"):
        train(load_config(None, {**settings, "data.options": {"longest": 8}}), out=tmp_path / "no")
    # To a task on images they are nothing, and the network is the error.
    config = load_config(None, {"task.name": "simclr", "backbone.weights": str(place / "run")})
    assert config.data.options == {}
    with pytest.raises(UserError, match=r"^backbone|^data\.source|text"):
        train(config, out=tmp_path / "no")


def test_texts_that_are_kept_shorter_are_not_embedded_with_another_network(
    place: Path, plugin: tuple[str, str], call: Call
) -> None:
    arguments = ("embed", place / "run", "-o", "e.npz", "--data", place / "other.tsv", "--set")
    code, _, err = call(*plugin, *arguments, "data.options.longest=8")
    assert complaint(code, err) == (
        f"--data {place / 'other.tsv'}: has longest=8, but the network takes texts with longest=32, and "
        "there is no conversion"
    )
    code, _, err = call(*plugin, *arguments, "data.workers=1")
    assert code == 0, err
    code, _, err = call(*plugin, *arguments, "train.seed=1")
    assert (
        complaint(code, err)
        == "train.seed: embed takes settings of the section data alone; leave it out"
    )


def test_texts_are_embedded_classified_and_exported(
    place: Path, plugin: tuple[str, str], call: Call
) -> None:
    run = place / "run"
    code, _, err = call(*plugin, "embed", run, "-o", "of_run.npz")
    assert code == 0, err
    file = run / "backbone.safetensors"
    code, _, err = call(*plugin, "embed", file, "-o", "of_file.npz", "--data", place / "words.tsv")
    assert "embedded by the backbone's pooled features" in err
    assert features("of_run.npz").shape == (200, 32)
    np.testing.assert_array_equal(features("of_run.npz"), features("of_file.npz"))

    arguments = ("--protocol", "linear", "--keep", "--device", "cpu", "--json")
    code, out, err = call(*plugin, "eval", run, *arguments)
    assert code == 0, err
    kept = KeptClassifier.load(run / "classifier.safetensors")
    assert kept.spec == {"modality": "bytes", "longest": 32, "classes": 3}
    code, _, err = call(*plugin, "predict", run, "-o", "p.csv", "--data", place / "other.tsv")
    assert code == 0, err
    with Path("p.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert sum(row["class"] == row["label"] for row in rows) > 40

    code, out, err = call(*plugin, "export", run, "--to", "x.safetensors")
    assert code == 0, err
    scope: dict[str, Any] = {}
    exec(out, scope)
    model = ssl_zoo.load_backbone(run)
    x = model.ssl_zoo_preprocess("a pear")  # type: ignore[operator]
    with torch.no_grad():
        assert scope["model"](x).equal(model(x))
    code, _, err = call(*plugin, "export", run, "--to", "folder")
    assert complaint(code, err) == (
        "--to folder: unknown format for bytes data; its name must end in .safetensors or .onnx or .pt2"
    )


def test_onnx_takes_the_fields_of_a_batch_at_any_size(
    place: Path, plugin: tuple[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="the extra ssl-zoo[onnx] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    registry.load_file(NEXT_BYTE)
    code = export(place / "run", tmp_path / "x.onnx")
    assert "# ids: int64 [B, 32]\n# lengths: int64 [B]" in code
    session = runtime.InferenceSession(tmp_path / "x.onnx")
    model: Any = ssl_zoo.load_backbone(place / "run")
    for n, longest in ((1, 32), (5, 11)):
        ids, lengths = torch.randint(1, 99, (n, longest)), torch.arange(n) + longest - n + 1
        batch = type(model.ssl_zoo_spec.example())(ids, lengths)
        (given,) = session.run(None, {"ids": ids.numpy(), "lengths": lengths.numpy()})
        np.testing.assert_allclose(given, model(batch).detach().numpy(), atol=1e-5)


def test_a_program_takes_the_fields_of_a_batch_of_any_number(
    place: Path, plugin: tuple[str, str], tmp_path: Path
) -> None:
    registry.load_file(NEXT_BYTE)
    scope: dict[str, Any] = {}
    exec(export(place / "run", tmp_path / "x.pt2"), scope)
    model: Any = ssl_zoo.load_backbone(place / "run")
    for n in (1, 5):
        fields = torch.randint(1, 99, (n, 32)), torch.arange(n) + 8
        batch = type(model.ssl_zoo_spec.example())(*fields)
        torch.testing.assert_close(scope["model"](*fields), model(batch))


def test_views_of_texts_are_printed_or_written_as_lines(
    place: Path, plugin: tuple[str, str], call: Call
) -> None:
    code, out, err = call(*plugin, "--quiet", "views", "--run", place / "run", "--rows", "2")
    assert code == 0, err
    assert re.fullmatch(r"(source     .+\ntext       .+\npredicted  .*\n\n?){2}", out)
    assert call(*plugin, "views", "--run", place / "run", "--rows", "2", "-o", "v.txt")[0] == 0
    assert Path("v.txt").read_text() == out
    code, _, err = call(*plugin, "views", "--run", place / "run", "-o", "v.png")
    assert complaint(code, err) == "-o v.png: these are texts; name it v.txt"


def test_a_report_shows_neighbours_and_views_as_escaped_text(
    place: Path, plugin: tuple[str, str], call: Call
) -> None:
    code, _, err = call(*plugin, "report", place / "run", "-o", "r.html", "--map", "pca")
    assert code == 0, err
    page = Path("r.html").read_text()
    neighbours, views = (
        page[page.index(f'<section id="{name}">') :] for name in ("neighbours", "views")
    )
    assert neighbours.count("<q>") == 6 * (1 + 6)
    assert "<dt>source</dt><dd>" in views
    assert "<dt>predicted</dt><dd>" in views
    assert "&lt;sun&gt;" in page
    assert "<sun>" not in page


def test_a_protocol_for_images_is_refused_for_texts_and_left_out_of_a_training(
    place: Path, plugin: tuple[str, str], call: Call
) -> None:
    code, _, err = call(*plugin, "eval", place / "run", "--protocol", "knn,dense")
    assert complaint(code, err) == (
        "--protocol dense: words.tsv is bytes data, not image data; leave the protocol out"
    )
    registry.load_file(NEXT_BYTE)
    settings = {"task.name": "next-byte", "data.source": str(place / "words.tsv"), **MACHINE}
    config = load_config(None, {**settings, "train.epochs": 0.2})
    results = train(config, out=Path("run"), protocol=["dense", "knn"]).results()
    assert results["scores"].keys() == {"next-byte", "byte counts", "random-init"}
    texts = [notice["text"] for notice in results["notices"]]
    assert "words.tsv is bytes data, not image data: without dense" in texts


def test_without_the_plugin_one_line_says_what_is_missing(
    place: Path, call: Call, isolated_registry: None
) -> None:
    file = place / "run" / "backbone.safetensors"
    for arguments in (("export", place / "run", "--to", "x.onnx"), ("embed", file, "-o", "e.npz")):
        code, _, err = call(*arguments)
        assert complaint(code, err) == (
            f"{file} is for bytes data, whose plugin is not here; install it, or give it with "
            "--plugin FILE"
        )


# ---- a plugin's backbone for images


@pytest.fixture
def patchy(call: Call, isolated_registry: None) -> tuple[str, str]:
    """Train with the page's own backbone, and return the options that load it."""
    code = re.findall(r'```python title="patchy.py"\n(.*?)```', PAGE.read_text(), re.DOTALL)[0]
    Path("patchy.py").write_text(code)
    changed = {"backbone__name": "patchy", "backbone__options": {"width": 32}, "train__epochs": 0.2}
    given = small_settings("simclr", changed)
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    with registry.isolated():
        arguments = ("train", "--task", "simclr", *settings, "--out", "run")
        status, _, err = call("--plugin", "patchy.py", *arguments)
    assert status == 0, err
    return ("--plugin", "patchy.py")


def test_the_pages_own_backbone_is_loaded_embedded_exported_and_evaluated(
    patchy: tuple[str, str], call: Call
) -> None:
    # Without the plugin one line says what is missing.
    for arguments in (
        ("embed", "run/backbone.safetensors", "-o", "a.npz", "--data", "digits"),
        ("export", "run", "--to", "p.safetensors"),
    ):
        code, _, err = call(*arguments)
        assert complaint(code, err) == (
            "run/backbone.safetensors: its backbone 'patchy' belongs to a plugin that is not here; "
            "install it, or give it with --plugin FILE"
        )
    code, _, err = call("eval", "run")
    assert "timm has no model 'patchy'" in complaint(code, err)
    assert "--plugin FILE" in err

    code, out, err = call(*patchy, "export", "run", "--to", "p.safetensors")
    assert code == 0, err
    scope: dict[str, Any] = {}
    exec(out, scope)
    model: Any = ssl_zoo.load_backbone("run")
    x = torch.rand(model.ssl_zoo_spec.example(3).shape)
    assert scope["model"](x).equal(model(x))
    scores = {}
    for subject in ("run", "run/backbone.safetensors", "p.safetensors"):
        protocol = ("--protocol", "knn", "--precision", "fp32", "--device", "cpu")
        code, out, err = call(*patchy, "eval", subject, *protocol, "--json")
        assert code == 0, err
        scores[subject] = next(iter(json.loads(out)["scores"].values()))["knn"]
    assert len(set(scores.values())) == 1, scores
    code, _, err = call(*patchy, "embed", "run", "-o", "a.npz")
    assert code == 0, err
    assert features("a.npz").shape == (1797, 32)


# ---- the features of a task


SEVEN = '''
from ssl_zoo_vision.contrastive.simclr import SimCLR


class Seven(SimCLR):
    """SimCLR that is evaluated on seven columns."""

    name = "seven"

    def features(self, x):
        return super().features(x)[:, :7]
'''


def test_a_task_evaluated_on_seven_columns_embeds_seven(call: Call, isolated_registry: None) -> None:
    Path("seven.py").write_text(SEVEN)
    given = {**SMALL, "train.epochs": 0.2, "train.ema": 0.9}
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    arguments = ("train", "--task", "seven", *settings, "--out", "run")
    code, _, err = call("--plugin", "seven.py", *arguments)
    assert code == 0, err
    code, _, err = call("--plugin", "seven.py", "embed", "run", "-o", "run.npz")
    assert code == 0, err
    code, _, err = call("embed", "run/backbone.safetensors", "-o", "file.npz", "--data", "digits")
    assert code == 0, err
    assert features("run.npz").shape == (1797, 7)
    np.testing.assert_array_equal(features("run.npz"), features("file.npz")[:, :7])


def test_a_bank_of_the_samples_trained_on_is_evaluated_on_others(
    call: Call, isolated_registry: None, tmp_path: Path
) -> None:
    for number in range(24):
        write(tmp_path / "photos" / f"{number % 2}" / f"{number:02}.png", photo((20, 20), seed=number))
    plugin = ("--plugin", NEXT_BYTE.with_name("memory_bank.py"))
    given = {**SMALL, "train.epochs": 0.1}
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    code, _, err = call(*plugin, "train", "--task", "memory-bank", *settings, "--out", "run")
    assert code == 0, err
    for command in (("eval", "run", "--protocol", "health"), ("embed", "run", "-o", "e.npz")):
        code, _, err = call(*plugin, *command, "--data", tmp_path / "photos")
        assert code == 0, err


# ---- what a network takes


def test_a_network_of_images_takes_others_normalised_as_in_training() -> None:
    ours = ImageSpec(channels=1, size=16, mean=(0.2,), std=(0.3,), mirror=False, classes=10)
    assert ours.data_settings() == {"image_size": 16}
    other = ImageSpec(channels=3, size=24, mirror=True, classes=2, samples=9)
    assert ours.adopt(other) == ImageSpec(
        channels=1, size=24, mean=(0.2,), std=(0.3,), mirror=True, classes=10
    )
    with pytest.raises(UserError, match="is words data, but the network takes images"):
        ours.adopt(Spec("words"))
    with pytest.raises(UserError, match="is image data, but the network takes words data"):
        Spec("words").adopt(ours)
    assert Spec("words", classes=3).adopt(Spec("words", samples=9)) == Spec("words", classes=3)
