"""The table: standard intervals and tests, bold only where significant, all rows in all formats."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ssl_zoo.comparison.columns import Outcome, known_columns
from ssl_zoo.comparison.render import FORMATS, to_csv, to_html, to_json, to_latex, to_markdown
from ssl_zoo.comparison.statistics import Estimate, differ
from ssl_zoo.comparison.table import Table, build_table
from ssl_zoo.errors import UserError
from ssl_zoo.runs.run import Run


def outcome(row: str, seed: int | None, baseline: bool = False, failure: str | None = None,
            facts: dict[str, Any] | None = None, **scores: float) -> Outcome:  # fmt: skip
    return Outcome(row, seed, Run(Path(f"{row}-{seed}")), scores, facts or {}, baseline, failure)


def several(row: str, knn: list[float], **more: Any) -> list[Outcome]:
    return [outcome(row, seed, knn=value, **more) for seed, value in enumerate(knn)]


def three() -> list[Outcome]:
    """Return a task that is clearly the best in kNN, two that are level, and baselines."""
    return [
        *several("good", [90.0, 90.2, 90.4], rankme=10.0),
        *several("level", [80.0, 81.0, 82.0], rankme=30.0),
        *several("other", [80.5, 81.5, 82.5], rankme=20.0),
        outcome("pixels", None, True, knn=95.0),
        *several("supervised", [99.0, 99.1, 99.2], baseline=True, facts={"needs_labels": True}),
    ]


def table(outcomes: list[Outcome] | None = None, **given: Any) -> Table:
    return build_table(three() if outcomes is None else outcomes, "a title", **given)


# ---- statistics


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_students(n: int) -> None:
    values = np.random.default_rng(n).normal(80, 2, n)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    estimate = Estimate.of(values.tolist())
    assert estimate.half_width is not None
    assert estimate.mean - estimate.half_width == pytest.approx(low)
    assert estimate.mean + estimate.half_width == pytest.approx(high)


def test_of_a_single_run_there_is_no_interval() -> None:
    assert Estimate.of([80.0]).half_width is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draws = np.random.default_rng(0).normal(80, 2, (2000, 3))
    estimates = [Estimate.of(row.tolist()) for row in draws]
    share = np.mean([abs(e.mean - 80) <= (e.half_width or math.nan) for e in estimates])
    assert 0.93 < share < 0.97


@pytest.mark.parametrize("seed", range(20))
def test_a_difference_is_more_than_chance_where_welchs_test_says_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(80, 1, 3), rng.normal(80 + seed / 4, 2, 4)
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05
    assert differ(Estimate.of(a.tolist()), Estimate.of(b.tolist())) == expected


def test_single_runs_and_equal_ones_do_not_differ() -> None:
    assert not differ(Estimate.of([80.0]), Estimate.of([90.0]))
    assert not differ(Estimate.of([80.0, 80.1, 80.2]), Estimate.of([90.0]))
    assert not differ(Estimate.of([80.0, 80.0]), Estimate.of([80.0, 80.0]))
    assert not differ(Estimate.of([80.0, 80.0]), Estimate.of([80.1, 80.1]))  # which chance can do


# ---- the table


def test_rows_are_sorted_by_the_first_column_and_baselines_stand_last() -> None:
    assert [row.name for row in table().rows] == ["good", "other", "level", "supervised", "pixels"]
    by_rank = table(sort="rankme")
    assert [row.name for row in by_rank.rows][:3] == ["level", "other", "good"]


def test_a_column_of_which_less_is_better_is_sorted_upwards(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*several("a", [1.0]), *several("b", [0.5])]
    outcomes = [outcome(o.row, o.seed, facts={"seconds": 60 * o.scores["knn"]}) for o in rows]
    (column,) = table(outcomes, columns=["minutes"]).columns
    assert column.better is None
    assert [row.name for row in table(outcomes, columns=["minutes"]).rows] == ["a", "b"]


def test_bold_is_only_what_is_better_than_every_other_task_by_more_than_chance() -> None:
    best = {(row.name, name) for row in table().rows for name, e in row.figures.items() if e.best}
    assert best == {("good", "knn")}  # not the supervised baseline, and no measure of health
    close = [*several("a", [80.0, 81.0, 82.0]), *several("b", [80.5, 81.5, 82.5])]
    assert not any(e.best for row in table(close).rows for e in row.figures.values())
    alone = several("a", [80.0, 81.0])
    assert not any(e.best for row in table(alone).rows for e in row.figures.values())


def test_figures_are_means_and_costs_have_no_interval() -> None:
    outcomes = [
        outcome("a", seed, knn=80.0 + seed, facts={"seconds": 60.0 * (seed + 1), "parameters": 2e6})
        for seed in range(3)
    ]
    (row,) = table(outcomes).rows
    shown = {c.name: row.figures[c.name].format(c) for c in table(outcomes).columns}
    half = stats.t.ppf(0.975, 2) * statistics.stdev([80, 81, 82]) / math.sqrt(3)
    assert shown == {"knn": f"81.0 ± {half:.1f}", "minutes": "2.00", "parameters": "2.00"}


def test_a_baseline_without_a_seed_has_no_interval() -> None:
    (row,) = table([outcome("pixels", None, True, knn=95.0)]).rows
    assert row.figures["knn"].format(known_columns()["knn"]) == "95.0"


def test_a_row_that_failed_says_so_and_why_and_counts_the_rest() -> None:
    outcomes = [
        *several("a", [80.0, 81.0]),
        outcome("a", 2, failure="the loss is nan at step 3"),
        outcome("b", 0, failure="no such thing"),
    ]
    rows = {row.name: row for row in table(outcomes).rows}
    assert [row.name for row in table(outcomes).rows] == ["a", "b"]
    assert rows["a"].runs == 2
    assert rows["a"].figures["knn"].estimate == Estimate.of([80.0, 81.0])
    assert rows["a"].notes == ["1 of 3 runs failed: the loss is nan at step 3"]
    assert rows["b"].notes == ["failed: no such thing"]
    assert rows["b"].figures["knn"].format(known_columns()["knn"]) == ""
    assert len(table(outcomes).failed) == 2


def test_a_collapsed_representation_is_named_in_its_row() -> None:
    (row,) = table([outcome("a", 0, knn=10.0, spread=0.001, rankme=1.0)]).rows
    assert "collapsed" in row.notes[0]


def test_columns_are_chosen_by_name() -> None:
    assert [c.name for c in table(columns=["rankme", "knn"]).columns] == ["rankme", "knn"]
    with pytest.raises(UserError, match=r"--columns: there is no column 'rankm'\. Did you mean"):
        table(columns=["rankm"])
    with pytest.raises(UserError, match=r"--sort: there is no column 'linaer'"):
        table(sort="linaer")


def test_how_every_number_was_made_stands_under_the_table() -> None:
    foot = " ".join(table().foot)
    assert all(f"{column.title}: {column.how}" in foot for column in table().columns)
    assert "95 % confidence interval (Student's t) over 3 seeds" in foot
    assert "no value is marked as the best" in " ".join(table(several("a", [80.0])).foot)


# ---- formats

HOSTILE = "a|b <script>alert(1)</script> & 50% $x_1$ \\n{}~^#"


@pytest.mark.parametrize("ending", FORMATS)
def test_each_format_has_every_row_and_figure(ending: str) -> None:
    text = FORMATS[ending](table())
    for row in ("good", "level", "other", "pixels", "supervised"):
        assert row in text
    assert "90.2" in text
    assert "95" in text
    assert text.endswith("\n") or ending == "html"


def test_markdown_is_a_table_of_one_width() -> None:
    head, rule, *rows = [line for line in to_markdown(table()).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in (head, rule, *rows)}) == 1
    assert "| good | **90.2 ± 0.5** |" in to_markdown(table())
    assert "| supervised (labels) |" in to_markdown(table())
    hostile = to_markdown(table([outcome(HOSTILE, 0, knn=1.0)]))
    lines = [line for line in hostile.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_csv_reads_back_with_mean_interval_and_number() -> None:
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(to_csv(table())))}
    assert float(rows["good"]["knn"]) == pytest.approx(90.2)
    interval = Estimate.of([90.0, 90.2, 90.4]).half_width
    assert float(rows["good"]["knn_interval"]) == pytest.approx(interval)
    assert rows["good"]["knn_n"] == "3"
    assert rows["pixels"]["knn_interval"] == ""
    assert rows["pixels"]["baseline"] == "1"


def test_no_spreadsheet_takes_a_name_for_a_formula() -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv(table([outcome("=1+1", 0, knn=1.0)]))))
    assert row["row"] == "'=1+1"


def test_latex_has_nothing_that_latex_takes_for_a_command() -> None:
    text = to_latex(table([outcome(HOSTILE, 0, knn=1.0)]))
    (line,) = [line for line in text.splitlines() if "script" in line and "caption" not in line]
    assert r"\_" in line
    assert r"50\%" in line
    assert r"\$x" in line
    assert line.count("&") - line.count(r"\&") == 1
    assert line.endswith(r"\\")
    assert r"\textbf{90.2 $\pm$ 0.5}" in to_latex(table())
    assert to_latex(table()).count(r"\midrule") == 2  # baselines stand apart


def test_json_has_every_runs_own_figures() -> None:
    read = json.loads(to_json(table()))
    assert read["rows"][0]["figures"]["knn"]["mean"] == pytest.approx(90.2)
    assert read["rows"][0]["figures"]["knn"]["best"] is True
    assert [run["scores"]["knn"] for run in read["runs"] if run["row"] == "good"] == [90.0, 90.2, 90.4]
    assert {column["name"] for column in read["columns"]} == {"knn", "rankme"}


class Reader(html.parser.HTMLParser):
    """Collects the tags, and the text of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_hostile_names_as_text() -> None:
    reader = Reader()
    reader.feed(to_html(table([outcome(HOSTILE, 0, failure=HOSTILE)])))
    assert "script" not in reader.tags
    assert reader.text.count("<script>alert(1)</script>") >= 2
    assert "table" in reader.tags
