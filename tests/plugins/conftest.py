"""Distributions that exist for one test."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_zoo.plugins.entry_points import installed
from ssl_zoo.plugins.registry import registry
from tests.conftest import OTHERS
from tests.plugins.sources import Install


@pytest.fixture(autouse=True)
def fresh(isolated_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide installed plugins that do not ship with the zoo."""
    monkeypatch.delenv("SSL_ZOO_DISABLE_PLUGINS", raising=False)
    monkeypatch.setattr(
        registry, "find", lambda: [e for e in installed() if e.distribution not in OTHERS]
    )


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution, as pip does, in a new folder on `sys.path`."""

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
