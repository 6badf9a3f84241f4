"""The command line: what it prints, what it leaves, and one line for each mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_zoo.runs.run import Run
from ssl_zoo.spec import ImageSpec
from ssl_zoo.tools.views import draw
from tests.conftest import TASKS, Call, flags, small_config, ssl_zoo, train
from tests.plugins.sources import SHIPPED
from tests.processes import Child


@pytest.fixture(name="run", scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = small_config("inpainting", train__epochs=0.2)
    return train(config, out=tmp_path_factory.mktemp("cli") / "run")


def picture(file: Path, size: int = 32, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


# ---- wrong input

WRONG = [
    # Typer's own complaints.
    ("", "train --zzzzz", "No such option: --zzzzz (see ssl-zoo train --help)"),
    ("", "train --devices 0", "'--devices': Input should be greater than or equal to 1"),
    ("", "train --devices 100000", "'--devices': Input should be less than or equal to"),
    ("", "train --epochs x", "Invalid value for '--epochs': Input should be a valid number"),
    ("", "train --batch-size 1.5", "Invalid value for '--batch-size'"),
    ("", "train --task", "Option '--task' requires an argument."),
    ("", "train simclr", "unexpected extra argument"),
    ("", "trian", "No such command 'trian'"),
    ("", "eval", "Missing argument"),
    ("", "views --task simclr -o x.png --rows 0", "Invalid value for '--rows'"),
    # Settings.
    ("", "train", "task.name: is required (--task NAME); there are: aim, augself, autoencoder, "),
    ("", "train --task simlcr", "--task: there is no task 'simlcr'. Did you mean 'simclr'?"),
    ("", "tasks simlcr", "there is no task 'simlcr'. Did you mean 'simclr'?"),
    ("", "train --task simclr --epochs -1", "--epochs: train.epochs: must be greater than 0, not -1"),
    ("", "train --task simclr --epochs 1 --minutes 1", "give one budget, not epochs and minutes"),
    ("", "train --task simclr --set task.temprature=1", "Did you mean 'temperature'?"),
    ("", "train --task simclr --precision fp8", "--precision: train.precision: must be 'auto'"),
    ("", "train --task simclr --config none.yaml", "--config none.yaml: cannot be read: No such file"),
    ("text", "train --task simclr --config {}", "must hold the sections task, data"),
    ("yaml", "train --task simclr --config {}", "line 1: is not valid YAML"),
    # What only the data, the backbone or the machine tells.
    ("", "train --task simclr --data digit", "neither a folder nor a known data set. Did you mean"),
    ("empty", "train --task simclr --data {}", "there are no images in"),
    ("", "train --task simclr --backbone resnett18", "Did you mean 'resnet18"),
    ("", "train --task simclr --batch-size 5000", "train split of 1438 samples; choose --batch-size"),
    ("", "train --task simclr --batch-size 5000 --devices 2", "1438 samples; choose --batch-size"),
    ("", "train --task simclr --backbone test_vit --image-size 8", "test_vit cannot take 8×8 images"),
    ("", "train --task rotation --backbone test_resnet --set task.stage=9", "has no stage 9"),
    ("", "train --task simclr --device gpu", "train.device: 'gpu' cannot be used here"),
    ("", "train --task simclr --set train.optimizer=sgdd", "Did you mean 'sgd'"),
    # Jobs.
    ("", "train --task simclr --launcher pbs", "--launcher: there is no 'pbs'; there are: slurm, local"),
    ("", "train --task simclr --launcher-set a=1", "--launcher-set requires --launcher slurm"),
    ("", "train --task simclr --launcher local --launcher-set tasks_per_node=2", "--devices is"),
    ("", "train --task simclr --launcher local --launcher-set slurm_a=1", "Unknown argument 'a'"),
    # Runs and files.
    ("run", "train --task simclr --out {}", "exists and is not empty; choose another folder"),
    ("run", "train --resume {} --lr 3", "train.lr: cannot be changed for an existing run; start a new"),
    ("run", "train --task simclr --replan", "--replan is for --resume with another length"),
    ("run", "train --resume {} --out x", "--resume uses the run's own settings"),
    ("empty", "train --resume {}", "is not a run: it has no config.yaml"),
    ("text", "train --task simclr --out {}/run", "cannot be"),
    ("empty", "eval {}", "is not a run: it has no config.yaml"),
    ("run", "eval {} --protocol knn,linaer", "no protocol 'linaer'. Did you mean 'linear'?"),
    ("run", "eval {} --device gpu", "'gpu' cannot be used here"),
    ("", "views --task simclr -o none/x.png", "there is no folder none; make it first"),
    ("", "views --task simclr -o x.jpg", "its name must end in .png or .txt"),
    ("", "views --task simclr -o x.txt", "these are pictures; name it x.png"),
    ("", "views --task simclr", "-o FILE.png is required, as these are pictures"),
    ("", "views -o x.png", "task.name: is required (--task NAME)"),
    ("run", "views --run {} --task moco -o x.png", "--run uses the run's own settings"),
    ("empty", "views --run {} -o x.png", "is not a run"),
    ("", "--plugin none.py tasks", "--plugin none.py: there is no such Python file"),
    ("", "--no-plugin rotatoin tasks", "there is no such plugin. Did you mean 'rotation'?"),
]  # fmt: skip


@pytest.mark.parametrize(("needs", "line", "expected"), WRONG, ids=[line or "-" for _, line, _ in WRONG])
def test_wrong_input_is_one_line_and_code_2_and_leaves_nothing(
    call: Call, tmp_path: Path, run: Run, needs: str, line: str, expected: str
) -> None:
    given = tmp_path / "given"
    if needs == "empty":
        given.mkdir()
    elif needs:
        given.write_text({"text": "text", "yaml": "task: {name: simclr", "run": ""}[needs])
    before = {p: p.read_bytes() for p in run.path.iterdir()}
    path = run.path if needs == "run" else given
    code, out, err = call("--quiet", *(argument.replace("{}", str(path)) for argument in line.split()))
    assert code == 2, err
    assert out == ""
    (complaint,) = err.splitlines()
    assert complaint.startswith("error: ")
    assert expected in complaint
    assert list(Path.cwd().iterdir()) == []
    assert {p: p.read_bytes() for p in run.path.iterdir()} == before


def test_a_mistake_is_one_line_in_a_process_too_and_debug_shows_where(tmp_path: Path) -> None:
    arguments = ["--quiet", "train", "--task", "simclr", "--batch-size", "5000"]
    done = ssl_zoo(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: train.batch_size: a batch of 5000 is larger than")
    shown = ssl_zoo(*arguments, "--debug", cwd=tmp_path)
    assert "Traceback" in shown.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_fails_while_working_is_one_line_and_code_1(
    call: Call, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **keywords: Any) -> None:
        raise ValueError("a\nb")

    monkeypatch.setattr("ssl_zoo.evaluation.evaluate", broken)
    assert call("eval", run.path) == (1, "", "error: ValueError: a b (--debug shows the traceback)\n")


def test_an_unreadable_file_among_good_ones_is_skipped_and_said(call: Call, tmp_path: Path) -> None:
    for i in range(30):
        picture(tmp_path / "photos" / f"{i:02}.png", seed=i)
    (tmp_path / "photos" / "bad.png").write_bytes(b"no picture")
    settings = flags("rotation", train__batch_size=8)
    code, out, err = call("train", "--data", tmp_path / "photos", *settings)
    assert code == 0, err
    assert "bad.png" in out
    assert "left out 1 that cannot be read, such as" in out
    assert "has no labels: there is no accuracy to show" in " ".join(out.split())
    (folder,) = Path("runs").iterdir()
    results = Run.open(folder).results()
    assert {metric for row in results["scores"].values() for metric in row} == {
        "rankme", "spread", "alignment", "uniformity",
    }  # fmt: skip
    assert [Path(name).name for name in results["skipped"]] == ["bad.png"]
    assert (folder / "backbone.safetensors").is_file()
    code, out, err = call("eval", folder)
    assert (code, out) == (2, "")
    assert "photos has no labels; this protocol needs two labelled classes" in err


# ---- what is printed


def test_training_shows_a_bar_and_ends_with_the_table_and_the_place(tmp_path: Path) -> None:
    arguments = flags("simclr", train__knn_every=0.5, backbone__options={})
    done = ssl_zoo("train", *arguments, cwd=tmp_path, COLUMNS="100", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    place = f"runs/{run.name}"
    found, *lines = done.stderr.splitlines()
    notices = ("left out of an epoch", "small moves")
    started, where, *_, bar, last = [line for line in lines if not any(n in line for n in notices)]
    assert found == (
        "digits: 1,797 images: 1,438 to train, 359 to evaluate on; 10 classes of 174 to 183 images"
    )
    assert started == (
        "simclr on digits: 1,438 images, test_resnet (0.4 M parameters), on cpu, fp32, "
        "channels last, 1 thread, 11 steps of 128 images, learning rate 0.02"
    )
    assert where == f"run: {place}"
    assert "epoch 0.5  kNN " in done.stderr
    assert "100 %" in bar
    assert "images/s" in bar
    scores = Run.open(run).results()["scores"]
    assert last.startswith("epoch 1.0  kNN ")
    assert list(scores) == ["simclr", "pixels", "random-init"]
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    table = {name: values for name, *values in cells}
    assert table["kNN %"] == [f"{row['knn']:.1f}" for row in scores.values()]
    assert table["RankMe"] == [f"{row['rankme']:.1f}" for row in scores.values()]
    assert table["alignment"][1] == ""  # pixels are no network
    assert done.stdout.startswith("evaluated on the test split of digits\n")
    assert done.stdout.endswith(
        f"run: {place}\n  ssl-zoo eval {place}\n  model = ssl_zoo.load_backbone('{place}')\n"
    )


def test_json_is_all_of_standard_output(call: Call, run: Run) -> None:
    settings = flags("rotation", train__epochs=0.2)
    code, out, err = call("train", *settings, "--out", "mine", "--json")
    assert (code, err) == (0, "")
    trained = json.loads(out)
    assert trained == {"run": "mine", **Run.open("mine").results()}
    assert list(trained["scores"]) == ["rotation", "pixels", "random-init"]

    code, out, err = call("eval", run.path, "--protocol", "knn, linear", "--json")
    assert (code, err) == (0, "")
    evaluated = json.loads(out)
    assert {tuple(row) for row in evaluated["scores"].values()} == {("knn", "linear")}
    assert [gain["metric"] for gain in evaluated["gains"]] == ["knn", "linear"]

    listed = json.loads(call("tasks", "--json")[1])
    assert [entry["name"] for entry in listed] == SHIPPED
    shown = json.loads(call("tasks", "moco", "--json")[1])
    assert shown["options"]["properties"]["temperature"]["default"] == 0.2
    assert {entry["name"] for entry in json.loads(call("plugins", "--json")[1])} >= set(TASKS)


def test_evaluating_prints_a_column_for_each_and_a_row_for_each_metric(call: Call, run: Run) -> None:
    code, out, _ = call("eval", run.path, "--protocol", "knn")
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith(("│", "┃"))]
    assert [cell.strip() for cell in lines[0].strip("┃").split("┃")] == [
        "", "inpainting", "pixels", "random-init",
    ]  # fmt: skip
    assert lines[1].split()[1:3] == ["kNN", "%"]
    (sentence,) = (line for line in out.splitlines() if line.startswith("Training has"))
    assert "on 359 images" in sentence


def test_a_tasks_options_are_shown_as_they_are_written(call: Call, task_name: str) -> None:
    code, out, err = call("tasks", task_name)
    assert (code, err) == (0, "")
    assert out.startswith(f"{task_name}: ")
    assert "arXiv:" in out
    assert "crop_scale" in out
    assert "Ge(" not in out


def test_ranges_and_choices_are_shown(call: Call) -> None:
    shown = " ".join(call("tasks", "inpainting")[1].split())
    assert "≥ 0, < 1" in shown
    assert "centre or random" in shown


def test_what_a_plugin_says_of_itself_is_no_markup(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from ssl_zoo import Task, TaskOptions, Field\n"
        "class Mine(Task):\n"
        "    '''A [red]mean[/nothing] of [B, D].'''\n"
        "    name = 'mine'\n"
        "    class Options(TaskOptions):\n"
        "        shape: list[int] = Field([1, 2], description='[B, D] or [/x]')\n"
        "    def views(self, batch, rng): ...\n"
        "    def loss(self, views): ...\n"
    )
    code, out, err = call("--plugin", file, "tasks", "mine")
    assert (code, err) == (0, "")
    assert "mine: A [red]mean[/nothing] of [B, D]." in out
    assert "[B, D] or [/x]" in " ".join(out.split())


def test_version_and_no_argument(call: Call) -> None:
    assert call("--version")[:2] == (0, "ssl-zoo 0.1.0\n")
    code, out, err = call()
    assert (code, err) == (0, "")
    assert "Usage: ssl-zoo" in out
    assert all(name in out for name in ("train", "eval", "tasks", "plugins", "views"))


LISTING = """
import sys
from ssl_zoo.cli import app as cli
for line in ("--help", "tasks", "tasks --json", "plugins --help", "train --help"):
    sys.argv = ["ssl-zoo", *line.split()]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, line
    heavy = {"torch", "timm", "torchvision", "numpy", "ssl_zoo_vision"} & set(sys.modules)
    assert not heavy, (line, heavy)
"""


def test_help_and_lists_import_neither_torch_nor_a_task() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTING], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "simclr" in done.stdout


# ---- several processes


def test_a_signal_to_the_launcher_reaches_its_processes_which_save(tmp_path: Path) -> None:
    arguments = [*flags("rotation", train__epochs=1000), "--devices", "2", "--out", tmp_path / "run"]
    launcher = ["-m", "ssl_zoo", "train", *map(str, arguments)]
    process = Child(launcher, env={**os.environ, "OMP_NUM_THREADS": "1"})
    run, deadline = Run(tmp_path / "run"), time.monotonic() + 200
    while len(run.metrics()) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"resume with: ssl-zoo train --resume {run.path} --devices 2" in err
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert "Warning" not in err
    assert run.checkpoints.file.is_file()


# ---- pictures


def drawn(file: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


SOURCES = ["digits"]
if Path("/usr/share/datasets/fashion-mnist").is_dir():  # Debian's package
    SOURCES.append("fashion-mnist")


@pytest.mark.parametrize("source", SOURCES)
def test_the_views_of_each_task_are_drawn(call: Call, task_name: str, source: str) -> None:
    arguments = ("--quiet", "views", "--task", task_name, "--data", source, "--rows", "3", "-o")
    code, out, err = call(*arguments, "x.png")
    assert (code, out, err) == (0, "", "wrote x.png\n")
    image = drawn(Path("x.png"))
    columns = {"rotation": 5, "inpainting": 3}.get(task_name, 3)
    cell = {"digits": 96, "fashion-mnist": 112}[source]
    assert image.shape == (18 + 3 * (cell + 6) + 6, columns * (cell + 6) + 6, 3)
    # Under every caption there is something, and the views differ from the source.
    cells = [
        image[18 : 18 + cell, 6 + i * (cell + 6) : 6 + i * (cell + 6) + cell] for i in range(columns)
    ]
    assert all(cell.std() > 1 for cell in cells)
    assert not any((cell == cells[0]).all() for cell in cells[1:])
    assert (image[:18] < 128).any()


def test_the_seed_decides_the_picture(call: Call) -> None:
    images = []
    for seed in ("1", "1", "2"):
        assert call("views", "--task", "simclr", "--rows", "2", "--seed", seed, "-o", "x.png")[0] == 0
        images.append(drawn(Path("x.png")))
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


def test_a_trained_inpainting_run_shows_what_it_paints(call: Call, run: Run) -> None:
    assert call("views", "--run", run.path, "--rows", "2", "--seed", "3", "-o", "x.png")[0] == 0
    image = drawn(Path("x.png"))
    cell, step = 96, 102
    assert image.shape == (18 + 2 * step + 6, 4 * step + 6, 3)
    _, original, masked, painted = (
        image[18 : 18 + cell, 6 + i * step : 6 + i * step + cell] for i in range(4)
    )
    hidden = (original != masked).any(-1)
    assert 0.05 < hidden.mean() < 0.95
    assert (painted[~hidden] == original[~hidden]).all()
    assert (painted[hidden] != masked[hidden]).any()


def test_tiny_and_gray_images_are_enlarged_without_smoothing_and_colours_kept() -> None:
    spec = ImageSpec(channels=3, size=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sheet = np.asarray(
        draw({"a caption wider than the image": spec.show(x), "b": spec.show(x[:1])}, cell=8)
    )
    expected = ((x[0] + 1) / 2 * 255).round().byte().permute(1, 2, 0).numpy()
    assert (sheet[18:26, 6:14] == expected.repeat(2, 0).repeat(2, 1)).all()
    gray = ImageSpec(channels=1, size=4, mean=(0.5,), std=(0.5,))
    image = np.asarray(draw({"g": gray.show(x[:, :1])}, cell=8))[18:26, 6:14]
    assert (image == image[..., :1]).all()
    assert (image[::2, ::2, 0] == expected[..., 0]).all()


def test_tasks_are_listed_by_family_with_paper_and_needs_at_80_columns(
    call: Call, isolated_registry: None
) -> None:
    code, out, err = call("tasks")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    families = [line.strip() for line in lines if line.strip() and len(line.split()) == 1]
    named = ["contrastive", "distillation", "masked", "predictive", "baseline"]
    assert [family for family in families if family in named] == named
    rows = {line.split()[0]: line for line in lines if re.match(r" {3}\w", line)}
    assert "Chen et al. 2020" in rows["simclr"]
    assert "(1 pass; needs a ViT)" in " ".join(out.split())
    assert "(1 pass; needs labels)" in " ".join(out.split())


def test_tasks_are_filtered_by_a_pattern_and_by_family(call: Call) -> None:
    listed = json.loads(call("tasks", "*clr*", "--family", "contrastive", "--json")[1])
    assert [(entry["name"], entry["family"]) for entry in listed] == [
        ("nnclr", "contrastive"),
        ("simclr", "contrastive"),
    ]
    listed = json.loads(call("tasks", "--family", "redund*,baseline", "--json")[1])
    names = ["barlow-twins", "lejepa", "supcon", "supervised", "tico", "vicreg", "w-mse"]
    assert [entry["name"] for entry in listed] == names
    code, _, err = call("tasks", "--family", "contrast")
    assert (code, "Did you mean 'contrastive'?" in err) == (2, True)
    code, _, err = call("tasks", "*clr*", "--family", "masked")
    assert code == 2
    assert err == "error: no task matches '*clr*' in --family masked; ssl-zoo tasks lists all\n"
