"""Make the page of all notices from the code: ``python -m tests.notices > docs/notices.md``."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ssl_zoo.notices import KINDS, Notice

ROOT = Path(__file__).parent.parent
PACKAGES = ("ssl_zoo", "ssl_zoo_vision", "ssl_zoo_observers")

HEAD = """\
# What is left out, guessed or taken as a default

Much is decided for you: images are cut to squares, a part is held out, a batch that is not full is left
out. Each case below is said in one line on standard error, once, when it is known, with its numbers:

    ssl-zoo train --task simclr --data photos/

`--quiet` hides these lines. With `--json` they are in the JSON instead, under `notices`, and what was
found in the data is there as numbers too, under `data`; a run keeps both in its `results.json`. In
Python they are records of the level INFO of the logger `ssl_zoo.notices`.

This page is made from the code by `python -m tests.notices > docs/notices.md`; a test compares the two.

## Notices
"""

WARNINGS = """
## Warnings

What is probably a mistake is a warning, which nothing hides; it begins with `warning:`, and is kept
under `notices` too. `…` stands for numbers and names.
"""


def modules() -> Iterator[ModuleType]:
    """Import and yield all modules of the zoo, without templates and programs."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for info in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not info.name.endswith("__main__") and ".templates" not in info.name:
                yield importlib.import_module(info.name)


def notices() -> list[Notice]:
    """Return all kinds of notices by name; those of other distributions and of tests are left out."""
    declared = {id(value) for module in modules() for value in vars(module).values()}
    return sorted((n for n in KINDS.values() if id(n) in declared), key=lambda notice: notice.name)


def calls() -> Iterator[ast.Call]:
    """Yield all calls in the source of the zoo."""
    for name in PACKAGES:
        (folder,) = importlib.import_module(name).__path__
        for file in sorted(Path(folder).rglob("*.py")):
            if "templates" not in file.parts:
                tree = ast.parse(file.read_text(encoding="utf-8"))
                yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def warnings() -> list[str]:
    """Return the texts of all warnings, with … for what is filled in."""
    texts = set()
    for call in calls():
        function = call.func
        if isinstance(function, ast.Attribute) and function.attr == "warning" and call.args:
            owner = function.value
            if isinstance(owner, ast.Name) and owner.id == "log":
                texts.add(_text(call.args[0]))
    return sorted(texts)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return re.sub(r"%[-.\d]*[a-z]", "…", str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(
            "…" if isinstance(part, ast.FormattedValue) else _text(part) for part in node.values
        )
    return "…"


def page() -> str:
    """Return the page."""
    rows = [f"| {n.name} | {n.what} | {n.change} |" for n in notices()]
    table = "\n".join(["| notice | what is done | how to change it |", "|---|---|---|", *rows])
    lines = "\n".join(f"- {text}" for text in warnings() if text.strip("…"))
    return f"{HEAD}\n{table}\n{WARNINGS}\n{lines}\n"


if __name__ == "__main__":
    print(page(), end="")
