"""``ssl-zoo export``: a trained backbone for programs without ssl-zoo, for timm or as ONNX."""

from __future__ import annotations

import inspect
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from ssl_zoo import preprocess
from ssl_zoo.backbones.create import timm_arguments
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.runs.backbone import load_backbone, read_backbone
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import check_output_file, write_atomic
from ssl_zoo.spec import ImageSpec
from ssl_zoo.text import error_line

FORMATS = {".safetensors": (), ".onnx": ("onnx", "onnxscript")}
"""The modules that each format needs, by suffix."""

MAX_ONNX_BYTES = 2**31 - 2**24
"""The limit of the weights in one ONNX file: 2 GiB, less room for the graph."""


@torch_defaults()
def export(run: str | Path, to: str | Path) -> str:
    """Export the trained backbone of a run, in the format that the file's suffix names.

    - ``.safetensors``: the weights, for timm. The header's ``load`` is the Python that builds the
      model, to be run beside the file: one call of `timm.create_model` for the original stem, and a
      line per change for a small stem, which timm has no argument for.
    - ``.onnx``: the network, from ``images``, float32 [batch, channels, size, size], to ``features``,
      float32 [batch, D], with a dynamic batch size.

    Both take the input of the timm model: intensities in [0, 1], normalised. The code also defines
    ``preprocess(file)``, which returns an image file as this input with NumPy and Pillow alone, so that
    the features are those of the run's evaluation. ONNX has the code in its description. The mean and
    deviation are JSON under ``normalise`` in the header, and in ONNX's metadata.

    Args:
        run: a run directory, or its `backbone.safetensors`.
        to: the file to write; an existing one is replaced.

    Returns:
        The Python that loads the file.

    Raises:
        UserError: there is no backbone at `run`, it is not timm's, or `to` cannot be written or has
            an unknown format.
        SslZooError: the network cannot be expressed in ONNX, or writing fails.
    """
    to = Path(to)
    suffix = check_output_file("--to", to, FORMATS)
    config, spec, state = read_backbone(run)
    if not timm.is_model(config.resolve().name):
        raise UserError(
            f"{run}: its backbone {config.name!r} belongs to a plugin, and timm cannot load it"
        )
    model = load_backbone(run)
    images = {"mean": spec.mean, "std": spec.std, "size": spec.size, "channels": spec.channels}
    notes = {"normalise": json.dumps(images)}
    if suffix == ".onnx":
        write_atomic(to, _onnx(model, spec, notes))
        return onnx_code(spec, str(to))
    config = _without_sources(config).resolve()  # timm knows no preset of ours
    plain = timm.create_model(config.name, **timm_arguments(config, spec))
    changes = stem_changes(model, plain)
    notes |= {
        "load": timm_code(config, spec, changes, to.name),
        "timm": metadata.version("timm"),
        # ssl-zoo itself loads the file by these, as it does a run's.
        "backbone": config.model_dump_json(),
        "spec": json.dumps(asdict(spec)),
        "modality": spec.modality,
    }
    write_atomic(to, safetensors_bytes(state, notes))
    return timm_code(config, spec, changes, str(to))


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


def onnx_code(spec: ImageSpec, file: str) -> str:
    """Return the Python that computes features with an ONNX file."""
    load = ["import onnxruntime", "", f"session = onnxruntime.InferenceSession({file!r})"]
    call = "session.run(None, {'images': np.concatenate([preprocess(file) for file in files])})[0]"
    return "\n".join([*load, *_usage(call, "{}", spec)])


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


def _onnx(model: nn.Module, spec: ImageSpec, notes: dict[str, str]) -> bytes:
    """Return the content of an ONNX file with a network, and `notes` in its metadata.

    Raises:
        UserError: the network is too large for one file.
        SslZooError: it cannot be expressed in ONNX.
    """
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size > MAX_ONNX_BYTES:
        raise UserError(
            f"--to: the weights take {size / 2**30:.1f} GiB and an ONNX file holds 2; "
            "export .safetensors"
        )
    example = torch.zeros(2, spec.channels, spec.size, spec.size)
    try:
        with _silence():
            program: Any = torch.onnx.export(
                model,
                (example,),
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
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
    proto.doc_string = onnx_code(spec, "FILE")
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
