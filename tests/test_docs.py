"""The commands and code blocks of the README and the documentation are run, only smaller."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import health
from ssl_zoo.comparison import compare
from ssl_zoo.plugins import hookspecs as hooks
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import HOOKS
from ssl_zoo.training import train
from tests import results, zoo
from tests.conftest import OTHERS, ROOT, SMALL, Call, small_config
from tests.core.pictures import photo, write
from tests.plugins.sources import SHIPPED
from tests.reference import page

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_HERE = {
    "pip install . &&": "a fresh environment, which `.ci/run` makes",
    "pip install '.[test]'": "likewise",
    "pip install ./plugins": "likewise",
    "pytest plugins": "likewise",
    "--config configs/compare": "minutes, and 80 of them; `.ci/run` does the short one",
    "ssl-zoo advise": "it takes the minutes that it is given; `.ci/run` does",
    "--pretrained": "weights are downloaded",
    "--data cifar10": "data are downloaded",
    "--data hf:": "likewise",
    "pip install lightly-train": "another library",
    "python benchmarks": "it measures time",
    "python -m benchmarks": "likewise",
    "--to backbone.pth": "torchvision has no network with the small stem of that run",
    "--to my-network": "likewise timm from a folder",
    "--observe": "the extras' own tests do (test_observers)",
}
"""Commands that are not run here, by a part of the line, and why."""

ELSEWHERE = ("text.md", "audio.md")
"""Pages on other distributions, whose own tests run such commands."""

SMALLER = {
    "train": ["--samples", "512", "--batch-size", "64", "--set", "train.log_every=2"],
    "compare": ["--samples", "256", "--batch-size", "64", "--seeds", "1"],
    "bench": ["--batch-size", "64", "--seconds", "0", "--no-tune"],
}
"""Options added to commands that would take minutes."""


@dataclass(frozen=True)
class Block:
    """A piece of code on a page.

    Attributes:
        language: of a fenced block; shell for an indented line.
        code: what stands in it.
        title: the file that it is.
        line: where on the page it is.
    """

    language: str
    code: str
    title: str | None
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """Return the fenced blocks of a page, and the lines of its indented ones."""
    fence: tuple[str, str | None, int] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        opened = re.fullmatch(r"```(\w*)(?: title=\"([^\"]+)\")?", line)
        if fence is not None:
            if line == "```":
                yield Block(fence[0], "\n".join(inside) + "\n", fence[1], fence[2])
                fence, inside = None, []
            else:
                inside.append(line)
        elif opened:
            fence = (opened[1], opened[2], number)
        elif re.match(r"    \S", line):
            yield Block("shell", line.strip(), None, number)


def commands(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "shell"]


def test_pages_have_the_code_that_is_looked_for() -> None:
    found = {page.name: {block.language for block in blocks(page)} for page in PAGES}
    assert found["README.md"] == {"shell", "python"}
    assert found["plugins.md"] >= {"shell", "python", "toml", "text"}
    assert sum(len(commands(page)) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_there_is(page: Path) -> None:
    for block in commands(page):
        for command in block.code.split("&&"):
            words = shlex.split(command, comments=True)
            assert words[0] in ("ssl-zoo", "pip", "pytest", "python", "mkdocs"), block


@pytest.fixture(scope="module")
def supposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the pages assume: images without and with labels, runs, a comparison, configurations."""
    home = tmp_path_factory.mktemp("home")
    rows = ["path,label,split"]
    for i in range(120):
        labelled = Path("few", "cats" if i % 2 else "dogs", f"{i}.png")
        rows.append(f"{labelled},{labelled.parent.name},{'test' if i > 80 else 'train'}")
        write(home / "photos" / f"{i}.png", photo(seed=i))
        write(home / labelled, photo(seed=i))
        wide = np.repeat(np.asarray(photo(seed=i), np.int16), 2, 2)  # [40, 40, 6]
        for name, scan in (("scans", 8 * wide[..., 0] - 1024), ("frames", 16 * wide[..., 0])):
            save(home / name / f"{i}.npy", scan)
        for name in ("fields", "bands"):
            save(home / name / f"{i}.npy", wide[..., :4].transpose(2, 0, 1).astype(np.uint16))
    (home / "list.csv").write_text("\n".join(rows))
    for name, seed in (("RUN", 0), ("B", 1)):
        settings = {
            "train__epochs": 0.3,
            "train__seed": seed,
            "train__knn_every": 0.2,
            "train__keep_best": "rankme",
        }
        train(small_config("simclr", **settings), out=home / "runs" / name)
    shutil.copytree(home / "runs" / "RUN", home / "runs" / "A")
    settings = {**SMALL, "train.epochs": 0.2}
    compare(tasks=["rotation"], seeds=1, set=settings, out=home / "runs" / "compare-…")
    for name in ("configs", "results"):
        shutil.copytree(ROOT / name, home / name)
    return home


def save(file: Path, array: NDArray[Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    np.save(file, array)


@pytest.fixture
def home(supposed: Path, tmp_path: Path) -> Path:
    """Such a folder for one page alone."""
    return shutil.copytree(supposed, tmp_path / "home")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.name
)
def test_what_a_page_shows_works(
    page: Path, home: Path, call: Call, isolated_registry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.language == "python" and block.title:
            Path(block.title).write_text(block.code)
        elif block.language == "python":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
        elif block.language == "shell" and not any(part in block.code for part in NOT_HERE):
            run(block.code, call, home, monkeypatch)


def run(line: str, call: Call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(line, comments=True)
    if program == "pip":
        installed = home / "site"
        target = ["--no-deps", "--no-build-isolation", "--quiet", "--target", str(installed)]
        command = [sys.executable, "-m", "pip", "install", *target, str(Path(arguments[-1]).resolve())]
        subprocess.run(command, check=True, capture_output=True)
        monkeypatch.syspath_prepend(str(installed))
        return
    assert program == "ssl-zoo", line
    for name, smaller in SMALLER.items():
        tabulates = name == "compare" and any(a.startswith(("runs/", "results/")) for a in arguments)
        if name in arguments and "--resume" not in arguments and not tabulates:
            for budget in ("--epochs", "--minutes"):
                if budget in arguments:
                    del arguments[(at := arguments.index(budget)) : at + 2]
            arguments += smaller
            arguments += ["--image-size", "32"] if "photos/" in arguments else []
    # What was given to an earlier command is not this one's.
    with registry.isolated():
        code, out, err = call(*arguments)
    finds_fault = (
        arguments[:2] == ["check", "near"] and "all_gather(x)" not in Path("near.py").read_text()
    )
    assert code == (1 if finds_fault else 0), (line, out, err)


def test_the_page_on_plugins_has_every_hook_with_its_exact_signature() -> None:
    shown = next(
        b.code for b in blocks(ROOT / "docs" / "plugins.md") if "ssl_zoo_run_started(" in b.code
    )
    wanted = [f"{name}{inspect.signature(getattr(hooks, name))}".replace("'", "") for name in HOOKS]
    assert shown.splitlines() == wanted


def test_the_tables_of_the_pages_are_those_of_the_records() -> None:
    for shown in results.PAGES:
        text = shown.read_text(encoding="utf-8")
        assert text.count("<!-- results/") == 2 * len(results.TABLE.findall(text)), f"{shown}: markers"
        assert text == results.filled(text), f"{shown}: python -m tests.results"


def test_the_page_on_health_shows_the_records_of_its_pairs() -> None:
    """Each run has a record with the settings of its pair, whose figures and words stand on the page."""
    made = {name: health.stored(name, *run) for name, run in health.runs(health.PAIRS).items()}
    records = {name: record for name, record in made.items() if record is not None}
    text = health.PAGE.read_text(encoding="utf-8")
    assert made.keys() == records.keys(), "python -m benchmarks.health"
    assert [match["name"] for match in health.SECTION.finditer(text)] == [p.name for p in health.PAIRS]
    assert text == health.filled(text, records), "python -m benchmarks.health"


def test_the_layers_on_the_page_are_those_that_are_checked_and_have_every_module() -> None:
    contract = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("]")[0]
    checked = [re.findall(r"ssl_zoo\.(\w+)", line) for line in contract.splitlines()[1:]]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    sentence, _, table = text.partition("```text\n")[2].partition("```")
    assert [re.findall(r"\w+", layer) for layer in sentence.split("→")] == checked
    modules = {name for layer in checked for name in layer}
    assert modules == {p.stem for p in (ROOT / "ssl_zoo").iterdir() if p.stem[0] not in "_."} - {"py"}
    assert all(f"`{name}.py`" in table or f"`{name}/`" in table for name in modules)


def test_the_plain_reference_is_that_of_the_code() -> None:
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == page(), "python -m tests.reference > docs/reference.md"


def test_the_map_shows_every_shipped_task() -> None:
    written = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert written == zoo.page(), "python -m tests.zoo > docs/zoo.md"
    pictures = {path.stem for path in (ROOT / "docs" / "zoo").glob("*.png")}
    assert pictures == {*zoo.shipped()}, "python -m benchmarks.zoo"


def test_adding_a_task_touches_one_file_and_one_line(
    call: Call, tmp_path: Path, isolated_registry: None
) -> None:
    """The page's own task, in a distribution of one module and one entry point."""
    site = tmp_path / "site"
    info = site / "ssl_zoo_near-1.0.dist-info"
    info.mkdir(parents=True)
    task = [b for b in blocks(ROOT / "docs" / "plugins.md") if b.title == "near.py"][-1]
    (site / "near.py").write_text(task.code)  # the file
    (info / "entry_points.txt").write_text("[ssl_zoo]\nnear = near:Near\n")  # the line
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ssl-zoo-near\nVersion: 1.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        _code, out, _ = call("tasks")
        assert "near" in out
        assert "ssl-zoo-near 1.0" in out
        assert call("train", "--task", "near", *SMALLER["train"], "--out", "run")[0] == 0
        assert call("views", "--task", "near", "-o", "near.png")[0] == 0
        off = [*SHIPPED, *OTHERS]
        patch.setenv("SSL_ZOO_DISABLE_PLUGINS", ",".join(off))
        code, out, err = call("compare", "--tasks", "all", *SMALLER["compare"], "--baselines", "pixels")
        assert code == 0, out + err
        assert "near" in out


def test_the_tests_that_a_page_names_exist() -> None:
    for shown in PAGES:
        named = re.findall(r"`([\w/-]+\.py)::(test_\w+)`", shown.read_text())
        # Each row of this page's last table names its test.
        rows = shown.read_text().rpartition("|---|---|---|---|\n")[2].count("\n")
        assert shown.name != "correctness.md" or len(named) == rows > 10
        for file, name in named:
            path = ROOT / ("" if file.startswith(("plugins/", "tests/")) else "tests") / file
            assert f"def {name}(" in path.read_text(), f"{shown.name}: {file}::{name}"
