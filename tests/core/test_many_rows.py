"""Tables and pages of forty rows: grouped, sorted, filtered and folded, and their pictures small."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from ssl_zoo.cli import console
from ssl_zoo.comparison.columns import Outcome
from ssl_zoo.comparison.render import to_html, to_markdown
from ssl_zoo.comparison.table import Table, build_table
from ssl_zoo.reporting import page, samples
from ssl_zoo.reporting.cost import choose_cost, paint_costs
from ssl_zoo.reporting.curves import curve, loss_plot, small_multiples
from ssl_zoo.reporting.inputs import Member, Missing, ReportInputs
from ssl_zoo.reporting.labels import MARKER_SIZE, place
from ssl_zoo.reporting.pictures import row_styles
from ssl_zoo.runs.run import Run

FAMILIES = ("clustering", "contrastive", "distillation", "masked")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def outcomes(tasks: int, seeds: int = 3) -> list[Outcome]:
    """Return made-up outcomes of tasks of four families, and of two baselines."""
    rng = np.random.default_rng(0)
    made = [
        Outcome(
            f"task-{number:02}", seed, Run(Path(f"task-{number:02}-{seed}")),
            {"knn": 60 + 20 * rng.random(), "linear": 80.0, "rankme": 20.0, "spread": 0.3},
            {"seconds": 60.0 * (1 + number % 4), "passes_per_sample": 2.0, "samples": 100, "steps": 1,
             "samples_per_second": 70.0, "parameters": 1_000_000, "machine": "here"},
            family=FAMILIES[number % 4],
        )
        for number in range(tasks)
        for seed in range(seeds)
    ]  # fmt: skip
    made += [Outcome("pixels", None, Run(Path("pixels")), {"knn": 70.0}, {}, True)]
    return [*made, Outcome("random-init", 0, Run(Path("random-init")), {"knn": 50.0}, {}, True)]


def forty() -> Table:
    return build_table(outcomes(40), "forty tasks")


# ---- the table


def test_more_than_ten_rows_are_grouped_by_family_and_ten_are_not() -> None:
    assert {row.family for row in build_table(outcomes(8), "ten rows").rows} == {""}
    families = [row.family for row in build_table(outcomes(9), "eleven rows").rows]
    assert list(dict.fromkeys(families)) == [*FAMILIES, "baseline"]
    assert families == sorted(families, key=[*FAMILIES, "baseline"].index)
    text = to_markdown(forty())
    assert all(f"\n| *{family}* |" in text for family in (*FAMILIES, "baseline"))


def test_forty_rows_at_80_columns_stand_on_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "_width", 80)
    console.print_table(forty(), None, False)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if re.match(r" +task-\d\d ", line)]
    assert len(rows) == 40
    assert max(map(len, rows)) <= 80
    assert [line.strip() for line in lines if line.strip() in FAMILIES] == list(FAMILIES)
    assert any(line.startswith("The terminal has no room for ") for line in lines)


# ---- the page in a browser

LOOK = """
<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{page}" onload="
  const page = contentDocument;
  const shown = (selector) => [...page.querySelectorAll(selector)].filter((e) => e.offsetParent);
  const names = () => shown('tbody tr[data-row]').map((row) => row.dataset.row).join(' ');
  const found = {{}};
  found.columns = shown('thead th').length;
  (page.querySelector('input.unfold') || {{}}).checked = true;
  found.all_columns = shown('thead th').length;
  const scroll = page.querySelector('.scroll');
  scroll.scrollLeft = 150; scroll.scrollTop = 200;
  const corner = scroll.getBoundingClientRect();
  found.scrolled = scroll.scrollLeft;
  found.first_column = shown('tbody td:first-child').at(-1).getBoundingClientRect().left - corner.left;
  found.headings = page.querySelector('thead th').getBoundingClientRect().top - corner.top;
  found.grouped = names();
  const group = page.querySelector('input.group');
  if (group) {{
    group.click();
    page.querySelectorAll('thead button')[1].click();
    found.sorted = names();
    const search = page.querySelector('input[type=search]');
    search.value = 'masked';
    search.dispatchEvent(new Event('input'));
    found.filtered = names();
  }}
  document.title = JSON.stringify(found);
"></iframe>
"""


def look(text: str, width: int, place: Path) -> dict[str, Any]:
    """Return what a browser shows of a page in a frame of a width in pixels."""
    assert CHROMIUM is not None
    (place / "frame.html").write_text(LOOK.format(width=width, page=html.escape(text)))
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={place / 'profile'}", "--window-size=1400,1000", "--dump-dom",
         (place / "frame.html").as_uri()],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    found: dict[str, Any] = json.loads(html.unescape(title[1]))
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_rows_are_sorted_filtered_and_unfolded_in_the_page(tmp_path: Path) -> None:
    table = forty()
    narrow = look(to_html(table), 400, tmp_path)
    assert (narrow["columns"], narrow["all_columns"]) == (1 + 3, 1 + len(table.columns))
    assert narrow["scrolled"] == 150
    assert abs(narrow["first_column"]) < 1  # in sight, wherever the table is scrolled to
    assert abs(narrow["headings"]) < 1
    assert narrow["grouped"].split() == [row.name for row in table.rows]
    figures = {row.name: row.figures["knn"].estimate for row in table.rows}
    ranking = sorted(figures, key=lambda name: -figures[name].mean)  # type: ignore[union-attr]
    assert narrow["sorted"].split() == ranking
    masked = {row.name for row in table.rows if row.family == "masked"}
    assert narrow["filtered"].split() == [name for name in ranking if name in masked]


def test_without_a_script_the_page_of_forty_rows_has_all_and_no_dead_control() -> None:
    text = to_html(forty())
    before = text[: text.index("<script>")]
    assert all(f'data-row="{row.name}"' in before for row in forty().rows)
    assert 'class="controls" hidden' in before
    assert "<button" not in before
    assert "<script" not in to_html(build_table(outcomes(8), "ten rows"))


# ---- pictures


def overlap(a: Any, b: Any) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def test_names_of_points_cover_neither_each_other_nor_a_point() -> None:
    rng = np.random.default_rng(0)
    anchors = np.clip(rng.normal((150, 200), 60, (40, 2)), 5, (295, 395))
    sizes = np.stack([rng.uniform(20, 70, 40), np.full(40, 9.0)], 1)
    boxes = place(anchors, sizes, (300, 400))
    assert boxes is not None
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sizes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (300, 400)).all()
    for i in range(40):
        assert not any(overlap(boxes[i], boxes[j]) for j in range(i))
        markers = np.hstack([anchors - MARKER_SIZE / 2, anchors + MARKER_SIZE / 2])
        assert not any(overlap(boxes[i], marker) for marker in markers)
    assert place(anchors, sizes, (60, 60)) is None


def test_the_names_in_the_chart_of_forty_rows_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    costs = {f"a-method-{i}": [float(i % 3 + 1)] for i in range(40)}  # three columns of points
    accuracy = {row: [80 + rng.normal()] for row in costs} | {"pixels": [70.0]}
    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    paint_costs(accuracy, costs, row_styles(costs, {"pixels": False}), "kNN %", "passes", axes)
    figure.draw_without_rendering()
    texts = [text for text in axes.texts if isinstance(text, Annotation)]
    assert {text.get_text() for text in texts} == set(accuracy)
    # The extent of an annotation holds its line too, that of a text does not.
    boxes = [np.array(Text.get_window_extent(text, canvas.get_renderer()).extents) for text in texts]
    assert not any(overlap(boxes[i], boxes[j]) for i in range(len(boxes)) for j in range(i))


def test_cost_is_in_minutes_on_one_machine_and_in_passes_on_several() -> None:
    made = outcomes(4)
    assert choose_cost(build_table(made, "one")).label == "minutes of training"
    made[0] = Outcome(made[0].row, 0, made[0].run, made[0].scores, {**made[0].facts, "machine": "there"})
    cost = choose_cost(build_table(made, "two"))
    assert (cost.label, cost.value(made[0])) == ("passes per sample", 2.0)


def test_small_multiples_have_one_scale() -> None:
    steps = np.linspace(10, 100, 5)
    curves = {
        f"task-{i}": curve([np.stack([steps, steps, (50 + i) * steps / 100], 1)]) for i in range(12)
    }
    known = {row: of_row for row, of_row in curves.items() if of_row is not None}
    panels = small_multiples(known, row_styles(known, {}), "kNN %", "knn")
    assert [panel.row for panel in panels] == list(curves)
    assert panels[3].title == "task-3 53.0"
    ticks = {tuple(re.findall(r">([\d.]+k?)</text>", str(panel.picture))) for panel in panels}
    assert len(ticks) == 1


def test_five_rows_of_different_families_are_shown_without_a_click() -> None:
    table = forty()
    members = [
        Member(o.row, o.seed, o.run, "untrained" if o.baseline else "trained", o.baseline)
        for o in table.outcomes
    ]
    inputs = ReportInputs(Path(), "", "", table, members, Missing(""))
    chosen = page.pictured_rows(inputs)
    best = {family: next(r.name for r in table.rows if r.family == family) for family in FAMILIES}
    assert len(chosen) == 5
    assert set(best.values()) < set(chosen)
    few = ReportInputs(Path(), "", "", build_table(outcomes(8), "ten"), members[:24], Missing(""))
    assert page.pictured_rows(few) == list(few.rows)


def test_pictures_a_click_away_are_left_out_where_the_page_would_exceed_5_mb() -> None:
    half = "x" * (samples.MAX_BYTES // 2)
    grids = [samples.SampleGrid(name, half, None, None, name != "best") for name in "abc"]
    grids.append(samples.SampleGrid("best", half, None, None))
    assert samples._too_large(grids, []) == ["b", "c"]
    shown = samples.SampleGrid("best", 9 * half, None, None)
    assert samples._too_large([shown], []) == []
    # The rest of a page of forty rows, with its curves, has room beside the pictures.
    table = to_html(forty())
    steps = np.linspace(1, 100, 150)
    made = curve([np.stack([steps, steps, np.sin(steps)], 1)])
    assert made is not None
    plot = loss_plot("task", made, row_styles(["task"], {})["task"], "loss", "images")
    small = small_multiples({"task": made}, row_styles(["task"], {}), "kNN %", "knn")[0].picture
    rest = len(table) + 40 * (len(str(plot)) + len(str(small)))
    assert samples.MAX_BYTES + rest < 5_000_000
