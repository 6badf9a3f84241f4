"""The plugin that brings the protocol `mine`.

What is heavy is imported inside, so that plugins are listed without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ssl_zoo import hookimpl

if TYPE_CHECKING:
    from ssl_zoo.evaluation import Protocol


@hookimpl
def ssl_zoo_register_protocols() -> Mapping[str, Protocol]:
    """Give MINE's estimate of what the features of two views share."""
    from ssl_zoo_infomax.evaluation import VIEW_INFORMATION

    return {"mine": VIEW_INFORMATION}
