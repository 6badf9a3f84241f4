"""``ssl-zoo export``: a trained backbone for other programs, such as for timm or as ONNX."""

from __future__ import annotations

import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ssl_zoo import preprocess
from ssl_zoo.backbones.create import timm_arguments
from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import weights_file
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.backbone import read_backbone, restore_encoder, write_backbone
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import check_output_file, make_output_folder, write_atomic
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder
from ssl_zoo.text import error_line

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
    """

    write: Write
    suffix: str
    modality: str | None = None
    encoder: type[nn.Module] = Encoder
    requires: Sequence[str] = ()
    install: str = ""

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
    - ``.onnx``: the network, from ``images``, float32 [batch, channels, size, size], to ``features``,
      float32 [batch, D], with a dynamic batch size. For another modality the inputs have the names of
      the fields of a prepared batch.
    - any other, or a folder, for which a plugin registers an exporter.

    For images, the code also defines ``preprocess(file)``, which returns an image file as the input of
    the network with NumPy and Pillow alone, so that the features are those of the run's evaluation.
    ONNX has the code in its description. The mean and deviation are JSON under ``normalise`` in the
    header, and in ONNX's metadata.

    Args:
        run: a run directory, or its `backbone.safetensors`.
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
    else:
        make_output_folder("--to", to)
    return exporter(encoder, spec, config, to)


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


def _write_timm(encoder: TimmEncoder, spec: ImageSpec, config: BackboneConfig, to: Path) -> str:
    """Write the weights for timm, and for ssl-zoo, which loads the file as it does a run's."""
    config = _without_sources(config).resolve()  # timm knows no preset of ours
    plain = timm.create_model(config.name, **timm_arguments(config, spec))
    changes = stem_changes(encoder.exported_network, plain)
    header = {
        **_normalisation(spec),
        "load": timm_code(config, spec, changes, to.name),
        "timm": metadata.version("timm"),
    }
    write_backbone(to, encoder, config, spec, header)
    return timm_code(config, spec, changes, str(to))


def _write_weights(encoder: Encoder, spec: Spec, config: BackboneConfig, to: Path) -> str:
    """Write the weights for `ssl_zoo.load_backbone`."""
    write_backbone(to, encoder, _without_sources(config), spec)
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


def _normalisation(spec: ImageSpec) -> dict[str, str]:
    """Return how images are normalised, for the header of a file."""
    names = ["mean", "std", "size", "channels", *(["range"] if spec.range is not None else [])]
    return {"normalise": json.dumps({name: getattr(spec, name) for name in names})}


def timm_code(config: BackboneConfig, spec: ImageSpec, changes: list[str], file: str) -> str:
    """Return the Python that builds a backbone with timm and loads its weights from a file.

    Args:
        config: the timm model.
        spec: the description of its images.
        changes: the result of `stem_changes`.
        file: the file's name in the code.
    """
    arguments = [repr(config.name)]
    arguments += [f"{name}={value!r}" for name, value in timm_arguments(config, spec).items()]
    imports, load = ["import timm", "import torch"], []
    if changes:
        load = [*changes, f"timm.models.load_checkpoint(model, {file!r})"]
    else:
        arguments.insert(1, f"checkpoint_path={file!r}")
    create = f"model = timm.create_model({', '.join(arguments)})"
    call = "model(torch.cat([preprocess(file) for file in files]))"
    usage = _usage(call, "torch.from_numpy({})", spec)
    return "\n".join([*imports, "", create, *load, "model.eval()", *usage])


def stem_changes(model: nn.Module, plain: nn.Module) -> list[str]:
    """Return the lines of Python that change the stem of timm's ``model`` to that of ours.

    Args:
        model: our network, after `use_small_stem` or not.
        plain: timm's network, made with the same arguments.
    """
    lines = []
    for name, ours in model.named_modules():
        theirs = plain.get_submodule(name)
        if not isinstance(ours, nn.Conv2d | nn.Identity) or repr(ours) == repr(theirs):
            continue
        if _but_for_stride(ours) == _but_for_stride(theirs):
            lines.append(f"{_place(name)}.stride = {ours.stride}")
        else:
            lines.append(f"{_place(name)} = torch.nn.{ours}")
    return lines


def _place(name: str) -> str:
    """Return the Python expression of a module of the model; a container's children are numbered."""
    numbered = any(part.isdigit() for part in name.split("."))
    return f"model.get_submodule({name!r})" if numbered else f"model.{name}"


def _but_for_stride(module: nn.Module) -> str:
    return re.sub(r"\bstride=\(\d+, \d+\)", "", repr(module))


def _write_image_onnx(encoder: Encoder, spec: ImageSpec, config: BackboneConfig, to: Path) -> str:
    """Write an ONNX file with the code that reads image files in its description."""

    def code(file: str) -> str:
        call = "session.run(None, {'images': np.concatenate([preprocess(file) for file in files])})[0]"
        return "\n".join([*_session(file), *_usage(call, "{}", spec)])

    write_atomic(to, _onnx(encoder, {"images": spec.example(2)}, code("FILE"), _normalisation(spec)))
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
    return ["import onnxruntime", "", f"session = onnxruntime.InferenceSession({file!r})"]


def _usage(call: str, convert: str, spec: ImageSpec) -> list[str]:
    """Return the code of ``preprocess``, with comments on how to call the network.

    Args:
        call: computes the features of ``files``.
        convert: what ``preprocess`` does with its array, a format string.
        spec: the description of the images.
    """
    source = inspect.getsource(preprocess).partition("from __future__ import annotations\n")[2]
    shape = f"[1, {spec.channels}, {spec.size}, {spec.size}]"
    arguments = f"{spec.size}, {spec.channels}, {list(spec.mean)}, {list(spec.std)}"
    arguments += "" if spec.range is None else f", limits={spec.range}"
    arguments += "" if spec.pages == "first" else f", pages={spec.pages!r}"
    return [
        "",
        f"# features = {call}  # [B, D]",
        "#",
        f"# preprocess(file) returns an image file as float32 {shape}: intensities in [0, 1],",
        "# normalised by the mean and deviation of the data that the run was trained on.",
        source.rstrip(),
        "",
        "",
        "def preprocess(file):",
        f'    """Return an image file as the input of the network, float32 {shape}."""',
        f"    return {convert.format(f'image_input(file, {arguments})')}",
    ]


def _without_sources(config: BackboneConfig) -> BackboneConfig:
    """Return the configuration without the source of the initial weights, which may be a local file."""
    sources = ("file", "hf_hub_filename", "hf_hub_id", "source", "url")
    options = {name: value for name, value in config.options.items() if name != "cache_dir"}
    overlay = options.pop("pretrained_cfg_overlay", None) or {}
    if overlay := {name: value for name, value in overlay.items() if name not in sources}:
        options["pretrained_cfg_overlay"] = overlay
    return config.model_copy(update={"options": options, "pretrained": False})


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
    first, auto = torch.export.Dim("batch"), torch.export.Dim.AUTO
    shapes = tuple(
        {0: first, **dict.fromkeys(range(1, x.ndim if several else 1), auto)} for x in inputs.values()
    )
    try:
        with _silence():
            program: Any = torch.onnx.export(
                _Positional(encoder, batch).eval() if several else encoder,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["features"],
                dynamic_shapes=(shapes,) if several else shapes,
                dynamo=True,
                verbose=False,
            )
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
    Exporter(_write_timm, ".safetensors", "image", TimmEncoder),
    Exporter(_write_weights, ".safetensors"),
    Exporter(_write_image_onnx, ".onnx", "image", requires=_ONNX, install="ssl-zoo[onnx]"),
    Exporter(_write_onnx, ".onnx", requires=_ONNX, install="ssl-zoo[onnx]"),
)
"""The formats that the core has."""
