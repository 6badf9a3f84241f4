"""Exports of a backbone as a graph: an ONNX file, or a program of torch.export."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder
from ssl_zoo.text import error_line
from ssl_zoo.tools.exported_code import normalisation, torch_usage, usage

OPSET = 18
"""The version of ONNX's operators, which runtimes since 2023 have."""
MAX_ONNX_BYTES = 2**31 - 2**24
"""The limit of the weights in one ONNX file: 2 GiB, less room for the graph."""

log = logging.getLogger("ssl_zoo.tools")
T = TypeVar("T")


def write_image_onnx(encoder: Encoder, spec: ImageSpec, config: BackboneConfig, to: Path) -> str:
    """Write an ONNX file with the code that reads image files in its description."""

    def code(file: str) -> str:
        call = "session.run(None, {'images': np.concatenate([preprocess(file) for file in files])})[0]"
        return "\n".join([*_session(file), *usage(call, "{}", spec)])

    write_atomic(to, _onnx(encoder, spec, code("FILE"), normalisation(spec)))
    return code(str(to))


def write_onnx(encoder: Encoder, spec: Spec, config: BackboneConfig, to: Path) -> str:
    """Write an ONNX file whose inputs are the fields of a prepared batch."""

    def code(file: str) -> str:
        given = ", ".join(f"{name!r}: {name}" for name in _inputs(spec))
        call = f"# features = session.run(None, {{{given}}})[0]  # [B, D]"
        return "\n".join([*_session(file), "", call, *_shapes(spec)])

    write_atomic(to, _onnx(encoder, spec, code("FILE"), _described(spec)))
    return code(str(to))


def write_image_program(encoder: Encoder, spec: ImageSpec, config: BackboneConfig, to: Path) -> str:
    """Write a program of torch.export, with the code that reads image files in its ``load``."""

    def code(file: str) -> str:
        return "\n".join([*_loaded(file), *torch_usage(spec)])

    write_atomic(to, _program(encoder, spec, {"load": code("FILE"), **normalisation(spec)}))
    return code(str(to))


def write_program(encoder: Encoder, spec: Spec, config: BackboneConfig, to: Path) -> str:
    """Write a program of torch.export that takes the fields of a prepared batch."""

    def code(file: str) -> str:
        call = f"# features = model({', '.join(_inputs(spec))})  # [B, D]"
        return "\n".join([*_loaded(file), "", call, *_shapes(spec)])

    write_atomic(to, _program(encoder, spec, {"load": code("FILE"), **_described(spec)}))
    return code(str(to))


def _inputs(spec: Spec) -> dict[str, Tensor]:
    """Return two samples of a spec, by the names of the graph's inputs."""
    example = spec.example(2)
    if hasattr(example, "_asdict"):
        return dict(example._asdict())
    return {"images" if spec.modality == "image" else "x": example}


def _shapes(spec: Spec) -> list[str]:
    """Return comments on the types and shapes of the inputs."""
    return [
        f"# {name}: {str(x.dtype).removeprefix('torch.')} {['B', *x.shape[1:]]}".replace("'", "")
        for name, x in _inputs(spec).items()
    ]


def _described(spec: Spec) -> dict[str, str]:
    return {"spec": spec.to_header(), "modality": spec.modality}


def _session(file: str) -> list[str]:
    session = f"session = onnxruntime.InferenceSession({file!r})"
    return ["import onnxruntime", "", f"{session}  # opset {OPSET}"]


def _loaded(file: str) -> list[str]:
    return ["import torch", "", f"model = torch.export.load({file!r}).module()"]


class _Positional(nn.Module):
    """An encoder that takes the fields of a batch one by one."""

    def __init__(self, encoder: Encoder, batch: type) -> None:
        super().__init__()
        self.encoder, self.batch = encoder, batch

    def forward(self, *fields: Tensor) -> Tensor:
        features: Tensor = self.encoder(self.batch(*fields))
        return features


def _onnx(encoder: Encoder, spec: Spec, code: str, notes: Mapping[str, str]) -> bytes:
    """Return the content of an ONNX file with an encoder.

    Args:
        encoder: the encoder.
        spec: the description of its samples.
        code: the Python that uses the file, its description.
        notes: its metadata.

    Raises:
        UserError: the network is too large for one file.
        SslZooError: it cannot be expressed in ONNX.
    """
    size = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    if size > MAX_ONNX_BYTES:
        raise UserError(
            f"--to: the weights take {size / 2**30:.1f} GiB and an ONNX file holds 2; "
            "export .safetensors or .pt2"
        )

    def build(module: nn.Module, inputs: tuple[Tensor, ...], axes: Any) -> Any:
        return torch.onnx.export(
            module,
            inputs,
            input_names=list(_inputs(spec)),
            output_names=["features"],
            opset_version=OPSET,
            dynamic_shapes=axes,
            dynamo=True,
            verbose=False,
        )

    proto = _traced(encoder, spec, build, "in ONNX").model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # the exporter's traces, with paths of this machine
    proto.doc_string = code
    for key, value in notes.items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString()
    return content


def _program(encoder: Encoder, spec: Spec, notes: Mapping[str, str]) -> bytes:
    """Return the content of a file of torch.export with an encoder, and with `notes` as extra files.

    Raises:
        UserError: this torch is too old.
        SslZooError: the network cannot be expressed as a program.
    """
    # Guards on sizes would be taken for constraints that a dynamic axis must not have.
    deferred: dict[str, Any] = {"prefer_deferred_runtime_asserts_over_guards": True}
    if not deferred.keys() <= inspect.signature(torch.export.export).parameters.keys():
        raise UserError(
            f"--to: torch {torch.__version__} is too old for programs; update torch, or export .onnx"
        )

    def build(module: nn.Module, inputs: tuple[Tensor, ...], axes: Any) -> torch.export.ExportedProgram:
        return torch.export.export(module, inputs, dynamic_shapes=axes, **deferred)

    program = _traced(encoder, spec, build, "as a program of torch.export")
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it has paths of this machine
    file = BytesIO()
    with _silence():
        torch.export.save(program, file, extra_files=dict(notes))
    return file.getvalue()


def _traced(
    encoder: Encoder, spec: Spec, build: Callable[[nn.Module, tuple[Tensor, ...], Any], T], form: str
) -> T:
    """Return the graph of an encoder, with as many dynamic axes as it allows.

    The batch size is dynamic, of images the height and the width too, and of several inputs all axes.

    Args:
        encoder: the encoder.
        spec: the description of its samples.
        build: ``build(module, inputs, axes)`` traces a module with these dynamic axes.
        form: what the graph is, for the message.

    Raises:
        SslZooError: it has no graph with a dynamic batch size.
    """
    inputs = tuple(_inputs(spec).values())
    size, auto = torch.export.Dim("batch"), torch.export.Dim.AUTO
    example = spec.example(2)
    module: nn.Module = encoder
    choices: list[tuple[tuple[Tensor, ...], Any]]
    if not isinstance(example, Tensor):
        module = _Positional(encoder, type(example)).eval()
        every = tuple({0: size, **dict.fromkeys(range(1, x.ndim), auto)} for x in inputs)
        choices = [(inputs, (every,))]  # the axes of *fields
    else:
        choices = [(inputs, ({0: size},))]
        if example.ndim == 4:
            sides = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
            # A side of 1 in a map would be taken for a constant, so the map must be larger.
            choices.insert(0, ((example.repeat(1, 1, 2, 2),), ({0: size, **sides},)))
    for given, axes in choices[:-1]:
        with _silence(), suppress(Exception):  # the exporter's stages raise anything
            return build(module, given, axes)
        log.info("the exported height and width are fixed, as the network takes no others")
    try:
        with _silence():
            return build(module, *choices[-1])
    except Exception as error:
        raise SslZooError(
            f"--to: torch {torch.__version__} cannot express this backbone {form}: "
            f"{error_line(_root(error))}; export .safetensors"
        ) from error


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
