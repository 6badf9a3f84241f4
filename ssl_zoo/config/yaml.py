"""Reading and writing YAML with plain values only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.hints import mapping_hint
from ssl_zoo.config.schema import SECTIONS
from ssl_zoo.config.shipped import find_config
from ssl_zoo.errors import UserError
from ssl_zoo.text import shorten_repr

_MAX_CHARACTERS = 2**18
"""The maximum length of a file; a longer one is no configuration and could take very long to read."""

_INT = re.compile(r"([-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(
    r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
)
"""Numbers as in YAML 1.2. PyYAML follows YAML 1.1, where 010 is 8, 1:30 is 90 and 1e-3 is text."""


def _is_empty(node: yaml.ScalarNode) -> bool:
    return node.value == "" and node.style is None  # text in quotes has a style


class PlainLoader(yaml.SafeLoader):
    """A loader of plain values: no objects, references or duplicate keys; numbers as in YAML 1.2."""

    yaml_implicit_resolvers = {  # folders named 2024-01-01 or = stay text
        start: [
            (tag, text)
            for tag, text in resolvers
            if not tag.endswith((":timestamp", ":value", ":int", ":float"))
        ]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node; refuse references."""
        # References can build a structure that contains itself or is too large to print.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            problem = f"the reference *{event.anchor} is not supported; write the value out"
            raise yaml.MarkedYAMLError(None, None, problem, event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; refuse duplicate keys, and in braces keys without a value.

        ``{a:1}`` is such a key, named ``a:1``; a value begins after a colon and a space.
        """
        seen: set[str] = set()
        in_braces = node.flow_style and node.tag == self.DEFAULT_MAPPING_TAG
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if in_braces and isinstance(value, yaml.ScalarNode) and _is_empty(value):
                    right = mapping_hint(key.value) or f"{{{key.value}: null}}"
                    problem = f"{key.value!r} has no value; write {right}"
                    raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
                if key.value in seen:
                    problem = f"{key.value!r} is given twice"
                    raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class PlainDumper(yaml.SafeDumper):
    """A dumper that quotes text which `PlainLoader` would read as another type."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Represent text on one line, with any characters."""
        # Only double quotes escape every character that a reader would take for a line break.
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


PlainDumper.add_representer(str, PlainDumper.represent_str)

for _class in (PlainLoader, PlainDumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, origin: str) -> Any:
    """Read YAML.

    Raises:
        SettingError: the text is not valid YAML; the message names its origin and the line.
    """
    try:
        return yaml.load(text, PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingError("", f"is not valid YAML: {error.problem}", f"{origin}{line}") from error
    except RecursionError as error:
        raise SettingError("", "is nested too deeply", origin) from error
    except Exception as error:  # for a value such as `!!int ''`, PyYAML passes on the error of int()
        raise SettingError("", f"is not valid YAML: {error}", origin) from error


def read_yaml(file: str | Path, content: str = f"the sections {', '.join(SECTIONS)}") -> dict[str, Any]:
    """Return the settings in a YAML file, as plain values.

    Args:
        file: the file, or the name of a configuration that ships.
        content: the expected content, for error messages.

    Raises:
        SettingError: the file cannot be read, or does not hold settings by name.
    """
    origin = f"--config {file}"
    try:
        with find_config(file).open(encoding="utf-8") as opened:
            text = opened.read(_MAX_CHARACTERS + 1)
    except UserError as error:
        raise SettingError("", str(error), origin) from error
    except UnicodeDecodeError as error:
        raise SettingError("", "is not valid UTF-8", origin) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError("", f"cannot be read: {reason}", origin) from error
    if len(text) > _MAX_CHARACTERS:
        reason = f"is longer than {_MAX_CHARACTERS:,} characters, so it is not a file of settings"
        raise SettingError("", reason, origin)
    values = parse_yaml(text, origin)
    if values is not None and not isinstance(values, dict):
        raise SettingError("", f"must hold {content}, not {shorten_repr(values)}", origin)
    return {str(key): value for key, value in (values or {}).items()}
