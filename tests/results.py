"""Make the tables of the pages from the records in results/: ``python -m tests.results``.

A table stands between two comments of a page, of which the first may choose columns:

    <!-- results/fashion-mnist-zoo begin columns=knn,linear,seeds -->
    <!-- results/fashion-mnist-zoo end -->

Tasks and labelled baselines that the comparison of the same name in configs/compare has, and that have
no record yet, are in the table as rows without figures.
"""

from __future__ import annotations

import re
from pathlib import Path

from ssl_zoo.comparison.load import load_comparison
from ssl_zoo.comparison.outcomes import record_table
from ssl_zoo.comparison.render import to_markdown
from ssl_zoo.comparison.selection import loadable
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLE = re.compile(
    r"(?P<begin>^<!-- results/(?P<name>[\w.-]+) begin(?: columns=(?P<columns>\S+))? -->\n)"
    r".*?(?P<end>^<!-- results/(?P=name) end -->$)",
    re.MULTILINE | re.DOTALL,
)


def planned(file: Path) -> dict[str, str]:
    """Return the families of the tasks and labelled baselines of a comparison, by name.

    There are none where there is no such file.
    """
    if not file.is_file():
        return {}
    comparison = load_comparison(file, {})
    rows = comparison.trained_rows()
    classes = loadable(rows.values())
    return {row: classes[task].family for row, task in rows.items() if task in classes}


def filled(text: str, root: Path = ROOT) -> str:
    """Return a page with the tables of the present records.

    Raises:
        UserError: a table has no records, or a record cannot be read.
    """

    def table(match: re.Match[str]) -> str:
        columns = match["columns"].split(",") if match["columns"] else None
        rows = planned(root / "configs" / "compare" / f"{match['name']}.yaml")
        made = record_table(root / "results" / match["name"], columns, planned=rows)
        return f"{match['begin']}\n{to_markdown(made)}\n{match['end']}"

    return TABLE.sub(table, text)


if __name__ == "__main__":
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            page.write_text(after, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
