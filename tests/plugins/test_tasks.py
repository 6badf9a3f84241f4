"""Tasks are found without being imported, and a broken one affects no other."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ssl_zoo.errors import UserError
from ssl_zoo.plugins import entry_points as entries
from ssl_zoo.plugins.registry import PluginRegistry, registry
from ssl_zoo.task import Losses, Task
from ssl_zoo_vision.predictive.rotation import Rotation
from tests.plugins.sources import (
    BROKEN,
    OBSERVER,
    SHIPPED,
    TASK,
    Install,
    faults,
    load_error,
    python,
)


def task_class(task_name: str = "mine", **attributes: Any) -> type[Task]:
    members = {"name": task_name, "views": lambda *_: (), "loss": lambda *_: Losses(...), **attributes}
    return type("Mine", (Task,), {"__module__": __name__, **members})


# ---- tasks


def test_the_shipped_tasks_are_found_as_anybody_elses() -> None:
    tasks = registry.tasks()
    assert sorted(tasks) == SHIPPED
    assert all(
        t.distribution == "ssl-zoo" and t.version and t.summary and t.paper for t in tasks.values()
    )
    for name in SHIPPED:
        cls = registry.load_task(name)
        assert cls.__doc__ is not None
        assert (tasks[name].paper, tasks[name].summary) == (cls.paper, cls.__doc__.splitlines()[0])
    assert faults(check=True) == {}


def test_listing_imports_neither_torch_nor_a_task(install: Install) -> None:
    raising = "raise SystemExit('imported')\n"
    folder = install(
        "dist-one",
        {"mine": "dist_one.sub:Mine", "watch": "dist_watch"},
        dist_one__sub=raising + TASK,
        dist_one____init__=raising,
        dist_watch=OBSERVER,
    )
    script = """
    import json, sys
    from ssl_zoo.plugins.registry import PluginRegistry, registry
    tasks, listed = registry.tasks(), registry.plugins()
    unwanted = ("torch", "pydantic", "dist_one", "dist_one.sub", "ssl_zoo_vision.contrastive.simclr")
    modules = [m for m in unwanted if m in sys.modules]
    mine = tasks["mine"]
    read = [mine.summary, mine.paper, mine.distribution, mine.version]
    print(json.dumps([sorted(tasks), modules, read,
        [[p.name, p.contributes, p.error] for p in listed if p.distribution == "dist-one"]]))
    """
    names, modules, mine, listed = python(script, folder)
    assert names == sorted(["mine", *SHIPPED])
    assert modules == []
    assert mine == ["Guess the colour.", "Me 2030", "dist-one", "1.5"]
    assert listed == [["mine", "task", None], ["watch", "observer", None]]


@pytest.mark.parametrize("arguments", [["--help"], ["tasks"], ["train", "--help"]])
def test_the_command_line_lists_without_torch(arguments: list[str]) -> None:
    script = f"""
    import contextlib, io, json, sys
    sys.argv = ["ssl-zoo", *{arguments!r}]
    from ssl_zoo.cli.app import main
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
    print(json.dumps("torch" in sys.modules))
    """
    assert python(script) is False


def test_loading_one_task_imports_no_other(install: Install) -> None:
    folder = install(
        "dist-one", {"mine": "dist_one:Mine", "bad": "dist_bad:Bad"}, dist_one=TASK, dist_bad=BROKEN
    )
    script = """
    import json, sys
    from ssl_zoo.plugins.registry import PluginRegistry, registry
    name = registry.load_task("mine").name
    print(json.dumps([name, [m for m in sys.modules if m.startswith(("dist_", "ssl_zoo_vision"))]]))
    """
    assert python(script, folder) == ["mine", ["dist_one"]]


def test_tasks_are_listed_with_the_data_they_take_and_what_they_need(install: Install) -> None:
    base = TASK.replace('paper = "Me 2030"', "paper = 'Me'; modality = 'text'").replace("Mine", "Base")
    install(
        "dist-text",
        {"mine": "dist_text.tasks:Mine", "guess": "dist_text.tasks:Guess"},
        dist_text____init__="raise_at_import = None\n",
        dist_text__base=base,
        dist_text__tasks="from .base import Base as Ours\n"
        "class Mine(Ours):\n    needs = ('labels', 'index')\n"
        "class Guess(unknown.Base):\n    pass\n",
    )
    tasks = registry.tasks()
    read = {name: (task.modality, task.needs) for name, task in tasks.items()}
    assert read["simclr"] == ("image", ())
    assert read["supervised"] == ("image", ("labels",))
    assert read["mine"] == ("text", ("labels", "index"))
    assert read["guess"] == ("", ())  # its base cannot be found
    assert not any(name.startswith("dist_text") for name in sys.modules)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (TASK, ("Guess the colour.", "Me 2030")),
        (
            TASK.replace('paper = "Me 2030"', 'paper: str = "Me " "2030"'),
            ("Guess the colour.", "Me 2030"),
        ),
        (TASK.replace('paper = "Me 2030"', "paper = 'Me %d' % 2030"), ("Guess the colour.", "")),
        ("class Mine: pass", ("", "")),
        ("from elsewhere import Mine", ("", "")),
        ("class Mine(:", ("", "")),
        ("# coding: latin-1\nclass Mine:\n    '''\xe9t\xe9'''\n", ("\xc3\xa9t\xc3\xa9", "")),
        ("\0", ("", "")),
    ],
)
def test_what_can_be_read_from_the_source_is(
    install: Install, source: str, expected: tuple[str, str]
) -> None:
    install("dist-one", {"mine": "dist_one:Mine", "gone": "dist_gone.deep:Gone"}, dist_one=source)
    entry = registry.tasks()["mine"]
    assert (entry.summary, entry.paper) == expected
    assert registry.tasks()["gone"].summary == ""


def test_a_task_that_cannot_be_imported_is_named_with_all_that_is_needed(install: Install) -> None:
    folder = install("dist-one", {"bad": "dist_bad:Bad"}, dist_bad=BROKEN)
    assert load_error("bad") == (
        "task 'bad', from dist-one 1.5 (dist_bad:Bad), cannot be imported: "
        f"ModuleNotFoundError: No module named 'no_such_module' at {folder / 'dist_bad.py'}:3"
    )
    assert faults() == {}
    assert faults(check=True) == {"bad": load_error("bad")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = (\n", "SyntaxError: '(' was never closed at "),
        ("raise SystemExit(3)", "SystemExit: 3 at "),
        ("raise ValueError('two\\nlines')", "ValueError: two lines at "),
        ("assert False", "cannot be imported: AssertionError at "),
        ("", "cannot be imported: AttributeError: module 'dist_bad' has no attribute 'Mine'"),
        ("Mine = 3", "is not a subclass of ssl_zoo.Task: 3"),
        ("class Mine: pass", "is not a subclass of ssl_zoo.Task: <class 'dist_bad.Mine'>"),
        (TASK.replace('name = "mine"', 'name = "other"'), "has the `name` 'other'"),
        (TASK.replace('name = "mine"', ""), "has no `name`"),
        (TASK.replace("def loss", "def losses"), "lacks the methods: loss"),
        (TASK + "    class Options: ...\n", "has `Options` that do not derive from ssl_zoo.TaskOptions"),
        (TASK + "    class Options(Task.Options): name: str = ''\n", "has an option `name`"),
        (TASK + "    recipe = ['sgd']\n", "has a `recipe` that is not a mapping: ['sgd']"),
    ],
)
def test_a_broken_task_harms_no_other(install: Install, source: str, expected: str) -> None:
    install("dist-bad", {"mine": "dist_bad:Mine"}, version="2.0rc1", dist_bad=source)
    message = load_error("mine")
    assert message.startswith("task 'mine', from dist-bad 2.0rc1 (dist_bad:Mine), ")
    assert expected in message
    assert faults(check=True) == {"mine": message}
    assert registry.load_task("rotation").name == "rotation"
    assert set(registry.tasks()) == {"mine", *SHIPPED}


def test_two_distributions_with_one_task_name_are_both_named(install: Install) -> None:
    install("dist-one", {"mine": "dist_one:Mine", "rotation": "dist_one:Mine"}, dist_one=TASK)
    install("dist-two", {"mine": "dist_two:Mine"}, version="2", dist_two=TASK)
    message = load_error("mine")
    assert "claimed by dist-one 1.5 (dist_one:Mine) and by dist-two 2 (dist_two:Mine)" in message
    assert "--no-plugin" in message
    assert "by dist-one 1.5 " in load_error("rotation")
    assert "by ssl-zoo " in load_error("rotation")
    listed = registry.plugins()
    assert [p.distribution for p in listed if p.name == "mine" and p.error] == ["dist-one", "dist-two"]
    assert faults().keys() == {"mine", "rotation"}
    assert registry.load_task("moco").name == "moco"
    registry.disable(["dist_ONE"])  # as distributions are compared, _ is - and case does not matter
    assert registry.load_task("mine").__module__ == "dist_two"
    assert registry.load_task("rotation").__module__ == "ssl_zoo_vision.predictive.rotation"


def test_of_two_copies_of_a_distribution_the_first_on_the_path_counts(install: Install) -> None:
    install("dist-one", {"mine": "dist_one:Mine"}, dist_one=TASK)
    folder = install("Dist.One-new", {"mine": "dist_one:Mine"}, dist_one=TASK)
    info = next(folder.glob("*.dist-info"))
    (info / "METADATA").write_text("Name: Dist.One\nVersion: 9\n")
    assert registry.tasks()["mine"].version == "9"
    assert registry.load_task("mine").name == "mine"


def test_an_unknown_task_is_answered_with_the_nearest(install: Install) -> None:
    install("dist-one", {"watch": "dist_watch"}, dist_watch=OBSERVER)
    assert load_error("simlcr").startswith(
        "there is no task 'simlcr'. Did you mean 'simclr'? There are: "
    )
    assert "'watch', from dist-one 1.5 (dist_watch), is not a task" in load_error("watch")
    registry.disable(["ssl-zoo"])
    assert "disabled" in load_error("simclr")


def test_without_any_task_the_message_says_how_to_get_one(install: Install) -> None:
    registry.disable(["ssl-zoo"])
    message = load_error("mine")
    assert "there is no task 'mine', and no task at all" in message
    assert "pip install" in message


def test_what_is_installed_is_read_again_where_it_has_changed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = entries.distributions
    monkeypatch.setattr(entries, "distributions", lambda: reads.append(1) or read())
    folder = install("dist-one", {"mine": "dist_one:Mine"}, dist_one=TASK)
    os.utime(folder, (0, 0))  # its next change may come in the same tick of the clock
    for _ in range(5):
        assert set(registry.tasks()) == {"mine", *SHIPPED}
    assert len(reads) == 1

    other = folder / "dist_two-1.dist-info"
    shutil.copytree(folder / "dist_one-1.5.dist-info", other)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-two\nVersion: 1\n")
    (other / "entry_points.txt").write_text("[ssl_zoo]\nother = dist_one:Mine\n")
    assert set(registry.tasks()) == {"mine", "other", *SHIPPED}
    os.utime(folder, (0, 0))
    registry.tasks()
    shutil.rmtree(other)
    assert set(registry.tasks()) == {"mine", *SHIPPED}
    monkeypatch.setenv("SSL_ZOO_DISABLE_PLUGINS", "mine")
    assert set(registry.tasks()) == set(SHIPPED)


def test_the_current_folder_is_another_one_elsewhere(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install("dist-one", {"mine": "dist_one:Mine"}, dist_one=TASK)
    monkeypatch.setattr(sys, "path", ["", *(place for place in sys.path if place != str(folder))])
    for here, there_is in ((folder, True), (tmp_path, False), (folder, True)):
        monkeypatch.chdir(here)
        assert ("mine" in registry.tasks()) is there_is


# ---- switching off


def test_the_environment_switches_plugins_off(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("dist-one", {"mine": "dist_one:Mine"}, dist_one=TASK)
    monkeypatch.setenv("SSL_ZOO_DISABLE_PLUGINS", " moco, dist.one,,no-such-plugin")
    assert set(registry.tasks()) == {*SHIPPED} - {"moco"}
    assert {p.name for p in registry.plugins() if p.contributes == "task"} == set(registry.tasks())


def test_switching_off_what_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match=r"--no-plugin simlcr: .* Did you mean 'simclr'\?"):
        registry.disable(["simlcr"])


# ---- a distribution whose metadata is broken


def test_entry_points_that_cannot_be_understood_are_a_fault_of_that_distribution(
    install: Install,
) -> None:
    install("dist-line", "mine", dist_line=TASK)
    install("dist-value", {"odd": "no module!"})
    nameless = next(install("dist-none", {"mine": "dist_none:Mine"}, dist_none=TASK).glob("*.dist-info"))
    (nameless / "METADATA").unlink()
    binary = next(install("dist-bytes", {"mine": "dist_bytes:Mine"}).glob("*.dist-info"))
    (binary / "entry_points.txt").write_bytes(b"[ssl_zoo]\nmine = \xff\n")
    errors = {p.distribution: p.error for p in registry.plugins() if p.distribution != "ssl-zoo"}
    assert errors == {
        "dist-line": "entry_points.txt cannot be parsed",
        "dist-value": "'no module!' is neither module nor module:Class",
        "a distribution without a name": None,
    }
    assert "'odd', from dist-value 1.5 (no module!), is not a task" in load_error("odd")
    assert set(registry.tasks()) == {"mine", *SHIPPED}
    assert registry.load_task("mine").name == "mine"


# ---- in this process


def test_a_class_can_be_registered_and_registered_anew() -> None:
    first, second = task_class(__doc__="One."), task_class(__doc__="Two.")
    assert registry.register_task(first) is first
    registry.register_task(second)
    assert registry.load_task("mine") is second
    assert registry.tasks()["mine"].summary == "Two."
    assert registry.tasks()["mine"].distribution == "this process"
    assert [p.contributes for p in registry.plugins(check=True) if p.name == "mine"] == ["task"]
    registry.register_task(task_class("renamed"))
    assert set(registry.tasks()) == {"renamed", *SHIPPED}


def test_registering_needs_a_sound_task() -> None:
    for wrong in (3, int, task_class(name=None), task_class(recipe=3)):
        with pytest.raises(UserError):
            registry.register_task(wrong)  # type: ignore[arg-type]


def test_a_registered_class_does_not_hide_an_installed_one() -> None:
    registry.register_task(task_class("moco"))
    message = load_error("moco")
    assert "claimed by this process (tests.plugins.test_tasks:Mine) and by ssl-zoo " in message


def test_registering_an_installed_class_changes_nothing() -> None:
    cls = registry.load_task("moco")
    registry.register_task(cls)
    assert registry.load_task("moco") is cls
    assert registry.tasks()["moco"].distribution == "ssl-zoo"


def test_a_file_gives_tasks_and_hooks(tmp_path: Path) -> None:
    file = tmp_path / "my plugin.py"
    base = "class Base(Task): ...\nclass Imported(Task): ...\nImported.__module__ = 'elsewhere'\n"
    file.write_text(TASK + base + OBSERVER)
    registry.load_file(file)
    registry.load_file(str(file))
    mine = registry.tasks()["mine"]
    assert (mine.summary, mine.paper, mine.distribution) == ("Guess the colour.", "Me 2030", str(file))
    assert registry.load_task("mine").name == "mine"
    registry.notify("ssl_zoo_step_logged", run=None, step=3, metrics={"loss": 1.0})
    assert sys.modules[registry.load_task("mine").__module__].seen == [(3, {"loss": 1.0})]
    contributed = {
        p.name: p.contributes for p in registry.plugins(check=True) if p.distribution == str(file)
    }
    assert contributed == {"mine": "task", "my plugin.py": "observer"}


def test_two_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(TASK)
        registry.load_file(tmp_path / folder / "mine.py")
    message = load_error("mine")
    assert str(tmp_path / "a" / "mine.py") in message
    assert str(tmp_path / "b" / "mine.py") in message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 3", "defines no task and implements no hook"),
        (BROKEN, "cannot be imported: ModuleNotFoundError: No module named 'no_such_module' at "),
        ("raise SystemExit", "cannot be imported: SystemExit at "),
        (TASK.replace("def loss", "def losses"), "Mine lacks the methods: loss"),
        (TASK.replace('name = "mine"', ""), "Mine has no `name`"),
        (
            TASK + OBSERVER.replace("step_logged", "step_loged"),
            "no hook 'ssl_zoo_step_loged'. Did you mean",
        ),
        (
            OBSERVER.replace("step, metrics", "step, loss"),
            "ssl_zoo_step_logged(step, loss) does not match",
        ),
    ],
)
def test_a_broken_file_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, source: str, expected: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(source)
    with pytest.raises(UserError) as caught:
        registry.load_file(file)
    assert str(caught.value).startswith(f"--plugin {file}: ")
    assert expected in str(caught.value)
    assert set(registry.tasks()) == set(SHIPPED)
    if "cannot be imported" in expected:
        assert not any(name.endswith("_broken") for name in sys.modules)


@pytest.mark.parametrize("name", ["none.py", ".", "text.txt"])
def test_a_file_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("x = 3")
    with pytest.raises(UserError, match="there is no such Python file"):
        registry.load_file(tmp_path / name)


def test_registries_know_nothing_of_each_other() -> None:
    empty, other = PluginRegistry(find=list), PluginRegistry(find=list)
    assert empty.tasks() == {}
    other.register_task(Rotation)
    assert set(other.tasks()) == {"rotation"}
    assert other.load_task("rotation") is Rotation
    assert empty.tasks() == {}
    with pytest.raises(UserError, match="no task at all"):
        empty.load_task("rotation")
