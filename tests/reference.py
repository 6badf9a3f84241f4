"""Make the reference as one plain page: ``python -m tests.reference > docs/reference.md``.

The pages in docs/reference name objects, which mkdocs fills in; this page can be read unbuilt.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from torch import nn

PAGES = Path(__file__).parent.parent / "docs" / "reference"

HEAD = """\
# Reference, as one plain page

All public names with their docstrings, for reading without building the documentation. It is made from
the code by `python -m tests.reference > docs/reference.md`; a test compares the two. Each section is
also a page of the [built reference](reference/index.md).
"""


_NO_SIGNATURE = BaseModel | nn.Module
"""Classes whose constructor tells nothing: fields are documented as attributes."""


def resolve(path: str) -> Any:
    """Return the object with a dotted path."""
    parts = path.split(".")
    for number in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:number]))
        except ModuleNotFoundError:
            continue
        for name in parts[number:]:
            found = getattr(found, name)
        return found
    raise ImportError(path)


def members(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public members of a module or class that are its own, in the order of the source."""
    names = getattr(thing, "__all__", None) or [n for n in vars(thing) if not n.startswith("_")]
    for name in names:
        value = getattr(thing, name)
        if isinstance(thing, ModuleType):
            own = getattr(value, "__module__", "").startswith("ssl_zoo")
            listed = hasattr(thing, "__all__") or getattr(value, "__module__", "") == thing.__name__
            if own and listed and (inspect.isclass(value) or inspect.isfunction(value)):
                yield name, value
        elif name in vars(thing) and (inspect.isroutine(value) or isinstance(value, property)):
            yield name, value


def signature(value: Any) -> str:
    """Return the parameters of a function or class as text; "" for a property."""
    if isinstance(value, property) or (
        inspect.isclass(value) and issubclass(value, BaseModel | nn.Module)
    ):
        return ""
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    return re.sub(r"<function (\w+) at 0x\w+>|<factory>", lambda m: m[1] or "…", text)


def describe(name: str, value: Any, depth: int) -> Iterator[str]:
    """Yield the lines about an object and its public members."""
    yield f"\n{'#' * depth} `{name}`\n"
    doc = inspect.cleandoc(value.__doc__ or "")
    called = "" if isinstance(value, ModuleType) else name.rpartition(".")[2] + signature(value)
    yield "\n".join(["```text", f"{called}\n\n{doc}".strip(), "```"])
    if inspect.isclass(value) or isinstance(value, ModuleType):
        for member, inner in members(value):
            if inner.__doc__:
                yield from describe(f"{name}.{member}", inner, min(depth + 1, 5))


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for file in sorted(PAGES.glob("*.md")):
        text = file.read_text()
        names = re.findall(r"^::: (\S+)", text, re.MULTILINE)
        if names:
            lines.append(f"\n## {text.splitlines()[0].removeprefix('# ')}")
            for name in names:
                lines += describe(name, resolve(name), 3)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
