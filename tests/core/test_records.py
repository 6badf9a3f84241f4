"""Records of results: one file for each run, and tables that grow over days and machines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_zoo.comparison import Table, compare, open_sweep, tabulate
from ssl_zoo.comparison import run as run_sweep
from ssl_zoo.comparison.outcomes import record_table
from ssl_zoo.comparison.records import command_without_folder
from ssl_zoo.comparison.render import to_csv, to_html, to_latex, to_markdown
from ssl_zoo.comparison.sweep import run_cell
from ssl_zoo.errors import UserError
from tests import results as pages
from tests.conftest import SMALL, Call

GIVEN: dict[str, Any] = {
    "tasks": ["simclr", "rotation"],
    "seeds": 1,
    "baselines": ["raw", "random-init", "supervised"],
    "protocols": ["knn"],
    "set": {**SMALL, "train.epochs": 0.5},
}
"""The settings of a comparison that takes seconds."""


@pytest.fixture(name="made", scope="module")
def comparison_and_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    compare(out=folder / "c", record=folder / "results" / "tiny", **GIVEN)
    return folder


@pytest.fixture(name="folder")
def copied_records(made: Path, tmp_path: Path) -> Path:
    """Copy the records into a folder of this test's own."""
    return shutil.copytree(made / "results" / "tiny", tmp_path / "results" / "tiny")


def edit(file: Path, change: Callable[[dict[str, Any]], Any], copy: str | None = None) -> Path:
    """Change the values of a record, or of its copy under another name."""
    values = json.loads(file.read_text())
    change(values)
    written = file if copy is None else file.with_name(f"{copy}.json")
    written.write_text(json.dumps(values))
    return written


def rows(table: Table) -> dict[str, list[str]]:
    """Return the cells of the Markdown table, by row."""
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in ([c.strip() for c in x.split("|")[1:-1]] for x in lines)}


def test_each_run_leaves_one_small_file_with_all_that_its_figures_depend_on(made: Path) -> None:
    folder = made / "results" / "tiny"
    names = ["random-init-0", "raw", "rotation-0", "simclr-0", "supervised-0"]
    assert sorted(file.stem for file in folder.iterdir()) == names
    assert all(file.stat().st_size < 5000 for file in folder.iterdir())
    record = json.loads((folder / "simclr-0.json").read_text())
    assert (record["row"], record["seed"], record["family"]) == ("simclr", 0, "contrastive")
    assert record["budget"] == "0.5 epochs"
    assert record["scores"].keys() == {"knn"}
    assert record["samples_per_second"] > 0
    assert record["config"]["task"]["temperature"] is None
    assert {"ssl-zoo", "torch", "timm"} <= record["versions"].keys()
    assert "CPU core" in record["machine"]
    assert record["command"]
    untrained = json.loads((folder / "random-init-0.json").read_text())
    assert untrained["machine"] == record["machine"]
    assert untrained["versions"] == record["versions"]
    assert str(made) not in "".join(file.read_text() for file in folder.iterdir())


def test_the_table_of_the_records_is_that_of_the_comparison(made: Path, call: Call) -> None:
    by_record = rows(tabulate([made / "results" / "tiny"], columns=["knn"]))
    by_run = rows(tabulate([made / "c"], columns=["knn"]))
    assert {name: by_record[name] for name in by_run} == by_run
    code, out, _ = call("compare", made / "results" / "tiny")
    assert code == 0
    assert "contrastive" in out


def test_an_interrupted_comparison_leaves_the_records_of_what_it_has(tmp_path: Path) -> None:
    settings = {**GIVEN, "baselines": []}
    sweep = open_sweep(None, tmp_path / "c", record=tmp_path / "r", **settings)
    sweep.write()
    run_cell(sweep, "rotation-0")
    assert [file.name for file in (tmp_path / "r").iterdir()] == ["rotation-0.json"]
    assert "--record" in sweep.command()
    # A comparison that was made without --record writes the records of what is done.
    again = open_sweep(None, tmp_path / "c", record=tmp_path / "later", **settings)
    run_sweep(again, launcher=lambda _: None)
    assert [file.name for file in (tmp_path / "later").iterdir()] == ["rotation-0.json"]


def test_a_record_is_replaced_only_by_a_complete_one(made: Path, folder: Path) -> None:
    file = folder / "simclr-0.json"
    sweep = open_sweep(None, made / "c", record=folder, **GIVEN)
    cell = next(cell for cell in sweep.cells if cell.name == "simclr-0")
    complete = json.loads(file.read_text())["scores"]

    edit(file, lambda values: values.update(scores={"knn": 1.0, "linear": 2.0}))
    sweep.write_record(cell)  # which has no linear accuracy
    assert json.loads(file.read_text())["scores"] == {"knn": 1.0, "linear": 2.0}

    edit(file, lambda values: values.update(scores={}, failure="the loss is nan"))
    sweep.write_record(cell)
    assert json.loads(file.read_text())["scores"] == complete
    assert json.loads(file.read_text())["failure"] is None


def test_another_configuration_under_the_same_name_is_refused(folder: Path, tmp_path: Path) -> None:
    other = {**GIVEN, "overrides": {"simclr": {"task": {"temperature": 0.3}}}}
    with pytest.raises(UserError, match=r"simclr-0\.json was made with task\.temperature=None, not 0"):
        compare(out=tmp_path / "c", record=folder, **other)
    longer = {**GIVEN, "tasks": ["moco"], "set": {**SMALL, "train.epochs": 1}, "baselines": []}
    with pytest.raises(UserError, match=r"train\.epochs=0\.5, and moco-0 has 1\.0.*choose another"):
        compare(out=tmp_path / "c", record=folder, **longer)
    assert not (tmp_path / "c" / "compare.yaml").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"row": 1}', "\xff", '{"config": {"data": 3}}'])
def test_a_broken_record_is_named_in_one_line(folder: Path, content: str) -> None:
    (folder / "simclr-0.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"simclr-0\.json cannot be read: ") as caught:
        record_table(folder)
    assert "\n" not in str(caught.value)


def test_a_record_with_a_setting_of_the_wrong_type_is_named(folder: Path) -> None:
    edit(folder / "simclr-0.json", lambda values: values["config"]["train"].update(lr="fast"))
    with pytest.raises(UserError, match=r"simclr-0\.json cannot be read: config: train\.lr"):
        record_table(folder)


def test_records_of_other_budgets_or_data_do_not_stand_in_one_table(folder: Path) -> None:
    file = folder / "simclr-0.json"
    edit(file, lambda values: values["config"]["data"].update(groups="folder"))
    with pytest.raises(UserError, match=r"data\.groups=None, and simclr-0 has folder"):
        record_table(folder)
    edit(file, lambda values: values["config"]["data"].pop("groups"))  # as of before there was one
    record_table(folder)
    edit(file, lambda values: values["config"]["train"].update(epochs=7.0))
    with pytest.raises(UserError, match=r"train\.epochs=0\.5, and simclr-0 has 7\.0"):
        record_table(folder)


def test_accuracy_is_averaged_over_machines_and_throughput_is_marked(folder: Path) -> None:
    def on_gpu(values: dict[str, Any]) -> None:
        values["config"]["train"]["seed"] = values["seed"] = 1
        values.update(machine="NVIDIA H100", samples_per_second=5e4, scores={"knn": 80.0})

    edit(folder / "simclr-0.json", lambda v: v.update(scores={"knn": 90.0}, samples_per_second=70.0))
    edit(folder / "simclr-0.json", on_gpu, copy="simclr-1")
    shown = rows(record_table(folder, ["knn", "throughput", "seeds"]))
    assert shown["simclr"][0].startswith("85.0 ± ")
    assert shown["simclr"][1:] == ["70", "2"]  # of one machine, that of most runs
    (folder / "simclr-0.json").unlink()
    table = record_table(folder, ["knn", "throughput", "seeds"])
    assert rows(table)["simclr"] == ["80.0", "50,000 (a)", "1"]
    (note,) = [note for note in table.foot if "depend on the machine" in note]
    assert note.startswith("images/s depend on the machine: measured on ")
    assert note.endswith("; those with (a) on NVIDIA H100.")


def test_a_protocol_that_has_scores_of_no_row_is_noted_and_of_some_rows_is_not(folder: Path) -> None:
    def measured(values: dict[str, Any]) -> None:
        values["cell"]["protocols"].append("health")

    for file in folder.iterdir():
        edit(file, measured)
    note = "No row can be measured by health; ssl-zoo eval RUN --protocol health says why."
    assert note in record_table(folder).foot
    edit(folder / "raw.json", lambda values: values["scores"].update(rankme=10.0))
    assert not any("can be measured" in text for text in record_table(folder).foot)


def test_the_command_in_a_record_names_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/opt/bin/ssl-zoo", "compare", "--out", "/home/me/my runs/a", "--seeds", "1"]
    monkeypatch.setattr("sys.argv", words)
    assert command_without_folder() == "ssl-zoo compare --seeds 1"
    monkeypatch.setattr("sys.argv", ["ssl-zoo", "compare", "--out=it's here", "--data", "my photos"])
    assert command_without_folder() == "ssl-zoo compare --data 'my photos'"


def test_rows_stand_by_family_and_missing_cells_are_shown(folder: Path) -> None:
    tasks = {"simclr": "contrastive", "dino": "distillation", "ibot": "distillation"}
    planned = {**tasks, "supcon": "baseline"}
    edit(folder / "rotation-0.json", lambda values: values.update(failure="nan", scores={}))
    table = record_table(folder, ["knn", "throughput", "seeds"], planned=planned)
    order = [(row.family, row.name) for row in table.rows]
    assert order[:4] == [
        ("contrastive", "simclr"),
        ("distillation", "dino"),
        ("distillation", "ibot"),
        ("predictive", "rotation"),
    ]
    assert {family for family, _ in order[4:]} == {"baseline"}
    shown = rows(table)
    assert shown["dino"] == shown["supcon"] == ["–", "–", "–"]
    assert shown["rotation"] == ["–", "–", "–"]
    assert shown["pixels"][1:] == ["–", "–"]
    assert {"dino, ibot, supcon: no run yet.", "rotation: failed: nan."} <= {
        line.removeprefix("- ") for line in to_markdown(table).splitlines()
    }
    for text in (to_markdown(table), to_html(table), to_latex(table), to_csv(table)):
        assert text.index("contrastive") < text.index("distillation") < text.index("predictive")


def test_a_table_of_a_page_is_replaced_between_its_markers(folder: Path) -> None:
    page = "before\n<!-- results/tiny begin columns=knn -->\nold\n<!-- results/tiny end -->\nafter\n"
    new = pages.filled(page, folder.parent.parent)
    assert new.startswith("before\n<!-- results/tiny begin columns=knn -->\n\n**digits, ")
    assert new.endswith("\n<!-- results/tiny end -->\nafter\n")
    assert "old" not in new
    assert "| simclr |" in new
    assert pages.filled(new, folder.parent.parent) == new
