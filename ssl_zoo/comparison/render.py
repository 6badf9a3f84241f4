"""The table as Markdown, CSV, LaTeX, JSON and HTML."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from ssl_zoo.comparison.table import Figure, Row, Table

MAX_COLUMNS, MAX_NARROW_COLUMNS = 8, 3
"""The numbers of columns that a page shows at first, on a wide and on a narrow screen."""


def _figures(table: Table, row: Row) -> list[tuple[Figure, str]]:
    return [(row.figures[c.name], row.figures[c.name].format(c)) for c in table.columns]


def grouped_rows(table: Table) -> list[tuple[str, list[Row]]]:
    """Return the rows by heading, in their order; the heading "" is none."""
    return [(family, list(rows)) for family, rows in groupby(table.rows, lambda row: row.family)]


def row_label(row: Row) -> str:
    """Return the name of a row as it is printed."""
    return f"{row.name} (labels)" if "uses labels" in row.notes else row.name


def foot(table: Table) -> list[str]:
    """Return all notes below the table: remarks on rows, then how figures are measured."""
    return [*_row_notes(table), *table.foot]


def _row_notes(table: Table) -> list[str]:
    """Return the remarks on rows; rows of the same remark share a line."""
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        for note in row.notes:
            rows.setdefault(note, []).append(row.name)
    return [f"{', '.join(names)}: {note}." for note, names in rows.items() if note != "uses labels"]


def to_markdown(table: Table) -> str:
    """Return the table as GitHub's Markdown."""

    def escaped(text: str) -> str:
        return re.sub(r"[\\|<\[]", r"\\\g<0>", " ".join(text.split()))  # no link, no HTML

    headings = ["", *(column.title for column in table.columns)]
    lines = [f"**{escaped(table.title)}**", "", f"| {' | '.join(map(escaped, headings))} |"]
    lines.append(f"|---|{'---:|' * len(table.columns)}")
    for family, rows in grouped_rows(table):
        if family:
            lines.append(f"| *{escaped(family)}* |{' |' * len(table.columns)}")
        for row in rows:
            texts = [f"**{text}**" if figure.best else text for figure, text in _figures(table, row)]
            lines.append(f"| {' | '.join(map(escaped, [row_label(row), *texts]))} |")
    return "\n".join([*lines, "", *(f"- {escaped(text)}" for text in foot(table))]) + "\n"


def to_csv(table: Table) -> str:
    """Return a line per row, with the mean, half of the interval and the number of runs per figure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    headings = [h for c in table.columns for h in (c.name, f"{c.name}_interval", f"{c.name}_n")]
    writer.writerow(["row", "family", "baseline", *headings, "notes"])
    for row in table.rows:
        values: list[Any] = []
        for column in table.columns:
            figure = row.figures[column.name]
            estimate = figure.estimate
            if estimate is None:
                values += [_no_formula(figure.text), "", ""]
            else:
                half = estimate.half_width
                values += [repr(estimate.mean), "" if half is None else repr(half), estimate.n]
        notes = _no_formula("; ".join(row.notes))
        names = [_no_formula(row.name), _no_formula(row.family)]
        writer.writerow([*names, int(row.baseline), *values, notes])
    return buffer.getvalue()


def _no_formula(text: str) -> str:
    """Return the text on one line, quoted if a spreadsheet would execute it as a formula."""
    line = " ".join(text.split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "²": r"$^2$", "×": r"$\times$", "τ": r"$\tau$", "…": r"\ldots{}",
    "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def to_latex(table: Table) -> str:
    """Return the table for LaTeX with the package booktabs."""

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))

    def line(texts: list[str]) -> str:
        return f"  {' & '.join(texts)} \\\\"

    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}"]
    lines += [r"  \toprule", line(["", *(escaped(c.title) for c in table.columns)]), r"  \midrule"]
    baseline, family = False, ""
    for row in table.rows:
        if row.baseline and not baseline and row is not table.rows[0]:
            lines.append(r"  \midrule")
        if row.family and row.family != family:
            lines.append(line([rf"\textit{{{escaped(row.family)}}}", *[""] * len(table.columns)]))
        baseline, family = row.baseline, row.family
        texts = [
            rf"\textbf{{{escaped(text)}}}" if figure.best else escaped(text)
            for figure, text in _figures(table, row)
        ]
        lines.append(line([escaped(row_label(row)), *texts]))
    lines += [r"  \bottomrule", r"\end{tabular}"]
    caption = " ".join([f"{table.title}.", *foot(table)])
    return "\n".join([*lines, rf"\caption{{{escaped(caption)}}}", r"\end{table}"]) + "\n"


def to_json(table: Table) -> str:
    """Return the table, and the scores of every run, as JSON."""
    return json.dumps(as_dict(table), indent=2, ensure_ascii=False) + "\n"


def as_dict(table: Table) -> dict[str, Any]:
    """Return the table as plain values, with the scores of every run."""

    def plain(figure: Figure) -> Any:
        if figure.estimate is None:
            return figure.text or None
        return {
            "mean": figure.estimate.mean,
            "interval": figure.estimate.half_width,
            "n": figure.estimate.n,
            "best": figure.best,
        }

    return {
        "title": table.title,
        "columns": [
            {"name": c.name, "title": c.title, "better": c.better, "how": c.how} for c in table.columns
        ],
        "rows": [
            {
                "name": row.name,
                "family": row.family,
                "baseline": row.baseline,
                "runs": row.runs,
                "notes": list(row.notes),
                "figures": {name: plain(figure) for name, figure in row.figures.items()},
            }
            for row in table.rows
        ],
        "runs": [
            {
                "row": o.row,
                "seed": o.seed,
                "path": str(o.run.path),
                "scores": dict(o.scores),
                "failure": o.failure,
            }
            for o in table.outcomes
        ],
        "foot": list(table.foot),
    }


def environment(*packages: str) -> Environment:
    """Return a Jinja environment that escapes all values, with the templates of the table.

    Args:
        packages: packages whose ``templates`` are searched first.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "ssl_zoo.comparison")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def to_html(table: Table) -> str:
    """Return a self-contained HTML page."""
    return (
        environment()
        .get_template("table.html")
        .render(**template_values(table), **scripting(table.is_long))
    )


def template_values(table: Table) -> dict[str, Any]:
    """Return the values that the templates of a table need."""
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": [(row, row_label(row), _figures(table, row)) for row in table.rows],
        "notes": _row_notes(table),
        "foot": table.foot,
        "folds": _folds(len(table.columns)),
        "max_columns": MAX_COLUMNS,
        "narrow_columns": MAX_NARROW_COLUMNS,
        "many": table.is_long,
    }


def _folds(columns: int) -> list[str]:
    """Return the CSS class of each column, which says on which screens it is folded."""
    wide = MAX_COLUMNS if columns > MAX_COLUMNS else columns
    return [
        "fold" if number >= wide else "narrow-fold" if number >= MAX_NARROW_COLUMNS else ""
        for number in range(columns)
    ]


def scripting(many: bool) -> dict[str, Any]:
    """Return the script that sorts and filters rows, and a policy by which a browser runs no other.

    Args:
        many: whether there are so many rows that the page needs it; else it has none.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if not many:
        return {"script": "", "policy": policy}
    script = (Path(__file__).parent / "templates" / "rows.js").read_text(encoding="utf-8")
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "policy": f"{policy}; script-src 'sha256-{digest}'"}


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "md": to_markdown,
    "csv": to_csv,
    "tex": to_latex,
    "json": to_json,
    "html": to_html,
}
"""The formats by file extension."""
