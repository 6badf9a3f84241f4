"""Further rows of comparisons: variants of tasks, and trained networks that are scored as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ssl_zoo.comparison import compare, open_sweep, tabulate
from ssl_zoo.comparison.load import load_comparison
from ssl_zoo.comparison.sweep import run_cell
from ssl_zoo.config.shipped import find_config
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import evaluate
from ssl_zoo.notices import collect_notices
from ssl_zoo.runs.run import Run
from ssl_zoo.training import train
from tests.conftest import SMALL, Call, small_config
from tests.core.test_compare import GIVEN


def given(**changes: Any) -> dict[str, Any]:
    return {**GIVEN, "tasks": ["simclr"], "baselines": [], "seeds": 1, **changes}


def complaint(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_sweep(None, **given(**changes))
    return str(caught.value)


def test_a_variant_is_a_row_of_its_own_with_its_settings_over_those_of_its_task(tmp_path: Path) -> None:
    overrides = {
        "simclr": {"task": {"temperature": 0.3, "hidden": 32}, "train": {"lr": 0.01}},
        "cold": {"task": {"temperature": 0.05}},
    }
    settings = given(variants={"cold": "simclr"}, overrides=overrides)
    table = compare(out=tmp_path / "c", record=tmp_path / "r", **settings)
    assert table.failed == []
    assert {row.name for row in table.rows} == {"simclr", "cold"}
    assert "cold: simclr with temperature=0.05." in table.foot
    tasks = {row: Run(tmp_path / "c" / f"{row}-0").config() for row in ("simclr", "cold")}
    made = {
        row: (c.task.name, c.task.temperature, c.task.hidden, c.train.lr) for row, c in tasks.items()
    }  # type: ignore[attr-defined]
    assert made == {"simclr": ("simclr", 0.3, 32, 0.01), "cold": ("simclr", 0.05, 32, 0.01)}
    # Its record has all of it, and the table of the records says what it is.
    record = json.loads((tmp_path / "r" / "cold-0.json").read_text())
    assert (record["row"], record["family"]) == ("cold", "contrastive")
    by_record = tabulate([tmp_path / "r"])
    assert "cold: simclr with temperature=0.05." in by_record.foot
    assert {row.name for row in by_record.rows} >= {"simclr", "cold"}


def test_a_variant_may_have_a_backbone_of_its_own() -> None:
    small = {"backbone": {"name": "test_vit", "options": {"patch_size": 4}}}
    overrides = {"simclr": small, "wide": {"backbone": {"name": "test_vit"}}}
    named = {"baselines": ["random-init"], "variants": {"wide": "simclr"}}
    settings = given(**named, overrides=overrides, set={}, backbone={"name": "test_resnet"})
    cells = {cell.name: cell.config.backbone for cell in open_sweep(None, **settings).cells}
    options = {name: (backbone.name, backbone.options) for name, backbone in cells.items()}
    assert options == {
        "random-init-0": ("test_resnet", {}),
        "random-init-test_vit-0": ("test_vit", {"patch_size": 4}),
        "random-init-test_vit-wide-0": ("test_vit", {}),
        "simclr-0": ("test_vit", {"patch_size": 4}),
        "wide-0": ("test_vit", {}),
    }


@pytest.mark.parametrize(
    "name", ["simclr", "raw", "pretrained", "pretrained-x", "a/b", "..", "x-scratch", ""]
)
def test_a_variant_needs_a_name_of_its_own(name: str) -> None:
    message = complaint(variants={name: "simclr"})
    assert message.startswith(f"variants: {name!r} cannot be the name of a row; choose letters, digits")


def test_a_variant_is_one_of_a_task_that_is_compared() -> None:
    message = complaint(variants={"cold": "simclf"})
    assert message == "variants: cold: 'simclf' is not among the tasks. Did you mean 'simclr'?"
    message = complaint(variants={"cold": "simclr"}, overrides={"cald": {"task": {"temperature": 0.1}}})
    assert "overrides.cald: there is no such task. Did you mean 'cold'?" in message
    message = complaint(variants={"cold": "simclr"}, overrides={"cold": {"task": {"temprature": 0.1}}})
    assert "task.temprature" in message
    assert "overrides.cold" in message


def test_a_frozen_network_is_scored_in_a_comparison_as_it_is_alone(tmp_path: Path, call: Call) -> None:
    compare(out=tmp_path / "c", **given())
    run = Run(tmp_path / "c" / "simclr-0")
    file = shutil.copy(run.path / "backbone.safetensors", tmp_path / "ours.safetensors")
    table = compare(out=tmp_path / "d", **given(frozen=[str(run.path), str(file)]))
    assert table.failed == []
    scores = {}
    for row in ("pretrained-simclr-0", "pretrained-ours"):
        results = json.loads((tmp_path / "d" / f"{row}-0" / "results.json").read_text())
        (found,) = results["scores"].values()
        scores[row] = {"knn": found["knn"]}
    alone = evaluate(run.path, ["knn"], with_baselines=False)["simclr"]
    assert scores == {"pretrained-simclr-0": alone, "pretrained-ours": alone}
    assert "pretrained-simclr-0, pretrained-ours: trained networks as they are." in table.foot


@pytest.mark.parametrize("size", [16, 20])
def test_a_frozen_network_is_scored_at_the_size_of_the_comparison_and_a_line_says_so(
    size: int, tmp_path: Path
) -> None:
    run = train(small_config("simclr", train__epochs=0.5), out=tmp_path / "run")
    settings = given(frozen=[str(run.path)], set={**SMALL, "data.image_size": size})
    sweep = open_sweep(None, tmp_path / "c", **settings)
    sweep.write()
    with collect_notices() as notices:
        run_cell(sweep, "pretrained-run-0")
    assert Run(tmp_path / "c" / "pretrained-run-0").results()["scores"].keys() == {"pretrained-run"}
    text = f"{run.path}: images of {size}×{size} pixels, and its weights were trained on 16×16"
    said = [notice["text"] for notice in notices if notice["notice"] == "size-of-weights"]
    assert said == ([] if size == 16 else [f"{text} (--image-size)"])


def test_frozen_networks_that_are_not_there_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--frozen: .*none.safetensors does not exist"):
        compare(out=tmp_path / "c", **given(frozen=[str(tmp_path / "none.safetensors")]))
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(UserError, match=r"^--frozen: .*other.safetensors is neither a run nor its weig"):
        compare(out=tmp_path / "c", **given(frozen=[str(other)]))
    assert not (tmp_path / "c" / "simclr-0").exists()
    assert "two networks are named other" in complaint(frozen=[str(other), f"./{other}"])


def test_a_comparison_can_be_read_where_a_frozen_network_is_gone(tmp_path: Path, call: Call) -> None:
    compare(out=tmp_path / "c", **given())
    weights = tmp_path / "c" / "simclr-0" / "backbone.safetensors"
    file = Path(shutil.copy(weights, tmp_path / "ours.safetensors"))
    settings = given(frozen=[str(file)])
    table = compare(out=tmp_path / "d", **settings)
    file.unlink()
    again = compare(out=tmp_path / "d", **settings)
    assert again.failed == []
    assert [row.name for row in again.rows] == [row.name for row in table.rows]
    code, _, err = call("report", tmp_path / "d", "--map", "none")
    assert code == 0, err


def test_a_network_that_the_tasks_start_from_has_one_row() -> None:
    network = {"name": "test_resnet", "pretrained": True}
    named = {"backbone": network, "frozen": ["timm:test_resnet", "timm:test_vit"], "set": {}}
    rows = {cell.row for cell in open_sweep(None, **given(**named, baselines=["random-init"])).cells}
    assert rows == {"pretrained", "random-init", "pretrained-test_vit", "simclr"}
    own = {"simclr": {"backbone": {"name": "test_vit", "pretrained": True}}}
    with pytest.raises(UserError, match="two rows of the comparison are named pretrained-test_vit-0"):
        open_sweep(None, **given(**named, baselines=["random-init"], overrides=own))


def test_a_shipped_comparison_can_be_had_for_one_task() -> None:
    file = find_config("compare/fashion-mnist-zoo")
    rows = load_comparison(file, {"tasks": ["simclr"], "seeds": 1}).trained_rows()
    assert {"simclr", "dcl"} <= rows.keys()
    assert "dcl" not in load_comparison(file, {"tasks": ["byol"]}).trained_rows()


def test_runs_of_variants_are_tabulated_beside_those_of_their_task(tmp_path: Path) -> None:
    settings = given(variants={"cold": "simclr"}, overrides={"cold": {"task": {"temperature": 0.05}}})
    compare(out=tmp_path / "c", **settings)
    table = tabulate([tmp_path / "c" / "simclr-0", tmp_path / "c" / "cold-0"])
    assert {row.name: row.runs for row in table.rows} == {
        "simclr (temperature=None)": 1, "simclr (temperature=0.05)": 1
    }  # fmt: skip
