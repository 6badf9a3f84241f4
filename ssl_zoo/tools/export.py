"""``ssl-zoo export``: a trained backbone for other programs, such as for timm or as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import weights_file
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.backbone import read_backbone, restore_encoder, write_backbone
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import check_output_file, make_output_folder
from ssl_zoo.spec import Spec
from ssl_zoo.task import Encoder
from ssl_zoo.tools.export_graph import write_image_onnx, write_image_program, write_onnx, write_program
from ssl_zoo.tools.export_timm import write_folder, write_timm, write_torchvision
from ssl_zoo.tools.exported_code import without_sources
from ssl_zoo.tools.model_card import write_card

Write = Callable[[Any, Any, BackboneConfig, Path], str]
"""Writes an encoder, for samples of this spec and built from this section, and returns Python code."""


@dataclass(frozen=True)
class Exporter:
    """A format of ``ssl-zoo export``, registered by the hook `ssl_zoo_register_exporters`.

    Of several for one suffix the first that takes the encoder is used, plugins' before the core's.

    Attributes:
        write: writes a file or into a folder: ``write(encoder, spec, config, to)``, where `encoder` is
            on the CPU in evaluation mode, `spec` describes its samples, `config` is the section
            ``backbone``, and `to` is the path. It returns the Python that loads what it wrote.
        suffix: the suffix of the file, such as ``".onnx"``; "" for a folder, which exists by then.
        modality: the kind of data; None for any.
        encoder: the class of encoders that it takes.
        requires: the modules that must be installed.
        install: what ``pip install`` needs to bring them.
        library: for a folder, the library that loads it, as Hugging Face's hub names it.
    """

    write: Write
    suffix: str
    modality: str | None = None
    encoder: type[nn.Module] = Encoder
    requires: Sequence[str] = ()
    install: str = ""
    library: str = ""

    def __call__(self, encoder: Encoder, spec: Spec, config: BackboneConfig, to: Path) -> str:
        """Write an encoder, and return the Python that loads what was written."""
        return self.write(encoder, spec, config, to)

    def takes(self, encoder: Encoder, spec: Spec) -> bool:
        """Return whether it can write an encoder for samples of a spec."""
        return self.modality in (None, spec.modality) and isinstance(encoder, self.encoder)


@torch_defaults()
def export(run: str | Path, to: str | Path) -> str:
    """Export the trained backbone of a run, in the format that the suffix of `to` names.

    - ``.safetensors``: the weights. For a timm model the header's ``load`` is the Python that builds it
      without ssl-zoo, to be run beside the file: one call of `timm.create_model` for the original stem,
      and a line per change for a small stem, which timm has no argument for. That of a plugin's
      backbone is loaded by `ssl_zoo.load_backbone`.
    - ``.onnx``: the network, from ``images``, float32 [batch, channels, height, width], to ``features``,
      float32 [batch, D], opset 18, with a dynamic batch size, and where the network allows, as
      convolutions do, also a dynamic height and width. For another modality the inputs have the names of
      the fields of a prepared batch.
    - ``.pt2``: the network as a program of `torch.export`, with the same inputs and dynamic sizes, for
      `torch.export.load`.
    - ``.pth``: for a timm model that torchvision has too (resnet18, resnet34, resnet50, …, with the
      original stem), its state dict under torchvision's names.
    - a folder: for a timm model with the original stem the layout of Hugging Face's hub, ``config.json``
      and ``model.safetensors``, which timm loads from there or offline as ``local-dir:FOLDER``.
    - any other, or a folder, for which a plugin registers an exporter.

    A folder also gets a model card, ``README.md``, with the data, the budget, the weights that training
    started from, and the scores of the run.

    For images, the code also defines ``preprocess(file)``, which returns an image file as the input of
    the network with NumPy and Pillow alone, so that the features are those of the run's evaluation.
    ONNX has the code in its description. The mean, the deviation and the interpolation are JSON
    under ``normalise`` in the header, and in ONNX's metadata. A ``.pt2`` has ``load`` and ``normalise``
    as extra files.

    Args:
        run: a run directory, a file of its ``snapshots``, or a `backbone.safetensors`.
        to: the file or folder to write; an existing one is replaced.

    Returns:
        The Python that loads the file.

    Raises:
        UserError: there is no backbone at `run`, or `to` cannot be written or has a format that is not
            there for this backbone.
        SslZooError: the network cannot be expressed as a graph, or writing fails.
    """
    to = Path(to)
    config, spec, state = read_backbone(run)
    encoder = restore_encoder(weights_file(run), config, spec, state)
    exporter = _choose(encoder, spec, config, to)
    if exporter.suffix:
        check_output_file("--to", to, {to.suffix: ()})
        return exporter(encoder, spec, config, to)
    existed = to.exists()
    make_output_folder("--to", to)
    try:
        code = exporter(encoder, spec, config, to)
    except Unsuitable:
        if not existed:
            to.rmdir()
        raise
    write_card(to, Path(run), code, config, exporter.library)
    return code


def _choose(encoder: Encoder, spec: Spec, config: BackboneConfig, to: Path) -> Exporter:
    """Return the exporter for an encoder and a path.

    Raises:
        UserError: there is none, or a module that it requires is not installed.
    """
    known: list[Exporter] = [*registry.collect("ssl_zoo_register_exporters").values(), *EXPORTERS]
    usable = [e for e in known if e.takes(encoder, spec)]
    chosen = next((e for e in usable if e.suffix == to.suffix.lower()), None)
    if chosen is None:
        names = dict.fromkeys(e.suffix or "no suffix, for a folder" for e in usable)
        others = [e for e in known if (e.suffix, e.modality) == (to.suffix.lower(), spec.modality)]
        problem, hint = f"unknown format for {spec.modality} data", ""
        if libraries := " or ".join(e.library for e in others if e.library):
            problem = f"{config.name} is no network of {libraries}, whose format this is"
            hint = f", or train a network of {libraries} (--backbone)"
        raise UserError(f"--to {to}: {problem}; its name must end in {' or '.join(names)}{hint}")
    if missing := [name for name in chosen.requires if find_spec(name) is None]:
        install = chosen.install or " ".join(missing)
        raise UserError(f"--to {to} needs {' and '.join(missing)}: pip install {install!r}")
    return chosen


def _write_weights(encoder: Encoder, spec: Spec, config: BackboneConfig, to: Path) -> str:
    """Write the weights for `ssl_zoo.load_backbone`."""
    write_backbone(to, encoder, without_sources(config), spec)
    plugins = [f"ssl_zoo.registry.load_file({file!r})" for file in registry.files()]
    return "\n".join(
        [
            "import ssl_zoo",
            "",
            *plugins,
            f"model = ssl_zoo.load_backbone({str(to)!r})",
            "",
            "# features = model(model.ssl_zoo_preprocess(source))  # [1, D]",
        ]
    )


_ONNX = ("onnx", "onnxscript")
EXPORTERS = (
    Exporter(write_timm, ".safetensors", "image", TimmEncoder),
    Exporter(write_torchvision, ".pth", "image", TimmEncoder),
    Exporter(write_folder, "", "image", TimmEncoder, library="timm"),
    Exporter(_write_weights, ".safetensors"),
    Exporter(write_image_onnx, ".onnx", "image", requires=_ONNX, install="ssl-zoo[onnx]"),
    Exporter(write_onnx, ".onnx", requires=_ONNX, install="ssl-zoo[onnx]"),
    Exporter(write_image_program, ".pt2", "image"),
    Exporter(write_program, ".pt2"),
)
"""The formats that the core has."""
