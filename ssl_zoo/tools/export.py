"""``ssl-zoo export``: a trained backbone for other programs, such as for timm or as ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import weights_file
from ssl_zoo.errors import SslZooError, Unsuitable, UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.backbone import read_backbone, restore_encoder, write_backbone
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import check_output_file, make_output_folder, write_atomic
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder
from ssl_zoo.text import error_line
from ssl_zoo.tools.export_timm import write_folder, write_timm, write_torchvision
from ssl_zoo.tools.exported_code import normalisation, usage, without_sources
from ssl_zoo.tools.model_card import write_card

OPSET = 18
"""The version of ONNX's operators, which runtimes since 2023 have."""
MAX_ONNX_BYTES = 2**31 - 2**24
"""The limit of the weights in one ONNX file: 2 GiB, less room for the graph."""

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
    under ``normalise`` in the header, and in ONNX's metadata.

    Args:
        run: a run directory, a file of its ``snapshots``, or a `backbone.safetensors`.
        to: the file or folder to write; an existing one is replaced.

    Returns:
        The Python that loads the file.

    Raises:
        UserError: there is no backbone at `run`, or `to` cannot be written or has a format that is not
            there for this backbone.
        SslZooError: the network cannot be expressed in ONNX, or writing fails.
    """
    to = Path(to)
    config, spec, state = read_backbone(run)
    encoder = restore_encoder(weights_file(run), config, spec, state)
    exporter = _choose(encoder, spec, to)
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


def _choose(encoder: Encoder, spec: Spec, to: Path) -> Exporter:
    """Return the exporter for an encoder and a path.

    Raises:
        UserError: there is none, or a module that it requires is not installed.
    """
    known: list[Exporter] = [*registry.collect("ssl_zoo_register_exporters").values(), *EXPORTERS]
    usable = [e for e in known if e.takes(encoder, spec)]
    chosen = next((e for e in usable if e.suffix == to.suffix.lower()), None)
    if chosen is None:
        names = [e.suffix or "no suffix, for a folder" for e in usable]
        raise UserError(
            f"--to {to}: unknown format for {spec.modality} data; its name must end in "
            f"{' or '.join(dict.fromkeys(names))}"
        )
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


def _write_image_onnx(encoder: Encoder, spec: ImageSpec, config: BackboneConfig, to: Path) -> str:
    """Write an ONNX file with the code that reads image files in its description."""

    def code(file: str) -> str:
        call = "session.run(None, {'images': np.concatenate([preprocess(file) for file in files])})[0]"
        return "\n".join([*_session(file), *usage(call, "{}", spec)])

    write_atomic(to, _onnx(encoder, {"images": spec.example(2)}, code("FILE"), normalisation(spec)))
    return code(str(to))


def _write_onnx(encoder: Encoder, spec: Spec, config: BackboneConfig, to: Path) -> str:
    """Write an ONNX file whose inputs are the fields of a prepared batch."""
    example = spec.example(2)
    inputs = example._asdict() if hasattr(example, "_fields") else {"x": example}

    def code(file: str) -> str:
        given = ", ".join(f"{name!r}: {name}" for name in inputs)
        shapes = [
            f"# {name}: {str(x.dtype).removeprefix('torch.')} {['B', *x.shape[1:]]}".replace("'", "")
            for name, x in inputs.items()
        ]
        call = f"# features = session.run(None, {{{given}}})[0]  # [B, D]"
        return "\n".join([*_session(file), "", call, *shapes])

    notes = {"spec": spec.to_header(), "modality": spec.modality}
    write_atomic(to, _onnx(encoder, inputs, code("FILE"), notes, type(example)))
    return code(str(to))


def _session(file: str) -> list[str]:
    session = f"session = onnxruntime.InferenceSession({file!r})"
    return ["import onnxruntime", "", f"{session}  # opset {OPSET}"]


class _Positional(nn.Module):
    """An encoder that takes the fields of a batch one by one."""

    def __init__(self, encoder: Encoder, batch: type) -> None:
        super().__init__()
        self.encoder, self.batch = encoder, batch

    def forward(self, *fields: Tensor) -> Tensor:
        features: Tensor = self.encoder(self.batch(*fields))
        return features


def _onnx(
    encoder: Encoder,
    inputs: Mapping[str, Tensor],
    code: str,
    notes: Mapping[str, str],
    batch: type = Tensor,
) -> bytes:
    """Return the content of an ONNX file with an encoder.

    Args:
        encoder: the encoder.
        inputs: examples of its inputs [2, ...] by name.
        code: the Python that uses the file, its description.
        notes: its metadata.
        batch: the named tuple of the inputs, whose further axes are dynamic as far as the encoder
            allows; `Tensor` for a single one, of which only the batch size is.

    Raises:
        UserError: the network is too large for one file.
        SslZooError: it cannot be expressed in ONNX.
    """
    size = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    if size > MAX_ONNX_BYTES:
        raise UserError(
            f"--to: the weights take {size / 2**30:.1f} GiB and an ONNX file holds 2; "
            "export .safetensors"
        )
    several = batch is not Tensor
    module = _Positional(encoder, batch).eval() if several else encoder
    try:
        program = next(filter(None, _programs(module, inputs, several)))
    except Exception as error:  # the exporter's stages raise anything
        raise SslZooError(
            f"--to: torch {torch.__version__} cannot express this backbone in ONNX: "
            f"{error_line(_root(error))}; export .safetensors"
        ) from error
    proto = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # the exporter's traces, with paths of this machine
    proto.doc_string = code
    for key, value in notes.items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString()
    return content


def _programs(module: nn.Module, inputs: Mapping[str, Tensor], several: bool) -> Iterator[Any]:
    """Yield the network in ONNX, from the most dynamic axes on; None if it does not allow them.

    Raises:
        Exception: it does not allow a dynamic batch size, or has no graph at all.
    """
    first, auto = torch.export.Dim("batch"), torch.export.Dim.AUTO
    if several:
        axes = [tuple({0: first, **dict.fromkeys(range(1, x.ndim), auto)} for x in inputs.values())]
    else:
        sides = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
        images = all(x.ndim == len(sides) + 2 for x in inputs.values())
        axes = [tuple({0: first, **more} for _ in inputs) for more in ([sides, {}] if images else [{}])]
    for number, shapes in enumerate(axes, 1):
        try:
            with _silence():
                yield torch.onnx.export(
                    module,
                    tuple(inputs.values()),
                    input_names=list(inputs),
                    output_names=["features"],
                    opset_version=OPSET,
                    dynamic_shapes=(shapes,) if several else shapes,
                    dynamo=True,
                    verbose=False,
                )
        except Exception:
            if number == len(axes):
                raise
            yield None


@contextmanager
def _silence() -> Iterator[None]:
    """Temporarily silence the exporter's progress, warnings and graphs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _root(error: BaseException) -> BaseException:
    """Return the first cause of an error."""
    return error if error.__cause__ is None else _root(error.__cause__)


_ONNX = ("onnx", "onnxscript")
EXPORTERS = (
    Exporter(write_timm, ".safetensors", "image", TimmEncoder),
    Exporter(write_torchvision, ".pth", "image", TimmEncoder),
    Exporter(write_folder, "", "image", TimmEncoder, library="timm"),
    Exporter(_write_weights, ".safetensors"),
    Exporter(_write_image_onnx, ".onnx", "image", requires=_ONNX, install="ssl-zoo[onnx]"),
    Exporter(_write_onnx, ".onnx", requires=_ONNX, install="ssl-zoo[onnx]"),
)
"""The formats that the core has."""
