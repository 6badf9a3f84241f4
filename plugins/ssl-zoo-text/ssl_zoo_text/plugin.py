"""The hooks of the plugin: sources, backbones, and the description of texts.

Imports are inside the hooks, so that listing plugins imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ssl_zoo import hookimpl

if TYPE_CHECKING:
    from ssl_zoo import Encoder
    from ssl_zoo.data import Source
    from ssl_zoo.evaluation import Protocol
    from ssl_zoo.tools.export import Exporter
    from ssl_zoo_text.spec import TextSpec


@hookimpl
def ssl_zoo_register_specs() -> Mapping[str, type[TextSpec]]:
    """Register the description of texts, with which saved backbones are read."""
    from ssl_zoo_text.spec import TextSpec

    return {"text": TextSpec}


@hookimpl
def ssl_zoo_register_sources() -> Mapping[str, Source]:
    """Register the bundled text, files and folders of texts, and texts of the Hugging Face hub."""
    from ssl_zoo.data import Source
    from ssl_zoo_text.corpus import TextOptions
    from ssl_zoo_text.files import HubOptions, is_of_hub, open_files, open_hub, takes
    from ssl_zoo_text.kjv import kjv
    from ssl_zoo_text.reading import FileOptions

    return {
        "kjv": Source(kjv, "text", TextOptions),
        "texts": Source(open_files, "text", FileOptions, takes),
        "hf-text": Source(open_hub, "text", HubOptions, is_of_hub),
    }


@hookimpl
def ssl_zoo_register_backbones() -> Mapping[str, Callable[..., Encoder]]:
    """Register the networks of transformers by family and size, such as ``bert-mini``."""
    from ssl_zoo_text.backbones import backbones

    return backbones()


@hookimpl
def ssl_zoo_register_protocols() -> Mapping[str, Protocol]:
    """Register the bits per byte of language models."""
    from ssl_zoo_text.likelihood import LIKELIHOOD

    return {"likelihood": LIKELIHOOD}


@hookimpl
def ssl_zoo_register_exporters() -> Mapping[str, Exporter]:
    """Register folders that transformers reads."""
    from ssl_zoo_text.export import FOLDER

    return {"transformers": FOLDER}
