"""The plugin with the protocol `mine`.

Imports are inside the hook, so that listing plugins imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ssl_zoo import hookimpl

if TYPE_CHECKING:
    from ssl_zoo.evaluation import Protocol


@hookimpl
def ssl_zoo_register_protocols() -> Mapping[str, Protocol]:
    """Register MINE's estimate of the mutual information of two views' features."""
    from ssl_zoo_infomax.evaluation import VIEW_INFORMATION

    return {"mine": VIEW_INFORMATION}
