"""Comparisons: runs under equal conditions, and finished work that is kept, whatever happens."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import ssl_zoo
from ssl_zoo.comparison import COMPARE_FILE, Cell, Sweep, compare, open_sweep, run, tabulate
from ssl_zoo.comparison.comparability import comparability_key
from ssl_zoo.comparison.load import load_comparison
from ssl_zoo.comparison.outcomes import sweep_table
from ssl_zoo.config.load import dump_config
from ssl_zoo.errors import UserError
from ssl_zoo.plugins import entry_points as entries
from ssl_zoo.plugins import registry as registry_module
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run
from ssl_zoo.training import train
from ssl_zoo_vision.predictive.rotation import Rotation
from tests.conftest import OTHERS, SMALL, Call, figures, small_config
from tests.conftest import ssl_zoo as cli
from tests.plugins.sources import SHIPPED

GIVEN: dict[str, Any] = {
    "tasks": ["simclr", "rotation"],
    "seeds": 2,
    "baselines": ["raw", "random-init", "supervised"],
    "protocols": ["knn", "health"],
    "set": {**SMALL, "train.epochs": 0.5},
}
"""The settings of a comparison that takes seconds."""


class Events:
    """An observer that records what it observes of a comparison.

    Attributes:
        events: the name of the hook, without its prefix, and the name of the cell.
        progress: the progress of each cell, by name.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.progress: dict[str, list[float]] = {}

    @hookimpl
    def ssl_zoo_comparison_started(self, sweep: Sweep) -> None:
        self.events.append(("comparison_started", ""))
        self.progress = {cell.name: [] for cell in sweep.todo()}

    @hookimpl
    def ssl_zoo_cell_progressed(self, sweep: Sweep, cell: Cell) -> None:
        self.events.append(("cell_progressed", cell.name))
        self.progress[cell.name].append(sweep.progress[cell.name])

    @hookimpl
    def ssl_zoo_cell_ended(self, sweep: Sweep, cell: Cell) -> None:
        assert cell.status == "done"
        assert cell.name not in sweep.progress
        self.events.append(("cell_ended", cell.name))


@pytest.fixture(name="observed", scope="module")
def small_comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Events]:
    out, events = tmp_path_factory.mktemp("compare") / "c", Events()
    with registry.observing(events):
        compare(out=out, **GIVEN)
    return out, events


@pytest.fixture(name="done", scope="module")
def comparison_folder(observed: tuple[Path, Events]) -> Path:
    return observed[0]


def as_file(path: Path, **given: Any) -> Path:
    path.write_text(yaml.safe_dump({**GIVEN, **given}))
    return path


# ---- the whole of it


def test_every_row_has_the_same_conditions_and_its_seeds(done: Path) -> None:
    runs = [
        Run(done / f"{task}-{seed}") for task in ("simclr", "rotation", "supervised") for seed in (0, 1)
    ]
    configs = [r.config() for r in runs]
    assert len({json.dumps(comparability_key(c)) for c in configs}) == 1
    assert [c.train.seed for c in configs] == [0, 1] * 3
    assert {r.results()["samples"] for r in runs} == {6 * 128}
    assert not any(c.train.tune for c in configs)  # all compute in one number format
    assert sorted(p.name for p in done.iterdir() if p.is_dir()) == sorted(
        [
            "raw",
            *(
                f"{row}-{s}"
                for row in ("random-init", "simclr", "rotation", "supervised")
                for s in (0, 1)
            ),
        ]
    )


def test_the_table_lies_in_every_format_and_has_every_row(done: Path) -> None:
    assert {p.name for p in done.glob("table.*")} == {
        f"table.{e}" for e in ("md", "csv", "tex", "json", "html")
    }
    read = json.loads((done / "table.json").read_text())
    rows = {row["name"]: row for row in read["rows"]}
    assert rows.keys() == {"simclr", "rotation", "pixels", "random-init", "supervised"}
    assert [rows[name]["baseline"] for name in ("simclr", "supervised", "pixels")] == [False, True, True]
    assert rows["supervised"]["notes"] == ["uses labels"]
    assert rows["simclr"]["figures"]["knn"]["n"] == 2
    assert rows["pixels"]["figures"]["knn"] == {"mean": rows["pixels"]["figures"]["knn"]["mean"],
                                                "interval": None, "n": 1, "best": False}  # fmt: skip
    own = [Run(done / f"simclr-{seed}").results()["scores"]["simclr"]["knn"] for seed in (0, 1)]
    assert rows["simclr"]["figures"]["knn"]["mean"] == pytest.approx(sum(own) / 2)


def test_a_run_of_a_comparison_is_the_run_that_train_makes(done: Path, tmp_path: Path) -> None:
    alone = train(small_config("rotation", train__epochs=0.5, train__seed=1), out=tmp_path / "alone")
    inside = Run(done / "rotation-1")
    losses = [[line["loss"] for line in r.metrics() if "loss" in line] for r in (alone, inside)]
    assert losses[0] == losses[1]
    assert alone.results()["scores"]["rotation"]["knn"] == inside.results()["scores"]["rotation"]["knn"]
    untrained = json.loads((done / "random-init-1" / "results.json").read_text())["scores"]
    assert untrained["random-init"]["knn"] == alone.results()["scores"]["random-init"]["knn"]


def test_observers_follow_every_cell_from_its_start_to_its_end(observed: tuple[Path, Events]) -> None:
    events, progress = observed[1].events, observed[1].progress
    assert events[0] == ("comparison_started", "")
    assert [name for kind, name in events if kind == "cell_ended"] == list(progress)
    assert list(dict.fromkeys(name for _, name in events[1:])) == list(progress)  # one after the other
    for name, shares in progress.items():
        assert shares == sorted(shares), name
        assert shares[0] == 0
        assert shares[-1] == (0 if name.startswith(("raw", "random-init")) else 1)


def test_asked_again_it_keeps_what_is_done(done: Path) -> None:
    files = [p for p in done.rglob("*") if p.is_file() and p.parent != done]
    before = {p: p.stat().st_mtime_ns for p in files}
    table = compare(out=done, **GIVEN)
    assert {p: p.stat().st_mtime_ns for p in files} == before
    assert len(table.outcomes) == 9
    assert ssl_zoo.compare is compare


def test_more_seeds_and_protocols_take_up_what_is_there(done: Path, tmp_path: Path) -> None:
    copy = tmp_path / "c"
    subprocess.run(["cp", "-r", str(done), str(copy)], check=True)
    checkpoints = {p: p.stat().st_mtime_ns for p in copy.rglob("checkpoint.pt")}
    more = {**GIVEN, "tasks": ["rotation"], "seeds": 3, "protocols": ["knn", "linear"]}
    table = compare(out=copy, **more)
    assert {p: p.stat().st_mtime_ns for p in checkpoints} == checkpoints
    (row,) = (row for row in table.rows if row.name == "rotation")
    assert row.runs == 3
    assert row.figures["linear"].estimate is not None
    assert row.figures["linear"].estimate.n == 3


def test_the_folder_follows_from_the_settings_that_decide() -> None:
    def folder(**given: Any) -> Path:
        return open_sweep(**{**GIVEN, **given}).out

    assert folder() == folder(seeds=5) == folder(tasks=["byol"]) == folder(protocols=["linear"])
    assert folder().name.startswith("compare-digits-")
    assert folder() != folder(set={**SMALL, "train.epochs": 0.6})
    assert folder() != folder(overrides={"simclr": {"task": {"temperature": 0.3}}})


# ---- stopped, killed, taken up


def test_two_processes_do_not_work_on_one_comparison(done: Path) -> None:
    sweep = open_sweep(out=done, **GIVEN)
    with sweep.lock(), pytest.raises(UserError, match="another process works on this comparison"):
        run(open_sweep(out=done, **GIVEN))


# ---- what fails


def failing(at: str) -> type[ssl_zoo.Task]:
    """Return a copy of Rotation that raises in one of its methods."""
    from ssl_zoo_vision.predictive.rotation import Rotation

    def fail(*_: Any) -> Any:
        raise ValueError("nothing\nworks")

    return type("Failing", (Rotation,), {"name": "failing", "__module__": __name__, at: fail})


@pytest.mark.parametrize("at", ["loss", "__init__", pytest.param("views", marks=pytest.mark.slow)])
def test_a_task_that_fails_has_a_row_that_says_why_and_the_others_go_on(
    tmp_path: Path, isolated_registry: None, at: str
) -> None:
    registry.register_task(failing(at))
    given = {**GIVEN, "tasks": ["failing", "rotation"], "baselines": ["pixels"], "seeds": 1}
    table = compare(out=tmp_path / "c", **given)
    rows = {row.name: row for row in table.rows}
    assert [row.name for row in table.rows] == ["rotation", "failing", "pixels"]
    (note,) = rows["failing"].notes
    assert note.startswith("failed: ValueError: nothing works at ") or note.startswith(
        "failed: ValueError: nothing"
    )
    assert "\n" not in note
    assert rows["rotation"].runs == 1
    assert "failing: failed" in (tmp_path / "c" / "table.md").read_text()

    # Once the task works, its cell is resumed.
    from ssl_zoo_vision.predictive.rotation import Rotation

    registry.register_task(type("Failing", (Rotation,), {"name": "failing", "__module__": __name__}))
    repaired = {row.name: row for row in compare(out=tmp_path / "c", **given).rows}
    assert repaired["failing"].notes == []
    assert repaired["failing"].figures["knn"].estimate == repaired["rotation"].figures["knn"].estimate


def test_the_command_line_says_that_a_task_failed_and_exits_with_1(call: Call, tmp_path: Path) -> None:
    settings = {**SMALL, "train.epochs": 0.5}
    diverging = {"simclr": {"train": {"lr": 1e30, "optimizer": "sgd"}}}
    given = {"seeds": 1, "baselines": [], "set": settings, "overrides": diverging}
    file = as_file(tmp_path / "c.yaml", **given)
    code, out, err = call("compare", "--config", file, "--out", tmp_path / "c")
    assert code == 1
    assert "simclr: failed: simclr: the loss is nan at step 2" in out, out
    assert "rotation-0: knn " in err


# ---- wrong requests

WRONG: dict[str, tuple[list[str], str]] = {
    "task": (["--tasks", "simlcr"], "there is no task 'simlcr'. Did you mean 'simclr'?"),
    "baseline as task": (["--tasks", "supervised"], "--tasks: 'supervised' is a baseline; select"),
    "baseline": (["--baselines", "rav"], "--baselines: there is no baseline 'rav'. Did you mean"),
    "protocol": (["--protocol", "knm"], "--protocol: there is no protocol 'knm'. Did you mean 'knn'?"),
    "column": (["--columns", "knm"], "--columns: there is no column 'knm'. Did you mean 'knn'?"),
    "sort": (["--sort", "knm"], "--sort: there is no column 'knm'. Did you mean 'knn'?"),
    "seeds": (["--seeds", "0"], "seeds: must be greater than or equal to 1"),
    "setting": (["--set", "train.lrr=1"], "train.lrr: there is no such setting. Did you mean 'lr'"),
    "data": (["--data", "digitss"], "data.source: 'digitss' is neither a folder nor a known data set."),
    "backbone": (["--backbone", "resnet81"], "backbone.name: timm has no model 'resnet81'."),
    "device": (["--device", "cuda:77"], "train.device: 'cuda:77' cannot be used here"),
    "cell": (["--only", "simclr-9"], "--only simclr-9: there is no such cell; there are: raw"),
    "launcher": (["--launcher", "pbs"], "--launcher: there is no 'pbs'; there are: slurm, local"),
    "both launchers": (["--launcher", "local", "--devices", "2"], "--devices cannot be combined"),
    "launcher settings": (["--launcher-set", "a=1"], "--launcher-set requires --launcher slurm"),
    "runs and tasks": (["runs/x", "--tasks", "all"], "RUN... tabulates finished runs"),
    "no run": (["no-such-run"], "no-such-run is not a run: it has no config.yaml"),
    "file": (["--config", "no.yaml"], "--config no.yaml: cannot be read: No such file or directory"),
    "two budgets": (["--epochs", "1", "--minutes", "1"], "give one budget, not epochs and minutes"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_request_is_one_line_and_writes_nothing(call: Call, wrong: str) -> None:
    arguments, expected = WRONG[wrong]
    code, out, err = call("--quiet", "compare", *arguments)
    assert (code, out) == (2, ""), err
    assert len(err.strip().splitlines()) == 1
    assert expected in err
    assert list(Path().iterdir()) == []


def test_no_task_may_have_conditions_of_its_own() -> None:
    own: list[tuple[str, str, Any]] = [
        ("train", "epochs", 3), ("train", "minutes", 1), ("data", "image_size", 24),
    ]  # fmt: skip
    for section, name, value in own:
        given = {"overrides": {"simclr": {section: {name: value}}}, "set": {"data.holdout": 0.2}}
        with pytest.raises(
            UserError, match=rf"overrides\.simclr: {section}\.\w+=.* would make its runs"
        ):
            open_sweep(**{**GIVEN, **given})


def test_null_takes_a_setting_of_all_back_for_one_task_or_for_all(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "tasks: [simclr, byol]\ntrain: {optimizer: sgd, clip_norm: 1.0, warmup: 0.3}\n"
        "data: {source: cifar10, image_size: 12, workers: 1}\n"
        "set: {train.warmup: null, data.image_size: null}\n"
        "overrides: {byol: {train: {optimizer: null, clip_norm: null}}}\n"
    )
    comparison = load_comparison(file, {})
    simclr, byol = (comparison.run_config(name, 0) for name in ("simclr", "byol"))
    assert (simclr.train.optimizer, simclr.train.clip_norm) == ("sgd", 1.0)
    assert (byol.train.optimizer, byol.train.clip_norm) == ("lars", None)  # the recipe's, and none
    assert simclr.train.warmup == registry.load_task("simclr").recipe["train"]["warmup"]
    assert [(c.data.image_size, c.data.workers) for c in (simclr, byol)] == [(None, 1)] * 2


def test_a_file_of_unknown_settings_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("task: simclr\n")
    with pytest.raises(UserError, match=r"task: there is no such setting\. Did you"):
        open_sweep(file)


def test_what_was_made_with_other_settings_is_refused(done: Path) -> None:
    other = {**GIVEN, "set": {**SMALL, "train.epochs": 1}}
    with pytest.raises(UserError, match=r"was made with train\.epochs=0\.5, not 1\.0; choose"):
        compare(out=done, **other)
    assert compare(out=done, **GIVEN).failed == []


# ---- elsewhere: other processes, a cluster


def test_each_cell_is_a_command_of_its_own(call: Call, tmp_path: Path) -> None:
    file, out = as_file(tmp_path / "c.yaml", seeds=1, tasks=["rotation"]), tmp_path / "c"
    printed = call("compare", "--config", file, "--out", out, "--dry-run")[1].splitlines()
    cells = ["raw", "random-init-0", "rotation-0", "supervised-0"]
    assert [line.split()[-1] for line in printed] == cells
    one = call("compare", "--config", file, "--out", out, "--dry-run", "--only", "rotation-0")[1]
    assert one.splitlines() == printed[2:3]
    assert sorted(p.name for p in out.iterdir()) == [COMPARE_FILE]
    for line in reversed(printed):
        program, *arguments = line.split()
        assert program == "ssl-zoo"
        assert call("--quiet", *arguments) == (0, "", "")
    before = {p: p.stat().st_mtime_ns for p in out.rglob("checkpoint.pt")}
    assert call("compare", "--config", file, "--out", out)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert figures(out)["rotation"]["knn"]["n"] == 1


CLUSTER = ["--launcher", "local", "--launcher-set", "timeout_min=10"]


@pytest.mark.parametrize("how", [["--devices", "2"], CLUSTER])
@pytest.mark.slow
def test_cells_in_processes_of_their_own_give_the_same_table(tmp_path: Path, how: list[str]) -> None:
    if "--launcher" in how:
        pytest.importorskip("submitit", reason="needs the extra slurm")
    file = as_file(tmp_path / "c.yaml", seeds=1, tasks=["rotation"], baselines=["pixels"])
    one = {"OMP_NUM_THREADS": "1"}
    there = cli("compare", "--config", file, "--out", tmp_path / "there", *how, **one)
    assert there.returncode == 0, there.stderr
    assert cli("compare", "--config", file, "--out", tmp_path / "here", **one).returncode == 0
    assert figures(tmp_path / "there") == figures(tmp_path / "here")


def test_a_process_that_dies_leaves_a_row_that_says_so(tmp_path: Path) -> None:
    plugin = tmp_path / "dies.py"
    plugin.write_text(
        "import os\nfrom ssl_zoo_vision.predictive.rotation import Rotation\n"
        "class Dies(Rotation):\n    name = 'dies'\n    def loss(self, views): os._exit(7)\n"
    )
    file = as_file(tmp_path / "c.yaml", seeds=1, tasks=["dies"], baselines=["pixels"])
    result = cli(
        "--plugin", plugin, "compare", "--config", file, "--out", tmp_path / "c", "--devices", "2"
    )
    assert result.returncode == 1
    assert "dies: failed: its process ended with code 7" in result.stdout


# ---- the time that is left


def test_the_estimate_of_the_time_left_is_the_mean_of_what_cells_took(tmp_path: Path) -> None:
    sweep = open_sweep(out=tmp_path / "c", **{**GIVEN, "baselines": ["pixels"]})
    assert sweep.seconds_left() is None

    def finish(name: str, seconds: float) -> None:
        (tmp_path / "c" / name).mkdir(parents=True)
        cell = {"cell": {"protocols": ["knn", "health"], "seconds": seconds}}
        (tmp_path / "c" / name / "results.json").write_text(json.dumps(cell))

    finish("raw", 5.0)
    assert sweep.seconds_left() is None  # nothing is known of what trains
    finish("simclr-0", 100.0)
    assert sweep.seconds_left() == pytest.approx(100 + 100 + 100)  # its second seed, and two like it
    finish("rotation-0", 40.0)
    assert sweep.seconds_left() == pytest.approx(100 + 40)
    assert sweep.seconds_left(at_once=2) == pytest.approx(70)
    sweep.begin(sweep.todo()[0])
    sweep.advance(sweep.todo()[0], 0.5)
    assert sweep.seconds_left() == pytest.approx(50 + 40)
    assert [cell.status for cell in sweep.cells] == ["done", "done", "done", "waiting", "waiting"]


# ---- the cost per cell


def tabulate_finished(folder: Path, seeds: int) -> int:
    """Check and tabulate a comparison whose cells are all done; return the number of cells."""
    given = {**GIVEN, "seeds": seeds, "protocols": ["knn"]}
    for cell in open_sweep(out=folder, **given).cells:
        cell.path.mkdir(parents=True)
        run = Run(cell.path)
        if cell.row in ("simclr", "rotation", "supervised"):
            run.config_file.write_text(dump_config(cell.config))
        run.write_results({"cell": {"protocols": ["knn"]}, "scores": {cell.row: {"knn": 80.0}}})
    sweep = open_sweep(out=folder, **given)
    sweep.write()
    assert not sweep.todo()
    assert len(sweep_table(sweep).outcomes) == len(sweep.cells)
    return len(sweep.cells)


def test_what_is_installed_is_not_read_for_each_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count(module: ModuleType, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: calls.update([name]) or function(*given))

    count(entries, "distributions")  # reads the metadata of all that is installed
    count(registry_module, "SourceReader")  # reads the source of tasks
    found = []
    for seeds in (1, 10):
        entries._read_all.cache_clear()
        calls.clear()
        found.append((tabulate_finished(tmp_path / str(seeds), seeds), dict(calls)))
    (few, before), (many, after) = found
    assert many > 8 * few
    assert after["SourceReader"] == before["SourceReader"] > 0
    # Once, and again if a package happens to be installed in these seconds.
    assert 1 <= after["distributions"] <= 2


# ---- runs that were made one by one


@pytest.fixture(name="runs", scope="module")
def single_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("single")
    given: dict[str, tuple[str, dict[str, Any]]] = {
        "a0": ("rotation", {}), "a1": ("rotation", {"train__seed": 1}),
        "warm": ("simclr", {"task__temperature": 0.9}), "cold": ("simclr", {"task__temperature": 0.1}),
        "long": ("rotation", {"train__epochs": 1}), "twin": ("rotation", {}),
    }  # fmt: skip
    for name, (task, settings) in given.items():
        train(small_config(task, **{"train__epochs": 0.5, **settings}), out=folder / name)
    return {name: folder / name for name in given}


def test_runs_of_one_task_are_one_row_and_other_settings_another(runs: dict[str, Path]) -> None:
    table = tabulate([runs[name] for name in ("a0", "a1", "warm", "cold")])
    rows = {row.name: row.runs for row in table.rows}
    assert rows == {
        "rotation": 2, "simclr (temperature=0.9)": 1, "simclr (temperature=0.1)": 1,
        "pixels": 1, "random-init": 2,
    }  # fmt: skip


def test_runs_that_are_not_comparable_are_refused_or_marked(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    unlike = [runs["a0"], runs["long"]]
    with pytest.raises(UserError) as caught:
        tabulate(unlike)
    assert str(caught.value) == (
        f"runs are not comparable: train.epochs is 0.5 in {runs['a0']}, but 1.0 in {runs['long']}; "
        "--mixed tabulates them anyway, marked"
    )
    table = tabulate(unlike, mixed=True, out=tmp_path / "t")
    assert table.foot[0] == "NOT COMPARABLE: the runs differ in train.epochs."
    assert {"rotation (epochs=0.5)", "rotation (epochs=1.0)"} <= {row.name for row in table.rows}
    assert "NOT COMPARABLE" in (tmp_path / "t" / "table.md").read_text()


def test_one_run_does_not_count_twice(runs: dict[str, Path]) -> None:
    assert len(tabulate([runs["a0"], runs["a0"]]).outcomes) == len(tabulate([runs["a0"]]).outcomes)
    with pytest.raises(UserError, match="two of the runs are the same: rotation with seed 0"):
        tabulate([runs["a0"], runs["twin"]])


def test_protocols_that_are_missing_are_evaluated(runs: dict[str, Path]) -> None:
    table = tabulate([runs["cold"]], protocol=["linear"], columns=["linear"])
    assert {row.name: row.figures["linear"].estimate is not None for row in table.rows} == {
        "simclr": True, "pixels": True, "random-init": True,
    }  # fmt: skip


def test_a_comparison_is_tabulated_by_its_folder(call: Call, done: Path) -> None:
    code, out, err = call("compare", done, "--columns", "knn", "--json")
    assert (code, err) == (0, "")
    read = json.loads(out)
    assert [column["name"] for column in read["columns"]] == ["knn"]
    assert {row["name"] for row in read["rows"]} == set(figures(done))


def test_an_unfinished_run_is_not_tabulated(tmp_path: Path) -> None:
    made = Run.create(tmp_path / "r", small_config("rotation"))
    with pytest.raises(UserError, match="is not finished; resume it with: ssl-zoo train --resume"):
        tabulate([made.path])


def test_plugins_add_columns_and_one_that_fails_costs_no_other(done: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "columns.py"
    plugin.write_text(
        "from ssl_zoo import hookimpl\n"
        "from ssl_zoo.comparison import Column\n"
        "def first(o): return o.run.metrics()[0]['loss'] if o.run.metrics() else None\n"
        "def optimiser(o): return o.run.config().train.optimizer if 'steps' in o.facts else None\n"
        "@hookimpl\n"
        "def ssl_zoo_table_columns():\n"
        "    return {'first': Column('first', 'first loss', 'the first logged loss', first),\n"
        "            'optimiser': Column('optimiser', 'optimiser', 'by name', optimiser),\n"
        "            'broken': Column('broken', 'broken', 'by nothing', lambda o: 1 / 0)}\n"
    )
    columns = "knn,first,optimiser,broken"
    result = cli("--plugin", plugin, "compare", done, "--columns", columns, "--json")
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row["figures"] for row in json.loads(result.stdout)["rows"]}
    losses = [Run(done / f"simclr-{seed}").metrics()[0]["loss"] for seed in (0, 1)]
    assert rows["simclr"]["first"]["mean"] == pytest.approx(sum(losses) / 2)
    assert rows["simclr"]["optimiser"] == "muon"
    assert rows["simclr"]["broken"] is None
    assert rows["pixels"]["first"] is None
    assert "ZeroDivisionError" in result.stderr


# ---- tasks that do not suit the data or the backbone


class Needy(Rotation):
    """A task that only transformers support."""

    name = "needy"

    def __init__(self, encoder: Any, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        encoder.tokens(torch.zeros(1, spec.channels, spec.size, spec.size), torch.zeros(1, 1).long())


class Textual(Rotation):
    """A task for data of another modality."""

    name = "textual"
    modality = "text"


@pytest.fixture
def needy_and_textual(isolated_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    off = [*(name for name in SHIPPED if name != "rotation"), *OTHERS]
    monkeypatch.setenv("SSL_ZOO_DISABLE_PLUGINS", ",".join(off))
    for task in (Needy, Textual):
        registry.register_task(task)


def test_of_all_tasks_those_that_do_not_suit_are_left_out_and_said(
    needy_and_textual: None, tmp_path: Path
) -> None:
    given = {**GIVEN, "tasks": "all", "seeds": 1, "baselines": []}
    table = compare(out=tmp_path / "c", **given)
    assert table.failed == []
    notes = {row.name: row.notes for row in table.rows}
    assert notes["rotation"] == []
    assert "left out: the backbone has no patches that can be left out" in notes["needy"][0]
    assert notes["textual"] == [
        "left out: data.source: task 'textual' takes text data, but 'digits' has image data"
    ]


def test_a_task_that_is_asked_for_by_name_and_does_not_suit_has_failed(
    needy_and_textual: None, tmp_path: Path
) -> None:
    table = compare(out=tmp_path / "c", **{**GIVEN, "tasks": ["needy"], "seeds": 1, "baselines": []})
    assert [row.name for row in table.rows] == ["needy"]
    assert len(table.failed) == 1


# ---- data without labels


def test_without_labels_there_is_health_and_no_supervised_row(tmp_path: Path) -> None:
    from tests.core.pictures import photo, write

    for i in range(160):
        write(tmp_path / "photos" / f"{i}.png", photo(seed=i))
    settings = {**SMALL, "data.source": str(tmp_path / "photos"), "train.batch_size": 64}
    given = {"seeds": 1, "tasks": ["rotation"], "protocols": ["knn", "linear", "health"]}
    table = compare(out=tmp_path / "c", set=settings, **given)
    assert table.failed == []
    assert any("has no labels, so there is no knn, no linear" in text for text in table.foot)
    rows = {row.name: row for row in table.rows}
    assert "knn" not in {column.name for column in table.columns}
    assert rows["rotation"].figures["rankme"].estimate is not None
    assert rows["supervised"].notes == ["left out: it learns from labels, and photos has none"]
