"""The table as Markdown, CSV, LaTeX, JSON and HTML."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader

from ssl_zoo.comparison.table import Figure, Row, Table


def _cells(table: Table, row: Row) -> list[tuple[Figure, str]]:
    return [(row.entries[c.name], row.entries[c.name].shown(c)) for c in table.columns]


def name_of(row: Row) -> str:
    """A row's name as it is printed."""
    return f"{row.name} (labels)" if "uses labels" in row.notes else row.name


def foot(table: Table) -> list[str]:
    """All that stands under the table."""
    return [*_notes(table), *table.foot]


def _notes(table: Table) -> list[str]:
    """What must be said of rows."""
    return [f"{row.name}: {note}." for row in table.rows for note in row.notes if note != "uses labels"]


def to_markdown(table: Table) -> str:
    """GitHub's Markdown."""

    def escaped(text: str) -> str:
        return re.sub(r"[\\|<\[]", r"\\\g<0>", " ".join(text.split()))  # no link, no HTML

    heads = ["", *(column.title for column in table.columns)]
    lines = [f"**{escaped(table.title)}**", "", f"| {' | '.join(map(escaped, heads))} |"]
    lines.append(f"|---|{'---:|' * len(table.columns)}")
    for row in table.rows:
        cells = [f"**{text}**" if entry.best else text for entry, text in _cells(table, row)]
        lines.append(f"| {' | '.join([escaped(name_of(row)), *map(escaped, cells)])} |")
    return "\n".join([*lines, "", *(f"- {escaped(text)}" for text in foot(table))]) + "\n"


def to_csv(table: Table) -> str:
    """A line a row; of each figure the mean, half of the interval and the number of runs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [[c.name, f"{c.name}_interval", f"{c.name}_n"] for c in table.columns]
    writer.writerow(["row", "baseline", *(head for three in heads for head in three), "notes"])
    for row in table.rows:
        cells: list[Any] = []
        for column in table.columns:
            entry = row.entries[column.name]
            estimate = entry.estimate
            if estimate is None:
                cells += [_plain(entry.text), "", ""]
            else:
                half = estimate.half_width
                cells += [repr(estimate.mean), "" if half is None else repr(half), estimate.n]
        writer.writerow([_plain(row.name), int(row.baseline), *cells, _plain("; ".join(row.notes))])
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Text on one line that no spreadsheet takes for a formula."""
    line = " ".join(text.split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "²": r"$^2$", "×": r"$\times$", "τ": r"$\tau$", "…": r"\ldots{}",
    "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def to_latex(table: Table) -> str:
    """A table for LaTeX with the package booktabs."""

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))

    def line(cells: list[str]) -> str:
        return f"  {' & '.join(cells)} \\\\"

    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}"]
    lines += [r"  \toprule", line(["", *(escaped(c.title) for c in table.columns)]), r"  \midrule"]
    baseline = False
    for row in table.rows:
        if row.baseline and not baseline and row is not table.rows[0]:
            lines.append(r"  \midrule")
        baseline = row.baseline
        cells = [rf"\textbf{{{escaped(t)}}}" if e.best else escaped(t) for e, t in _cells(table, row)]
        lines.append(line([escaped(name_of(row)), *cells]))
    lines += [r"  \bottomrule", r"\end{tabular}"]
    caption = " ".join([f"{table.title}.", *foot(table)])
    return "\n".join([*lines, rf"\caption{{{escaped(caption)}}}", r"\end{table}"]) + "\n"


def to_json(table: Table) -> str:
    """Everything, every run's own figures included, for programs."""
    return json.dumps(as_dict(table), indent=2, ensure_ascii=False) + "\n"


def as_dict(table: Table) -> dict[str, Any]:
    """The table as plain values."""

    def entry(value: Figure) -> Any:
        if value.estimate is None:
            return value.text or None
        return {
            "mean": value.estimate.mean,
            "interval": value.estimate.half_width,
            "n": value.estimate.n,
            "best": value.best,
        }

    return {
        "title": table.title,
        "columns": [
            {"name": c.name, "title": c.title, "better": c.better, "how": c.how} for c in table.columns
        ],
        "rows": [
            {
                "name": row.name,
                "baseline": row.baseline,
                "runs": row.runs,
                "notes": list(row.notes),
                "figures": {name: entry(value) for name, value in row.entries.items()},
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


def environment() -> Environment:
    """Jinja with the package's templates; whatever is put into them is escaped."""
    return Environment(
        loader=PackageLoader("ssl_zoo.comparison", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def to_html(table: Table) -> str:
    """A page of its own that needs nothing else."""
    return environment().get_template("table.html").render(**page(table))


def page(table: Table) -> dict[str, Any]:
    """What the template of a table takes."""
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": [(row, name_of(row), _cells(table, row)) for row in table.rows],
        "notes": _notes(table),
        "foot": table.foot,
    }


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "md": to_markdown,
    "csv": to_csv,
    "tex": to_latex,
    "json": to_json,
    "html": to_html,
}
"""By the ending of the file."""
