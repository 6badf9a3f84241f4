"""The descriptions of samples by modality, the core's and those of plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ssl_zoo.plugins.registry import registry

if TYPE_CHECKING:
    from ssl_zoo.spec import Spec


def spec_class(modality: str) -> type[Spec] | None:
    """Return the class that describes samples of a modality; None if no plugin registers it."""
    from ssl_zoo.spec import ImageSpec  # here, as it imports torch

    specs: dict[str, type[Spec]] = {
        ImageSpec.modality: ImageSpec,
        **registry.collect("ssl_zoo_register_specs"),
    }
    return specs.get(modality)


def modality_of(header: Mapping[str, str]) -> str:
    """Return the kind of data that the header of a file of weights names; the first files name none."""
    return header.get("modality", "image")


def spec_of(header: Mapping[str, str]) -> Spec | None:
    """Return the description of samples in a header; None if it has none, or its plugin is not here.

    Raises:
        ValueError: it cannot be understood.
    """
    modality = modality_of(header)
    cls = spec_class(modality) if "spec" in header else None
    if cls is None:
        return None
    spec = cls.from_header(header["spec"])
    if spec.modality != modality:
        raise ValueError(f"its spec is of {spec.modality!r} data")
    return spec
