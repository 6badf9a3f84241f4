"""Names of others are text wherever they are shown: reports, terminals, tables."""

from __future__ import annotations

import csv
import html.parser
import io
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ssl_zoo.comparison import open_sweep
from ssl_zoo.comparison.columns import Outcome
from ssl_zoo.comparison.render import to_csv, to_html, to_latex, to_markdown
from ssl_zoo.comparison.table import build_table
from ssl_zoo.config.yaml import PlainDumper
from ssl_zoo.reporting import report
from ssl_zoo.runs.run import Run
from ssl_zoo.training import train
from tests.conftest import Call, small_config
from tests.core.pictures import broken, photo, write
from tests.robustness.hostile import (
    AS_FILE,
    MARKUP,
    commands,
)


class Page(html.parser.HTMLParser):
    """The elements that a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.text = ""
        self.policy: list[str] = []
        self.feed(text)
        self.close()
        sorts = 'class="controls"' in text  # a table of many rows has a script, by its hash alone
        assert self.tags["script"] == sorts
        for tag in ("iframe", "object", "embed", "base", "link", "form"):
            assert not self.tags[tag], tag
        scripts = r"; script-src 'sha256-[\w+/]{43}='" if sorts else ""
        policy = rf"default-src 'none'; style-src 'unsafe-inline'; img-src data:{scripts}"
        assert len(self.policy) == 1
        assert re.fullmatch(policy, self.policy[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name != "srcdoc", tag
            if name in ("href", "src", "xlink:href"):
                assert (value or "").startswith(("#", "data:image/")), (tag, value)
        if tag == "meta" and "http-equiv" in given:
            self.policy.append(given["content"] or "")

    def handle_data(self, data: str) -> None:
        self.text += data


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def title_in_browser(page: Path, profile: Path) -> str:
    """Return the title of a page after a browser has opened it and run its scripts."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    return found[1] if found else ""


@pytest.fixture(name="hostile", scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a run in which every text that others can write is markup."""
    place = tmp_path_factory.mktemp("hostile")
    photos = place / AS_FILE[0]
    for c, name in enumerate(AS_FILE):
        for i in range(4):
            write(photos / name / f"{i}{AS_FILE[i]}.png", photo((20, 20), seed=10 * c + i))
    broken(photos / AS_FILE[0] / f"{AS_FILE[1]}.png")
    config = small_config("simclr", data__source=str(photos), train__batch_size=16, train__knn_points=1)
    run = train(config, out=place / AS_FILE[1], protocol=["knn"])
    settings = yaml.safe_load(run.config_file.read_text())
    made = settings["provenance"]
    made |= {"command": MARKUP[1], "started": MARKUP[2], "python": MARKUP[3], "git": MARKUP[4]}
    made["versions"] |= {text: text for text in MARKUP}
    run.config_file.write_text(yaml.dump(settings, Dumper=PlainDumper, allow_unicode=True))
    results = run.results()
    results["scores"] |= {text: {"knn": 50.0 + i} for i, text in enumerate(MARKUP)}
    results |= {"device": MARKUP[5], "precision": MARKUP[6], "left_out": MARKUP[7]}
    results["skipped"] |= {text: text for text in MARKUP}
    run.write_results(results)
    return run


@pytest.fixture(name="page", scope="module")
def hostile_page(hostile: Run) -> Path:
    return report(hostile.path, map="pca")


def test_a_report_has_every_name_as_text(page: Path, tried: Counter[str]) -> None:
    read = Page(page.read_text())
    for text in MARKUP:
        shown = text if text.isprintable() else "x1b]0;pwned"
        assert shown in read.text, text
    tried["attacks"] += 5 * len(MARKUP)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_runs_nothing_in_a_report(page: Path, hostile: Run, tmp_path: Path) -> None:
    title = title_in_browser(page, tmp_path / "profile")
    assert "pwned" not in title.replace("document.title = 'pwned'", "")
    assert title.startswith("simclr: ")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_would_run_nothing_even_if_a_name_were_markup(page: Path, tmp_path: Path) -> None:
    leaky = tmp_path / "leaky.html"
    leak = "<script>document.title = 'pwned'</script><img src=x onerror=\"document.title = 'pwned'\">"
    text = page.read_text()
    leaky.write_text(text.replace("<h1>", f"{leak}<h1>"))
    assert title_in_browser(leaky, tmp_path / "profile").startswith("simclr: ")
    unguarded = re.sub(r"<meta http-equiv=[^>]*>", "", leaky.read_text())
    leaky.write_text(unguarded)
    assert title_in_browser(leaky, tmp_path / "profile") == "pwned"


def test_a_comparisons_failures_are_text(tmp_path: Path, call: Call, tried: Counter[str]) -> None:
    out = tmp_path / "c"
    settings = {"tasks": ["simclr", "moco"], "seeds": 1, "baselines": ["pixels"], "protocols": ["knn"]}
    sweep = open_sweep(None, out, **settings)
    sweep.write()
    cells = len(sweep.cells)
    for at in range(0, len(MARKUP), cells):
        texts = MARKUP[at : at + cells]
        for cell, text in zip(sweep.cells, texts, strict=False):  # the last have one of before
            cell.folder.record_failure(text)
        Page(report(out, map="pca").read_text())
        code, said, warned = call("compare", out, "--out", tmp_path / "tables")
        assert code == 0, warned
        assert is_tame(said + warned)
        Page((tmp_path / "tables" / "table.html").read_text())
        tried["attacks"] += len(texts)


def is_tame(text: str) -> bool:
    """Return whether a terminal shows a text and does nothing else."""
    return all(c.isprintable() or c == "\n" for c in text)


def test_no_terminal_is_told_to_do_anything(
    hostile: Run,
    run: Run,
    call: Call,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    tried: Counter[str],
) -> None:
    control = "\x1b]0;pwned\x07\x1b[2J\x9b31m\r\b\u202e"
    results = run.results()
    results["scores"] = {"simclr": results["scores"]["simclr"], control: {"knn": 1.0}}
    results["device"] = results["precision"] = control
    run.write_results(results)
    attempts: list[list[str | Path]] = [
        ["compare", run.path],
        ["compare", hostile.path],
        ["eval", hostile.path, "--protocol", "knn"],
        ["embed", hostile.path, "-o", "features.npz"],
        ["report", hostile.path, "--map", "pca", "-o", "page.html"],
        ["train", "--task", control],
        ["train", "--task", "simclr", "--set", f"task.{control}=1"],
        ["train", "--task", "simclr", "--data", control],
        ["train", "--task", "simclr", "--backbone", control],
        ["compare", "--tasks", control],
    ]
    for attempt in attempts:
        _, said, warned = call(*attempt)
        assert is_tame(said), (attempt, said)
        assert is_tame(warned), (attempt, warned)
        tried["attacks"] += 1
    broken_state = torch.load(run.checkpoints.file, weights_only=True)
    broken_state["task"][control] = torch.zeros(1)
    torch.save(broken_state, run.checkpoints.file)
    run.checkpoints.before.write_bytes(b"\x80\x02c" + control.encode() + b"\nx\n.")
    for command in ("train", "views", "eval"):
        _, said, warned = call(*commands(run.path)[command])
        assert is_tame(said + warned), (command, warned)
        tried["attacks"] += 1


# ---- tables


FORMULAS = [
    "=1+1",
    "+1",
    "-1+1",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    " =1+1",
    "\n=1+1",
    '=HYPERLINK("https://x")',
]
NASTY = [
    *MARKUP,
    *FORMULAS,
    "\\input{/etc/passwd}",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "[x]: https://example.org",
    "a|b\\|c\\",
    "\\<img src=x>",
    "^^5cinput x",
    "%\\write18{x}",
    "**b**",
]


def table_of(text: str) -> Any:
    outcomes = [
        Outcome(text, 0, Run("r"), {"knn": 1.0}, {"left_out": text}),
        Outcome("other", 0, Run("s"), {}, {}, failure=text),
        Outcome("text", 0, Run("t"), {"knn": text}, {}),
    ]
    return build_table(outcomes, text, ["knn"], foot=[text])


def attack_tables(text: str) -> None:
    table = table_of(text)
    Page(to_html(table))
    for row in csv.reader(io.StringIO(to_csv(table), newline="")):
        for cell in row:
            assert cell.strip()[:1] not in ("=", "@", "+"), cell
            assert not re.match(r"\s*-(?![\d.]+$)", cell), cell
    markdown = re.sub(r"\\[\\|<\[]", "", to_markdown(table))
    assert not re.search(r"[<\[]", markdown), markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {3}
    latex = to_latex(table)
    known = {"begin", "end", "centering", "toprule", "midrule", "bottomrule", "textbf", "caption", "pm",
             "times", "tau", "ldots", "textbackslash", "textasciitilde", "textasciicircum"}  # fmt: skip
    assert set(re.findall(r"\\([A-Za-z]+)", latex)) <= known, latex
    assert "^^" not in latex
    assert not re.search(r"(?<!\\)%", latex), latex


@example(text="a")
@given(
    st.one_of(
        st.sampled_from(NASTY), st.text(), st.text("\\|<>[]()=+-@%^$#{}~_& \t\r\n'\"x1", max_size=12)
    )
)
def test_no_name_in_a_table_is_markup_a_formula_or_a_command(tried: Counter[str], text: str) -> None:
    attack_tables(text)
    tried["attacks"] += 4


@pytest.mark.parametrize("text", NASTY)
def test_what_is_known_to_be_nasty_is_text_in_every_table(text: str, tried: Counter[str]) -> None:
    attack_tables(text)
    tried["attacks"] += 4
