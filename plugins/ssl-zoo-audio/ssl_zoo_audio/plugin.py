"""The plugin with the description of clips, their sources and networks.

Imports are inside the hooks, so that listing plugins imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ssl_zoo import hookimpl

if TYPE_CHECKING:
    from ssl_zoo.data import Source
    from ssl_zoo.tools.export import Exporter
    from ssl_zoo_audio.spec import SoundSpec


@hookimpl
def ssl_zoo_register_specs() -> Mapping[str, type[SoundSpec]]:
    """Register the description of clips."""
    from ssl_zoo_audio.spec import MODALITY, SoundSpec

    return {MODALITY: SoundSpec}


@hookimpl
def ssl_zoo_register_sources() -> Mapping[str, Source]:
    """Register the bundled syllables, and audio files."""
    from ssl_zoo.data import Source
    from ssl_zoo_audio.data.files import FileOptions, open_files, takes_audio
    from ssl_zoo_audio.data.syllables import SyllableOptions, syllables
    from ssl_zoo_audio.spec import MODALITY

    return {
        "syllables": Source(syllables, MODALITY, SyllableOptions),
        "audio": Source(open_files, MODALITY, FileOptions, takes_audio),
    }


@hookimpl
def ssl_zoo_register_backbones() -> Mapping[str, Callable[[Any, Any], Any]]:
    """Register the networks."""
    from ssl_zoo_audio.encoders.mel import MelCNN, MelGRU, MelTransformer

    return {
        "mel-mini": MelTransformer,
        "mel-gru": MelGRU,
        "mel-cnn": MelCNN,
        "wav2vec2-mini": _of_transformers("Wav2Vec2Encoder"),
        "hubert-mini": _of_transformers("HubertEncoder"),
        "data2vec-mini": _of_transformers("Data2VecEncoder"),
    }


@hookimpl
def ssl_zoo_register_exporters() -> Mapping[str, Exporter]:
    """Register the folder of transformers."""
    from ssl_zoo.tools.export import Exporter
    from ssl_zoo_audio.encoders.huggingface import TransformersEncoder
    from ssl_zoo_audio.export import write_folder
    from ssl_zoo_audio.spec import MODALITY

    exporter = Exporter(write_folder, "", MODALITY, TransformersEncoder, library="transformers")
    return {"transformers-audio": exporter}


def _of_transformers(name: str) -> Callable[[Any, Any], Any]:
    """Return a function that builds an encoder of transformers, which takes seconds to import.

    Args:
        name: its class in `ssl_zoo_audio.encoders.huggingface`.
    """

    def build(config: Any, spec: Any) -> Any:
        from importlib import import_module

        return getattr(import_module("ssl_zoo_audio.encoders.huggingface"), name)(config, spec)

    return build
