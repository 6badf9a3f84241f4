"""A new package is whole, clean, installs, and its task passes every check as it stands."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.testing import run_checks, task_checks
from ssl_zoo.testing.catalogue import SOURCE_CHECKS
from ssl_zoo.tools import new_source as sources
from ssl_zoo.tools import new_task as tasks
from ssl_zoo.tools import scaffold
from ssl_zoo.tools.new_source import new_source
from ssl_zoo.tools.new_task import new_task

IMAGE_TASKS = ("joint-embedding", "predictive", "masked")
KINDS = (*tasks.KINDS, *sources.KINDS)
PACKAGES = {kind: f"scaffolded-{kind}" for kind in KINDS}
"""The name of the package that the tests look at, for each kind."""

RULES = "E,F,I,UP,B,SIM,C4,RUF,PT,PTH,D1,D2,D4,ANN"
# Of the rules for docstrings those that contradict others, and none for tests.
IGNORED = "D103,D105,D107,D203,D205,D213,D400,D401,D406,D407,D413,D415"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No file of another test is a plugin."""
    with registry.isolated():
        yield


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a package of each kind."""
    home = tmp_path_factory.mktemp("packages")
    makers = {**dict.fromkeys(tasks.KINDS, new_task), **dict.fromkeys(sources.KINDS, new_source)}
    return {kind: makers[kind](name, kind, home / name) for kind, name in PACKAGES.items()}


def found(package: Path) -> str:
    """Put the metadata of an installed package beside it, and return its folder."""
    name = package.name
    pyproject = (package / "pyproject.toml").read_text(encoding="utf-8")
    entries = re.findall(r'^([\w-]+) = "(ssl_zoo_\w+(?::\w+)?)"$', pyproject, re.MULTILINE)
    info = package / f"ssl_zoo_{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ssl-zoo-{name}\nVersion: 0.1.0\n")
    lines = "".join(f"{key} = {value}\n" for key, value in entries)
    (info / "entry_points.txt").write_text(f"[ssl_zoo]\n{lines}")
    return str(package)


def module_of(kind: str) -> str:
    return f"ssl_zoo_{PACKAGES[kind].replace('-', '_')}"


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def python(*arguments: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def refusal(name: str, kind: Any = "joint-embedding", folder: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        new_task(name, kind, folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ---- what is written


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_has_these_files_and_no_others(packages: dict[str, Path], kind: str) -> None:
    assert files(packages[kind]) == {
        ".github/workflows/test.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        f"{module_of(kind)}.py",
        f"tests/test_{PACKAGES[kind].replace('-', '_')}.py",
    }
    for file in files(packages[kind]):
        text = (packages[kind] / file).read_text(encoding="utf-8")
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert "{%" not in text
        assert "{{" not in text.replace("${{ matrix.python }}", "")
    workflow = yaml.safe_load((packages[kind] / ".github/workflows/test.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[1]["with"] == {"python-version": "${{ matrix.python }}"}
    last = f"ssl-zoo check {PACKAGES[kind]}" if kind in tasks.KINDS else "pytest"
    assert steps[-1]["run"] == last


def test_every_template_is_used() -> None:
    folder = Path(scaffold.__file__).parent / "templates"
    used = {*scaffold.PACKAGE.values()}
    for module in (tasks, sources):
        used |= {t.format(kind=kind) for t in module.FILES.values() for kind in module.KINDS}
    assert files(folder) == used


@pytest.mark.parametrize("kind", IMAGE_TASKS)
def test_a_task_is_one_short_file_of_public_names(packages: dict[str, Path], kind: str) -> None:
    source = (packages[kind] / f"{module_of(kind)}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 75
    imported = {n.module for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom)}
    allowed = {"ssl_zoo", "ssl_zoo.distributed", "ssl_zoo.nn", "ssl_zoo.views"}
    assert {m for m in imported if m and m.startswith("ssl_zoo")} <= allowed


@pytest.mark.parametrize("kind", KINDS)
def test_linters_have_nothing_to_say(packages: dict[str, Path], kind: str) -> None:
    rules = f"--select={RULES}", f"--ignore={IGNORED}", "--line-length=88", "--target-version=py310"
    for arguments in (["check"], ["check", *rules], ["format", "--check", "--diff"]):
        done = python("-m", "ruff", *arguments, "--isolated", "--no-cache", ".", cwd=packages[kind])
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_types_are_right(packages: dict[str, Path], tmp_path: Path) -> None:
    modules = [str(packages[kind] / f"{module_of(kind)}.py") for kind in KINDS]
    options = "--strict", "--config-file=", f"--cache-dir={tmp_path}"
    done = python("-m", "mypy", *options, *modules, cwd=packages[KINDS[0]])
    assert done.returncode == 0, done.stdout


# ---- what it is worth


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_the_task_passes_every_check(packages: dict[str, Path], kind: str) -> None:
    registry.load_file(packages[kind] / f"{module_of(kind)}.py")
    checks = task_checks(registry.load_task(PACKAGES[kind]))
    if kind != "joint-embedding":  # which alone compares images; two processes take their time
        checks = [check for check in checks if check.name != "two_processes_are_one"]
    made = list(run_checks(checks))
    images_alone = {"views_take_any_image"} if kind == "text" else {"features_ignore_padding"}
    assert {o.check.name for o in made if o.status == "skipped"} == images_alone
    assert [(o.check.name, o.note) for o in made if o.bad] == []


def test_the_tests_that_come_with_it_pass(packages: dict[str, Path], tmp_path: Path) -> None:
    path = os.pathsep.join(map(found, packages.values()))
    tests = [str(folder / "tests") for folder in packages.values()]
    selection = "not test_conformance[ or describes_itself or images or stream or table"
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selection, *tests,
                  cwd=tmp_path, path=path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    # A check of each task, and three, one, one and one claims; all of sources, and two claims of each.
    total = 4 + 6 + 4 * len(SOURCE_CHECKS) + 6
    skipped = 3 * 3  # the checks of streams, but for that of archives
    assert f"{total - skipped} passed, {skipped} skipped" in done.stdout, done.stdout


def test_a_package_installs_and_is_listed(packages: dict[str, Path], tmp_path: Path) -> None:
    if find_spec("hatchling") is None or find_spec("pip") is None:
        pytest.skip("needs pip and hatchling, which would have to be downloaded")
    kind = "predictive"
    given = "--no-build-isolation", "--no-deps", "--no-index", f"--target={tmp_path / 'site'}"
    done = python("-m", "pip", "install", "-q", *given, ".", cwd=packages[kind])
    assert done.returncode == 0, done.stderr
    installed = {f for f in files(tmp_path / "site") if "dist-info" not in f and "__pycache__" not in f}
    assert installed == {f"{module_of(kind)}.py"}
    listed = python("-m", "ssl_zoo", "tasks", "--json", cwd=tmp_path, path=str(tmp_path / "site"))
    (mine,) = [task for task in json.loads(listed.stdout) if task["name"] == PACKAGES[kind]]
    assert mine == {
        "modality": "image",
        "family": "",
        "needs": [],
        "prerequisites": "",
        "passes": 1,
        "name": PACKAGES[kind],
        "value": "ssl_zoo_scaffolded_predictive:ScaffoldedPredictive",
        "summary": "Each image is rotated by 0 to 3 quarter turns, and their number is predicted.",
        "paper": "",
        "distribution": f"ssl-zoo-{PACKAGES[kind]}",
        "version": "0.1.0",
    }


def test_a_package_can_be_installed_for_editing(packages: dict[str, Path], tmp_path: Path) -> None:
    build = pytest.importorskip("hatchling.build")
    folder = packages["masked"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        wheel = zipfile.ZipFile(tmp_path / build.build_editable(str(tmp_path)))
    (path,) = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".pth")]
    assert path.strip() == str(folder)


# ---- names


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("colour-guess", "ColourGuess"),
        ("x", "X"),
        ("v2-3d-x", "V23dX"),
        ("class", "Class"),
        # What the file has another use for, or Python has.
        ("true", "TrueTask"),
        ("exception", "ExceptionTask"),
        ("task", "TaskTask"),
        ("image-spec", "ImageSpecTask"),
        ("options", "OptionsTask"),
        ("f", "FTask"),
    ],
)
def test_a_name_becomes_a_module_and_a_class(tmp_path: Path, name: str, cls: str) -> None:
    folder = new_task(name, folder=tmp_path / "new")
    module = f"ssl_zoo_{name.replace('-', '_')}"
    assert f'{name} = "{module}:{cls}"\n' in (folder / "pyproject.toml").read_text()
    registry.load_file(folder / f"{module}.py")
    task = registry.load_task(name)
    assert (task.name, task.__name__) == (name, cls)


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_no_other_name_in_the_files_can_be_a_class(packages: dict[str, Path], kind: str) -> None:
    bound: set[str] = set()
    for file in files(packages[kind]):
        if file.endswith(".py"):
            for node in ast.walk(ast.parse((packages[kind] / file).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    bound.update(alias.asname or alias.name for alias in node.names)
                elif isinstance(node, ast.ClassDef):
                    bound.add(node.name)
                elif isinstance(node, ast.Name):
                    bound.add(node.id)
    capitalised = {n for n in bound if n[:1].isupper()}
    assert capitalised - {tasks.class_name(PACKAGES[kind])} <= tasks.RESERVED


@pytest.mark.parametrize(
    ("name", "wrong", "repaired"),
    [
        ("ColourGuess", "has 'C' and 'G' in it", "colour-guess"),
        ("colour_guess", "has '_' in it", "colour-guess"),
        ("Färbe es!", "has ' ' and '!' and 'F' and 'ä' in it", "farbe-es"),
        ("a/../b", "has '.' and '/' in it", "a-b"),
        ("a\nb", r"has '\n' in it", "a-b"),
        ("3d", "does not start with a letter", "task-3d"),
        ("-x", "does not start with a letter", "x"),
        ("x-", "ends in a dash", "x"),
        ("a--b", "has two dashes in a row", "a-b"),
        ("ssl_zoo_mine", "has '_' in it", "mine"),
        ("", "is empty", "colour-guess"),
        ("色", "has '色' in it", "colour-guess"),
    ],
)
def test_a_name_that_cannot_be_one_is_answered_with_the_nearest(
    tmp_path: Path, name: str, wrong: str, repaired: str
) -> None:
    assert refusal(name, folder=tmp_path / "new") == (
        f"task name {name!r} {wrong}: use lower-case letters and digits, with single dashes between "
        f"them, such as {repaired!r}"
    )
    assert files(new_task(repaired, folder=tmp_path / "new"))


def test_a_name_has_the_prefix_by_itself(tmp_path: Path) -> None:
    message = refusal("ssl-zoo-mine", folder=tmp_path / "new")
    assert (
        message == "task name 'ssl-zoo-mine': the prefix 'ssl-zoo-' is added automatically; use 'mine'"
    )


def test_the_name_of_a_data_set_is_refused_for_a_source(tmp_path: Path) -> None:
    for name in ("digits", "cifar10"):
        with pytest.raises(UserError, match=f"source name '{name}' is taken, by a data set"):
            new_source(name, folder=tmp_path / "new")


def test_a_name_that_is_taken_is_refused_with_its_owner(tmp_path: Path) -> None:
    simclr = registry.tasks()["simclr"]
    assert refusal("simclr", folder=tmp_path / "new") == (
        f"task name 'simclr' is taken, by ssl-zoo {simclr.version} ({simclr.value}); choose another one"
    )
    # --no-plugin goes by names, so that a task has none of a module of hooks.
    assert "is taken, by ssl-zoo " in refusal("vision-protocols", folder=tmp_path / "new")
    registry.load_file(new_task("mine", folder=tmp_path / "mine") / "ssl_zoo_mine.py")
    file = tmp_path / "mine" / "ssl_zoo_mine.py"
    assert f"'mine' is taken, by {file} (ssl_zoo_plugin_" in refusal("mine", folder=tmp_path / "new")


def test_a_name_whose_module_is_there_is_refused(tmp_path: Path) -> None:
    message = refusal("vision", folder=tmp_path / "new")
    assert message.startswith("task name 'vision': its module ssl_zoo_vision exists already")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("mask", "--kind mask: there is no such kind. Did you mean 'masked'? There are: "),
        (
            "gan",
            "--kind gan: there is no such kind. There are: joint-embedding, predictive, masked,",
        ),
    ],
)
def test_a_kind_that_there_is_not(tmp_path: Path, kind: str, said: str) -> None:
    assert refusal("mine", kind, tmp_path / "new").startswith(said)
    assert list(tmp_path.iterdir()) == []


# ---- folders


def test_the_folder_is_named_after_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert new_task("mine") == Path("ssl-zoo-mine")
    assert [path.name for path in tmp_path.iterdir()] == ["ssl-zoo-mine"]
    assert (tmp_path / "ssl-zoo-mine").stat().st_mode & 0o777 == 0o777 & ~umask()
    assert refusal("mine") == "folder ssl-zoo-mine: is not empty; choose another one"


def umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


def test_a_folder_that_is_there_and_empty_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    monkeypatch.chdir(tmp_path / "there")
    new_task("mine", folder=tmp_path / "link")
    assert Path("ssl_zoo_mine.py").exists()  # the same folder as before, seen from within
    assert len(files(tmp_path / "there")) == 6
    assert len(list((tmp_path / "there").iterdir())) == 6


def test_a_folder_that_has_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    assert refusal("mine", folder=tmp_path) == f"folder {tmp_path}: is not empty; choose another one"
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refusal("mine", folder=file) == f"folder {file}: is a file; choose another one"
    missing = tmp_path / "no" / "such"
    said = f"folder {missing}: there is no folder {tmp_path / 'no'}; make it first"
    assert refusal("mine", folder=missing) == said
    assert "cannot be written: File name too long" in refusal("mine", folder=tmp_path / ("x" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_nobody_may_write_into(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "is not writable; choose another one" in refusal("mine", folder=tmp_path / "new")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("failing", ["write_text", "rename"])
def test_what_fails_halfway_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, failing: str
) -> None:
    if there:
        (tmp_path / "new").mkdir()
    real, calls = getattr(Path, failing), iter(range(100))

    def full(self: Path, *arguments: Any, **named: Any) -> Any:
        if next(calls) >= 3 or (failing == "rename" and not there):
            raise OSError(28, "No space left on device")
        return real(self, *arguments, **named)

    monkeypatch.setattr(Path, failing, full)
    said = f"folder {tmp_path / 'new'}: cannot be written: No space left on device; choose another one"
    assert refusal("mine", folder=tmp_path / "new") == said
    assert list(tmp_path.rglob("*")) == ([tmp_path / "new"] if there else [])
