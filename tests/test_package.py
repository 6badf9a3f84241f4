"""What users get from the package index."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ssl_zoo.plugins.registry import registry

ROOT = Path(__file__).parent.parent

OTHER_WORDS = {"dim": "a dimension, or a style of the terminal", "dino": "part of a name of timm's"}
"""Words in the core that are also names of tasks, and what they mean there."""


def test_wheel_and_sdist_have_the_configurations_and_the_security_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    wheel = set(zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))).namelist())
    with tarfile.open(tmp_path / build.build_sdist(str(tmp_path))) as opened:
        sdist = {name.partition("/")[2] for name in opened.getnames()}
    configs = {file.relative_to(ROOT).as_posix() for file in (ROOT / "configs").rglob("*.yaml")}
    assert configs <= sdist
    assert {f"ssl_zoo/{name}" for name in configs} <= wheel
    assert {"ssl_zoo_vision/contrastive/simclr.py", "ssl_zoo_observers/tensorboard.py"} <= wheel
    for name in ("LICENSE", "SECURITY.md", "CITATION.cff"):
        assert name in sdist
        assert any(file.endswith(f".dist-info/licenses/{name}") for file in wheel)
    assert "CHANGELOG.md" in sdist
    assert {file.split("/")[0] for file in wheel if "dist-info" not in file} == {
        "ssl_zoo", "ssl_zoo_vision", "ssl_zoo_observers",
    }  # fmt: skip


def test_an_editable_install_finds_the_configurations_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    wheel = zipfile.ZipFile(tmp_path / build.build_editable(str(tmp_path)))
    files = [name for name in wheel.namelist() if "dist-info" not in name]
    assert files == ["_ssl_zoo.pth"]
    assert wheel.read(files[0]).decode().split() == [str(ROOT), str(ROOT / "plugins")]


def test_an_installed_wheel_lists_and_reads_its_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import ssl_zoo; from ssl_zoo.config.shipped import shipped_configs;"
        "print(ssl_zoo.__file__); print(*shipped_configs().values(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    package, *files = done.stdout.splitlines()
    assert Path(package) == tmp_path / "site" / "ssl_zoo" / "__init__.py"
    assert len(files) == len(list((ROOT / "configs").rglob("*.yaml")))
    assert all(Path(file).is_relative_to(tmp_path / "site") for file in files)


def strings_of(file: Path) -> list[str]:
    """Return the string constants of a module, without docstrings."""
    tree = ast.parse(file.read_text("utf-8"))
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [c.value for c in constants if isinstance(c.value, str) and id(c) not in statements]


def test_the_core_names_no_task() -> None:
    files = sorted((ROOT / "ssl_zoo").rglob("*.py"))
    assert len(files) > 200
    names = registry.tasks().keys() - OTHER_WORDS.keys()
    assert len(names) > 30
    named = {
        (file.name, text)
        for file in files
        for text in strings_of(file)
        if names & set(re.findall(r"[a-z0-9][a-z0-9_-]*", text.lower()))
    }
    assert not named
