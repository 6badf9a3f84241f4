"""Comparisons of tasks of any modality: whose data and backbone they take, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssl_zoo.comparison import compare, open_sweep, tabulate
from ssl_zoo.config.load import load_config
from ssl_zoo.errors import UserError
from ssl_zoo.notices import collect_notices
from ssl_zoo.plugins.registry import registry
from ssl_zoo.reporting import report
from ssl_zoo_vision.supervised import Supervised
from tests.conftest import Call
from tests.core.test_compare import GIVEN

THIRD_PARTY = Path(__file__).parent.parent / "plugins" / "thirdparty"
BRIEF: dict[str, Any] = {"seeds": 1, "protocols": ["knn"], "train": {"epochs": 1}}


@pytest.fixture(autouse=True)
def waves(isolated_registry: None) -> None:
    registry.load_file(THIRD_PARTY / "waveform.py")


def complaint(**given: Any) -> str:
    with pytest.raises(UserError) as caught:
        compare(**{**BRIEF, **given})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_tasks_whose_recipes_agree_are_compared_on_their_data_and_backbone(tmp_path: Path) -> None:
    with collect_notices() as notices:
        table = compare(tasks=["wave-coding"], out=tmp_path / "c", **BRIEF)
    assert table.title == "waves, wavenet, 1 epochs"
    assert table.failed == []
    # The raw input and the samples have the names that their spec gives them.
    assert {row.name for row in table.rows} == {"wave-coding", "mean spectrum", "random-init"}
    titles = {column.name: column.title for column in table.columns}
    assert (titles["throughput"], titles["samples"]) == ("waves/s", "waves")
    assert "mean spectrum: the raw input." in table.foot
    assert not any("image" in text for text in table.foot)
    # A supervised task of images is not trained on them, and this is said.
    left_out = "left out of the baselines, as they take image data, not wave data: supcon, supervised"
    assert left_out in [notice["text"] for notice in notices]
    assert {path.name for path in (tmp_path / "c").iterdir() if path.is_dir()} == {
        "raw", "random-init-0", "wave-coding-0"
    }  # fmt: skip
    page = report(tmp_path / "c").read_text()
    assert "loss by waves drawn" in page
    assert "waves seen" in page
    assert "images seen" not in page
    # The settings are written out: another recipe would not change the folder.
    written = (tmp_path / "c" / "compare.yaml").read_text()
    assert "source: waves" in written
    assert "name: wavenet" in written


def test_recipes_that_disagree_are_refused_first_with_the_option_to_give() -> None:
    assert complaint(tasks=["mae", "simclr", "moco"]) == (
        "--tasks: the recipes name different settings of backbone (mae: vit4_narrow_gap; simclr, "
        "moco: resnet10_narrow); choose one for all tasks with --backbone, or for single tasks with "
        "overrides.TASK.backbone in a file"
    )
    own = open_sweep(
        tasks=["mae", "simclr"], overrides={"mae": {"backbone": {"name": "vit4_narrow_gap"}}}
    )
    assert own.config.backbone.name == "resnet10_narrow"
    named = open_sweep(tasks=["mae", "simclr"], backbone={"name": "vit_tiny_patch16_224"})
    assert named.config.backbone.options == {}
    (alone,) = [open_sweep(tasks=["mae"])]
    assert alone.config.backbone == load_config(None, {"task.name": "mae"}).backbone
    everything = open_sweep(tasks="all")  # where tasks that do not suit are left out
    assert everything.config.backbone.name == "resnet10_narrow"


def test_tasks_and_data_of_different_kinds_are_refused_first(tmp_path: Path) -> None:
    assert complaint(tasks=["wave-coding", "simclr"]) == (
        "--tasks: tasks that take different kinds of data cannot be compared (wave-coding: wave; "
        "simclr: image); choose those of one kind"
    )
    assert complaint(tasks=["wave-coding"], data={"source": "digits"}, out=tmp_path / "c") == (
        "data.source: 'digits' has image data, and the tasks take wave data (wave-coding); choose "
        "other --data"
    )
    assert complaint(tasks=["wave-coding"], baselines=["supervised"]) == (
        "--baselines: 'supervised' takes image data, not wave data; leave it out"
    )
    assert not (tmp_path / "c").exists()


class Unfit(Supervised):
    """A supervised task that only transformers support."""

    name = "unfit"

    def __init__(self, encoder: Any, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        encoder.tokens(spec.example(), spec.example().new_zeros(2, 1).long())


def test_of_all_tasks_those_of_the_data_are_compared_and_of_all_baselines_those_that_suit(
    tmp_path: Path,
) -> None:
    sweep = open_sweep(tasks="all", data={"source": "waves"})
    assert (sweep.comparison.modality, sweep.config.backbone.name) == ("wave", "wavenet")
    assert open_sweep(tasks="all").comparison.modality == "image"
    registry.register_task(Unfit)
    small = {"backbone": {"name": "test_resnet"}, "data": {"image_size": 16}}
    brief = {"train": {"samples": 64, "batch_size": 32}, "protocols": ["health"]}
    given = {**BRIEF, **small, **brief, "tasks": ["rotation"]}
    table = compare(out=tmp_path / "c", **given)
    notes = {row.name: row.notes for row in table.rows}
    assert table.failed == []
    assert notes["unfit"][0].startswith("left out: ")
    assert notes["supervised"] == ["uses labels"]


def test_bench_and_progress_speak_of_the_samples_as_their_spec_does(call: Call, tmp_path: Path) -> None:
    plugin = ("--plugin", THIRD_PARTY / "waveform.py")
    arguments = ("--task", "wave-coding", "--set", "train.tune=false")
    code, out, err = call(*plugin, "bench", *arguments, "--seconds", "0")
    assert code == 0, err
    assert "1 views per wave" in out
    assert "waves/s" in out
    assert "image" not in out
    code, _, err = call(*plugin, "train", *arguments, "--samples", "64", "--out", tmp_path / "run")
    assert code == 0, err
    assert "wave-coding on waves: 160 waves, wavenet" in err
    assert "2 steps of 32 waves" in err
    assert "image" not in err


def test_a_task_may_have_a_backbone_of_its_own_which_the_table_says(tmp_path: Path) -> None:
    """The rows on it are marked, have an untrained row of their own, and the records stand together."""
    own = {"backbone": {"name": "test_vit", "options": {"patch_size": 4}}}
    given = {**GIVEN, "seeds": 1, "baselines": ["random-init"], "overrides": {"rotation": own}}
    given["set"] = {"data.image_size": 16, "train.samples": 256, "train.device": "cpu"}
    given["backbone"] = {"name": "test_resnet"}
    out, record = tmp_path / "c", tmp_path / "r"
    table = compare(out=out, record=record, **given)
    rows = {row.name: row for row in table.rows}
    names = ["simclr", "rotation", "random-init", "random-init-test_vit"]
    assert sorted(rows) == sorted(names)
    assert "On test_vit, not test_resnet: random-init-test_vit, rotation." in table.foot
    networks = {name: json.loads((record / f"{name}-0.json").read_text()) for name in names}
    backbones = {name: values["config"]["backbone"]["name"] for name, values in networks.items()}
    assert backbones == dict(zip(names, ["test_resnet", "test_vit"] * 2, strict=True))
    assert "random-init: the network before its first step." in table.foot
    of_records = tabulate([record])
    assert of_records.title == table.title
    assert [row.figures["knn"] for row in of_records.rows if row.name in rows] == [
        rows[row.name].figures["knn"] for row in of_records.rows
    ]
    assert set(of_records.foot) >= {note for note in table.foot if note.startswith("On ")}
    other = {**given, "tasks": ["simsiam"], "baselines": [], "backbone": {"name": "test_nfnet"}}
    with pytest.raises(UserError, match="cannot stand in one table"):
        compare(out=tmp_path / "d", record=record, **other)


def test_two_tasks_with_one_backbone_of_their_own_share_its_untrained_row() -> None:
    own = {"backbone": {"name": "test_vit"}}
    given = {**GIVEN, "overrides": {"simclr": own, "rotation": own}, "seeds": 1, "set": {}}

    def untrained(**settings: Any) -> list[str]:
        cells = open_sweep(**{**given, **settings}).cells
        return [cell.name for cell in cells if "random" in cell.name]

    assert untrained() == ["random-init-0", "random-init-test_vit-0"]
    assert untrained(backbone={"name": "test_vit"}) == ["random-init-0"]


def test_a_backbone_of_the_same_name_is_told_apart_by_its_settings() -> None:
    own = {"backbone": {"name": "test_vit", "options": {"patch_size": 4}}}
    given = {**GIVEN, "set": {}, "baselines": ["random-init"], "backbone": {"name": "test_vit"}}
    sweep = open_sweep(**{**given, "overrides": {"simclr": own}})
    labels = {cell.name: cell.own_backbone for cell in sweep.cells if cell.own_backbone}
    assert labels["simclr-0"] == labels["random-init-test_vit-0"] == "test_vit (patch_size=4)"
