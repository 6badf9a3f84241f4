"""YAML: plain values only, read and written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import SECTIONS
from ssl_zoo.text import shorten_repr

_LONGEST = 2**18
"""A file of more characters than this is something else, which would take long to read, or for ever."""


_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
"""Numbers such as 1e-3, which YAML 1.2 reads as such, and PyYAML (YAML 1.1) as text."""


class PlainLoader(yaml.SafeLoader):
    """Plain values alone: no tags that make objects, no references, no key twice; 1e-3 is a number."""

    yaml_implicit_resolvers = {  # the folders 2024-01-01 and = are text
        start: [(tag, text) for tag, text in resolvers if not tag.endswith((":timestamp", ":value"))]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node; refuse a reference."""
        # References can make a structure that holds itself, or one too large to print.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            problem = f"the reference *{event.anchor} is not supported, write the value out"
            raise yaml.MarkedYAMLError(None, None, problem, event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; refuse a key that is there twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value!r} is given twice"
                    raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class PlainDumper(yaml.SafeDumper):
    """Quotes text that `PlainLoader` would read as something else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Represent text on one line, whatever characters it has."""
        # Only in double quotes is every character escaped that a reader would take for a line's end.
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


PlainDumper.add_representer(str, PlainDumper.represent_str)

for _class in (PlainLoader, PlainDumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def parse_yaml(text: str, origin: str) -> Any:
    """Read YAML, with any fault in one line."""
    try:
        return yaml.load(text, PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingError(f"{origin}{line}: is not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise SettingError(f"{origin}: is nested too deeply") from error
    except Exception as error:  # PyYAML passes on whatever a value such as `!!int ''` makes int() raise
        raise SettingError(f"{origin}: is not valid YAML: {error}") from error


def read_yaml(file: str | Path, what: str = f"the sections {', '.join(SECTIONS)}") -> dict[str, Any]:
    """What a YAML file holds, plain values alone.

    Args:
        file: the file.
        what: what must be in it, for messages.

    Raises:
        UserError: it cannot be read, or holds no settings by name.
    """
    origin = f"--config {file}"
    try:
        with Path(file).open(encoding="utf-8") as opened:
            text = opened.read(_LONGEST + 1)
    except UnicodeDecodeError as error:
        raise SettingError(f"{origin}: is no text in UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"{origin}: cannot be read: {reason}") from error
    if len(text) > _LONGEST:
        raise SettingError(f"{origin}: is longer than {_LONGEST:,} characters, which no settings are")
    given = parse_yaml(text, origin)
    if given is not None and not isinstance(given, dict):
        raise SettingError(f"{origin}: must hold {what}, not {shorten_repr(given)}")
    return {str(key): value for key, value in (given or {}).items()}
