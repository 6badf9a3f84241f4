"""The plugin with the protocols for images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ssl_zoo import hookimpl

if TYPE_CHECKING:
    from ssl_zoo.evaluation import Protocol


@hookimpl
def ssl_zoo_register_protocols() -> Mapping[str, Protocol]:
    """Register the protocol on feature maps."""
    from ssl_zoo_vision.dense import DENSE

    return {"dense": DENSE}
