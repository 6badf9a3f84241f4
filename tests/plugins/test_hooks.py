"""Hooks are verified and called one plugin at a time; a broken one affects no other."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ssl_zoo
from ssl_zoo import hookimpl
from ssl_zoo.errors import UserError
from ssl_zoo.plugins import hookspecs as specs
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import HOOKS, OBSERVING
from tests.plugins.sources import (
    BROKEN,
    OBSERVER,
    SHIPPED,
    TASK,
    Install,
    faults,
    load_error,
    observing,
)

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
        "ssl_zoo_step_logged(run, step: int, values) does not match the hook, "
        "which is ssl_zoo_step_logged(run, step, metrics)",
    ),
    (observing("ssl_zoo_run_started", "...", "run, *, deep"), "must take its arguments by position"),
    (observing("ssl_zoo_register_tasks", "...", "config"), "which is ssl_zoo_register_tasks()"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), BROKEN_HOOKS)
def test_a_broken_hook_module_is_told_once_and_harms_no_other(
    install: Install, caplog: pytest.LogCaptureFixture, source: str, expected: str
) -> None:
    install("dist-bad", {"broken": "dist_bad"}, version="0.3", dist_bad=source)
    install("dist-good", {"watch": "dist_good"}, dist_good=OBSERVER)
    for _ in range(2):
        registry.notify("ssl_zoo_step_logged", run=None, step=3, metrics={})
        registry.collect("ssl_zoo_register_sources")
        registry._hook_modules = None
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("plugin 'broken', from dist-bad 0.3 (dist_bad): ")
    assert expected in warning
    assert len(warning.splitlines()) == 1
    assert len(sys.modules["dist_good"].seen) == 2
    assert faults().keys() == {"broken"}
    assert expected in faults()["broken"]
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
    for name, expected in (
        ("wach", "there is no observer 'wach'. Did you mean 'watch'?"),
        ("simclr", "there is no observer 'simclr'. There are: "),
        ("protocols", "there is no observer 'protocols'. There are: "),
        ("broken", "there is no observer 'broken': cannot be loaded: ModuleNotFoundError: "),
    ):
        with pytest.raises(UserError) as caught:
            registry.check_observers([name])
        assert str(caught.value).startswith(f"train.observers: {expected}")


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
    message = registry.describe_error(caught.value)
    line = 1 + source[: source.index("# seven")].count("\n")
    assert message is not None
    assert message.startswith("RuntimeError: ")
    assert message.endswith(f" at {folder / 'dist_one' / 'task.py'}:{line}, in dist-one 1.5")
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
    # pluggy knows of no requests
    monkeypatch.setenv("SSL_ZOO_DISABLE_PLUGINS", "tensorboard,wandb,mlflow")
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
    registry.hook_modules().manager.hook.ssl_zoo_run_started(run=theirs, step=0, summary=None)
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
    errors = faults(check=True)
    assert "also registered by plugin 'two', from dist-two 2 (dist_two)" in errors["one"]
    assert "also registered by plugin 'one', from dist-one 1.5 (dist_one)" in errors["two"]
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
    """Check that each `notify("ssl_zoo_…")` in the core passes the arguments of the hook's signature."""
    calls = [
        node
        for file in Path(ssl_zoo.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "notify"
        and isinstance(node.args[0], ast.Constant)
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


class FailingBar:
    """An observer that fails."""

    @hookimpl
    def ssl_zoo_epoch_ended(self) -> None:
        raise ValueError("no terminal")


def test_an_object_that_fails_is_reported_by_its_class(caplog: pytest.LogCaptureFixture) -> None:
    with registry.observing(FailingBar()), registry.observing(FailingBar()):
        registry.notify("ssl_zoo_epoch_ended", run=None, epoch=1)
    messages = sorted(record.getMessage() for record in caplog.records)
    assert [message.split(":")[0] for message in messages] == [
        "plugin FailingBar (observer 1)",
        "plugin FailingBar (observer 2)",
    ]
