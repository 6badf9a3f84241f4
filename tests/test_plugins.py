"""Plugins are found without being imported, and one that is broken costs no other."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ssl_zoo
from ssl_zoo.errors import UserError
from ssl_zoo.plugins import entry_points as entries
from ssl_zoo.plugins import hookspecs as specs
from ssl_zoo.plugins.entry_points import installed
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import HOOKS, OBSERVING
from ssl_zoo.task import Losses, Task
from tests.conftest import OTHERS

SHIPPED = ["byol", "inpainting", "jigsaw", "mae", "moco", "rotation", "simclr", "supervised"]

TASK = '''
from ssl_zoo import Task

raise_at_import = None

class Mine(Task):
    """Guess the colour.

    At length.
    """
    name = "mine"
    paper = "Me 2030"
    def views(self, batch, rng): return (batch,)
    def loss(self, views): ...
'''
BROKEN = "import ssl_zoo\n\nimport no_such_module\n"
OBSERVER = """
from ssl_zoo import hookimpl

seen = []

@hookimpl
def ssl_zoo_step_logged(step, metrics):
    seen.append((step, metrics))
"""

Install = Callable[..., Path]
NO_OTHERS = {"SSL_ZOO_DISABLE_PLUGINS": ",".join(OTHERS)}


@pytest.fixture(autouse=True)
def fresh(isolated_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is installed here, what ships alone."""
    monkeypatch.delenv("SSL_ZOO_DISABLE_PLUGINS", raising=False)
    monkeypatch.setattr(
        registry, "find", lambda: [e for e in installed() if e.distribution not in OTHERS]
    )


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put what pip would install into a folder of its own on sys.path."""

    def install(
        distribution: str, entries: dict[str, str] | str, version: str = "1.5", **modules: str
    ) -> Path:
        folder = tmp_path / distribution
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        lines = (
            entries if isinstance(entries, str) else "\n".join(f"{k} = {v}" for k, v in entries.items())
        )
        (info / "entry_points.txt").write_text(f"[ssl_zoo]\n{lines}\n")
        for name, source in modules.items():
            file = folder / f"{name.replace('__', '/', 1)}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(source)
        monkeypatch.syspath_prepend(folder)
        return folder

    return install


def load_error(name: str) -> str:
    with pytest.raises(UserError) as caught:
        registry.load_task(name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def faults(check: bool = False) -> dict[str, str]:
    return {p.name: p.error for p in registry.plugins(check) if p.error is not None}


def python(script: str, *folders: Path, **environment: str) -> Any:
    """Run a script in a new process; what it prints, read as JSON."""
    path = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, **NO_OTHERS, **environment}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    from ssl_zoo.plugins.registry import registry
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
    from ssl_zoo.plugins.registry import registry
    name = registry.load_task("mine").name
    print(json.dumps([name, [m for m in sys.modules if m.startswith(("dist_", "ssl_zoo_vision"))]]))
    """
    assert python(script, folder) == ["mine", ["dist_one"]]


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
    ("source", "said"),
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
def test_a_broken_task_harms_no_other(install: Install, source: str, said: str) -> None:
    install("dist-bad", {"mine": "dist_bad:Mine"}, version="2.0rc1", dist_bad=source)
    message = load_error("mine")
    assert message.startswith("task 'mine', from dist-bad 2.0rc1 (dist_bad:Mine), ")
    assert said in message
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
    found = entries.distributions
    monkeypatch.setattr(entries, "distributions", lambda: reads.append(1) or found())
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
    assert set(registry.tasks()) == {
        "byol",
        "inpainting",
        "jigsaw",
        "mae",
        "rotation",
        "simclr",
        "supervised",
    }
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
    found = {p.distribution: p.error for p in registry.plugins() if p.distribution != "ssl-zoo"}
    assert found == {
        "dist-line": "entry_points.txt cannot be understood",
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
    assert "claimed by this process (tests.test_plugins:Mine) and by ssl-zoo " in message


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
    ("source", "said"),
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
            "ssl_zoo_step_logged(step, loss) does not fit",
        ),
    ],
)
def test_a_broken_file_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, source: str, said: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(source)
    with pytest.raises(UserError) as caught:
        registry.load_file(file)
    assert str(caught.value).startswith(f"--plugin {file}: ")
    assert said in str(caught.value)
    assert set(registry.tasks()) == set(SHIPPED)
    if "cannot be imported" in said:
        assert not any(name.endswith("_broken") for name in sys.modules)


@pytest.mark.parametrize("name", ["none.py", ".", "text.txt"])
def test_a_file_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("x = 3")
    with pytest.raises(UserError, match="there is no such Python file"):
        registry.load_file(tmp_path / name)


# ---- hooks


def observing(hook: str, body: str, parameters: str = "", mark: str = "@hookimpl") -> str:
    return f"from ssl_zoo import hookimpl\n\n{mark}\ndef {hook}({parameters}):\n    {body}\n"


BROKEN_HOOKS = [
    (BROKEN, "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module' at "),
    ("raise SystemExit('no')", "cannot be loaded: SystemExit: no at "),
    ("x = 3", "implements no hook"),
    (observing("ssl_zoo_run_strated", "..."), "Did you mean 'ssl_zoo_run_started'"),
    (observing("ssl_zoo_run_strated", "...", mark=""), "no hook 'ssl_zoo_run_strated'. Did you mean"),
    (observing("run_started", "..."), "there is no hook 'run_started'."),
    (observing("other", "...", mark='@hookimpl(specname="ssl_zoo_x")'), "there is no hook 'ssl_zoo_x'"),
    (observing("ssl_zoo_run_started", "...", "run", mark=""), "is not marked with @ssl_zoo.hookimpl"),
    (observing("ssl_zoo_run_started", "yield", "run"), "must be a plain"),
    (observing("ssl_zoo_run_started", "yield", "run", "@hookimpl(wrapper=True)"), "must be a plain"),
    (
        observing("ssl_zoo_step_logged", "...", "run, step: int, values"),
        "ssl_zoo_step_logged(run, step: int, values) does not fit the hook, "
        "which is ssl_zoo_step_logged(run, step, metrics)",
    ),
    (observing("ssl_zoo_run_started", "...", "run, *, deep"), "must take its arguments by position"),
    (observing("ssl_zoo_register_tasks", "...", "config"), "which is ssl_zoo_register_tasks()"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "said"), BROKEN_HOOKS)
def test_a_broken_hook_module_is_told_once_and_harms_no_other(
    install: Install, caplog: pytest.LogCaptureFixture, source: str, said: str
) -> None:
    install("dist-bad", {"broken": "dist_bad"}, version="0.3", dist_bad=source)
    install("dist-good", {"watch": "dist_good"}, dist_good=OBSERVER)
    for _ in range(2):
        registry.notify("ssl_zoo_step_logged", run=None, step=3, metrics={})
        registry.collect("ssl_zoo_register_sources")
        registry._hook_modules = None
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("plugin 'broken', from dist-bad 0.3 (dist_bad): ")
    assert said in warning
    assert len(warning.splitlines()) == 1
    assert len(sys.modules["dist_good"].seen) == 2
    assert faults().keys() == {"broken"}
    assert said in faults()["broken"]
    assert registry.load_task("moco").name == "moco"


def test_a_warning_is_one_line_on_standard_error(install: Install) -> None:
    folder = install("dist-bad", {"broken": "dist_bad"}, dist_bad=BROKEN)
    script = (
        "from ssl_zoo.plugins.registry import registry\n"
        "for _ in range(2): registry.collect('ssl_zoo_register_sources')"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("plugin 'broken', from dist-bad 1.5 (dist_bad): cannot be loaded: ")


@pytest.mark.parametrize(
    "parameters", ["", "metrics", "step, run", "run, deep=3", "run, *rest, **more", "step, /"]
)
def test_an_implementation_names_what_it_uses(install: Install, parameters: str) -> None:
    source = "seen = []\n" + observing("ssl_zoo_step_logged", "seen.append(locals())", parameters)
    install("dist-one", {"watch": "dist_one"}, dist_one=source)
    arguments = {"run": "r", "step": 3, "metrics": {"loss": 1.0}}
    registry.notify("ssl_zoo_step_logged", **arguments)
    (seen,) = sys.modules["dist_one"].seen
    assert {k: v for k, v in seen.items() if k in arguments} == {
        k: v for k, v in arguments.items() if k in parameters
    }


def test_one_module_announced_twice_is_a_fault_of_the_second(install: Install) -> None:
    install("dist-one", {"a": "dist_watch", "b": "dist_watch"}, dist_watch=OBSERVER)
    assert faults().keys() == {"b"}
    registry.notify("ssl_zoo_step_logged", run=None, step=1, metrics={})
    assert len(sys.modules["dist_watch"].seen) == 1


def test_two_distributions_may_call_their_hooks_alike(install: Install) -> None:
    install("dist-one", {"watch": "dist_one"}, dist_one=OBSERVER)
    install("dist-two", {"watch": "dist_two"}, dist_two=OBSERVER)
    registry.notify("ssl_zoo_step_logged", run=None, step=1, metrics={})
    assert faults() == {}
    assert sys.modules["dist_one"].seen == sys.modules["dist_two"].seen == [(1, {})]


@pytest.mark.parametrize(
    "body", ["raise RuntimeError('disk\\nfull')", "raise SystemExit(1)", "run.none"]
)
def test_an_observer_that_raises_stops_neither_the_run_nor_other_observers(
    install: Install, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    source = observing("ssl_zoo_step_logged", body, "run") + observing("ssl_zoo_run_ended", body, "run")
    folder = install("dist-bad", {"bad": "dist_bad"}, dist_bad=source)
    install("dist-good", {"watch": "dist_good"}, dist_good=OBSERVER)
    for step in range(3):
        registry.notify("ssl_zoo_step_logged", run=None, step=step, metrics={})
    registry.notify("ssl_zoo_run_ended", run=None, results={})
    assert len(sys.modules["dist_good"].seen) == 3
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("plugin 'bad', from dist-bad 1.5 (dist_bad): ssl_zoo_step_logged raised ")
    assert warning.endswith(f" at {folder / 'dist_bad.py'}:5")
    assert len(warning.splitlines()) == 1


def test_an_observer_on_request_is_told_only_of_runs_that_ask_for_it(install: Install) -> None:
    install("dist-one", {"quiet": "dist_one"}, dist_one=OBSERVER + "\non_request = True\n")
    registry.notify("ssl_zoo_step_logged", run=None, step=1, metrics={})
    registry.notify("ssl_zoo_step_logged", ["other"], run=None, step=2, metrics={})
    registry.notify("ssl_zoo_step_logged", ["other", "quiet"], run=None, step=3, metrics={})
    assert sys.modules["dist_one"].seen == [(3, {})]


def test_asking_for_an_observer_that_there_is_not_is_an_error(install: Install) -> None:
    install("dist-one", {"watch": "dist_one"}, dist_one=OBSERVER)
    install("dist-bad", {"broken": "dist_bad"}, dist_bad=BROKEN)
    registry.check_observers(["watch"])
    for name, said in (
        ("wach", "there is no observer 'wach'. Did you mean 'watch'?"),
        ("simclr", "there is no observer 'simclr'. There are: "),
        ("protocols", "there is no observer 'protocols'. There are: "),
        ("broken", "there is no observer 'broken': cannot be loaded: ModuleNotFoundError: "),
    ):
        with pytest.raises(UserError) as caught:
            registry.check_observers([name])
        assert str(caught.value).startswith(f"train.observers: {said}")


def test_an_observer_may_refuse_a_run_but_not_stop_one(install: Install) -> None:
    refuse = "from ssl_zoo import UserError; raise UserError('log in first')"
    source = observing("ssl_zoo_run_started", refuse) + observing("ssl_zoo_step_logged", refuse)
    install("dist-one", {"watch": "dist_one"}, dist_one=source)
    with pytest.raises(UserError, match="log in first"):
        registry.notify("ssl_zoo_run_started", run=None, step=0)
    registry.notify("ssl_zoo_step_logged", run=None, step=1, metrics={})


def test_an_error_is_laid_to_the_plugin_in_whose_code_it_arose(install: Install) -> None:
    source = TASK.replace(
        "    def loss(self, views): ...",
        "    def loss(self, views):\n        return views[0].view(-1, 7)  # seven",
    )
    folder = install("dist-one", {"mine": "dist_one.task:Mine"}, dist_one__task=source)
    (folder / "dist_one" / "__init__.py").touch()
    import torch

    cls = registry.load_task("mine")
    with pytest.raises(RuntimeError) as caught:
        cls.loss(None, (torch.ones(3),))  # type: ignore[arg-type]
    said = registry.describe_error(caught.value)
    line = 1 + source[: source.index("# seven")].count("\n")
    assert said is not None
    assert said.startswith("RuntimeError: ")
    assert said.endswith(f" at {folder / 'dist_one' / 'task.py'}:{line}, in dist-one 1.5")
    with pytest.raises(ZeroDivisionError) as caught:
        divmod(1, 0)
    assert registry.describe_error(caught.value) is None


def test_an_observer_cannot_swallow_ctrl_c(install: Install) -> None:
    source = observing("ssl_zoo_run_started", "raise KeyboardInterrupt")
    install("dist-one", {"watch": "dist_one"}, dist_one=source)
    with pytest.raises(KeyboardInterrupt):
        registry.notify("ssl_zoo_run_started", run=None, step=0)


def test_observers_are_called_in_pluggys_order(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_ZOO_DISABLE_PLUGINS", "tensorboard,wandb")  # pluggy knows of no requests
    for name, mark in (
        ("one", "@hookimpl(trylast=True)"),
        ("two", "@hookimpl"),
        ("six", "@hookimpl(tryfirst=True)"),
    ):
        source = observing("ssl_zoo_run_started", f"run.append({name!r})", "run", mark)
        install(f"dist-{name}", {name: f"dist_{name}"}, **{f"dist_{name}": source})
    ours: list[str] = []
    registry.notify("ssl_zoo_run_started", run=ours, step=0)
    theirs: list[str] = []
    registry.hook_modules().manager.hook.ssl_zoo_run_started(run=theirs, step=0)
    assert ours == theirs == ["six", "two", "one"]


# ---- what hooks give

SOURCES = "ssl_zoo_register_sources"


def test_what_plugins_give_is_joined(install: Install) -> None:
    install(
        "dist-one", {"one": "dist_one"}, dist_one=observing(SOURCES, "return {'a': print, 'b': len}")
    )
    install("dist-two", {"two": "dist_two"}, dist_two=observing(SOURCES, "return {'c': abs}"))
    assert registry.collect(SOURCES) == {"a": print, "b": len, "c": abs}
    assert registry.collect("ssl_zoo_table_columns") == {}
    assert faults(check=True) == {}


def test_one_name_from_two_plugins_is_an_error_that_names_both(install: Install) -> None:
    install("dist-one", {"one": "dist_one"}, dist_one=observing(SOURCES, "return {'a': print}"))
    install(
        "dist-two", {"two": "dist_two"}, version="2", dist_two=observing(SOURCES, "return {'a': abs}")
    )
    with pytest.raises(UserError) as caught:
        registry.collect(SOURCES)
    assert "'a'" in str(caught.value)
    assert "plugin 'one', from dist-one 1.5 (dist_one)" in str(caught.value)
    assert "plugin 'two', from dist-two 2 (dist_two)" in str(caught.value)
    assert faults() == {}
    found = faults(check=True)
    assert "also registered by plugin 'two', from dist-two 2 (dist_two)" in found["one"]
    assert "also registered by plugin 'one', from dist-one 1.5 (dist_one)" in found["two"]
    registry.disable(["two"])
    assert registry.collect(SOURCES) == {"a": print}


@pytest.mark.parametrize(
    "body", ["raise OSError('gone')", "return None", "return ['a']", "return {'a': 3}"]
)
def test_a_plugin_that_cannot_give_is_left_out(
    install: Install, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    install("dist-bad", {"bad": "dist_bad"}, dist_bad=observing(SOURCES, body))
    install("dist-good", {"good": "dist_good"}, dist_good=observing(SOURCES, "return {'c': abs}"))
    assert registry.collect(SOURCES) == registry.collect(SOURCES) == {"c": abs}
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith(f"plugin 'bad', from dist-bad 1.5 (dist_bad): {SOURCES} ")
    assert faults(check=True).keys() == {"bad"}


def test_a_hook_can_give_tasks(install: Install) -> None:
    given = TASK + observing("ssl_zoo_register_tasks", "return {'mine': Mine, 'moco': Mine, 'bad': int}")
    install("dist-one", {"more": "dist_one"}, dist_one=given)
    assert registry.load_task("mine").__module__ == "dist_one"
    assert registry.load_task("moco").__module__ == "ssl_zoo_vision.contrastive.moco"
    assert load_error("bad").startswith(
        "task 'bad', from plugin 'more', from dist-one 1.5 (dist_one), is not a subclass of ssl_zoo.Task"
    )
    assert "Did you mean 'mine'" in load_error("minee")
    assert set(registry.tasks()) == set(SHIPPED)  # listing runs no plugin
    assert "more" in faults(check=True)


# ---- the specifications


def test_every_hook_is_called_with_the_arguments_that_it_promises() -> None:
    """Each call of a `tell` in the core passes exactly the arguments of the hook's signature."""
    calls = [
        node
        for file in Path(ssl_zoo.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "tell"
        and node.args
    ]
    notified = set()
    for call in calls:
        hook = ast.literal_eval(call.args[0])
        notified.add(hook)
        promised = set(inspect.signature(getattr(specs, hook)).parameters)
        assert {keyword.arg for keyword in call.keywords} == promised, hook
    assert notified == OBSERVING


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook: str) -> None:
    function = getattr(specs, hook)
    doc = inspect.getdoc(function)
    assert doc is not None
    for parameter in inspect.signature(function).parameters:
        assert f"\n    {parameter}: " in doc
    if hook.startswith("ssl_zoo_register") or hook == "ssl_zoo_table_columns":
        assert "Returns:" in doc


def test_the_manager_knows_every_hook() -> None:
    manager = registry.hook_modules().manager
    assert all(getattr(manager.hook, hook).spec is not None for hook in HOOKS)
    assert logging.getLogger("ssl_zoo.plugins.registry").level <= logging.WARNING
