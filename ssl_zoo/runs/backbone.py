"""The trained backbone of a run: writing and reading its file, and building the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from ssl_zoo.backbones.build import build_encoder, is_known
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import weights_file
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.specs import modality_of, spec_of
from ssl_zoo.runs.checkpoints import state_dict_errors
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.spec import Spec
from ssl_zoo.task import Encoder


def write_backbone(
    file: Path,
    encoder: Encoder,
    config: BackboneConfig,
    spec: Spec,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Save the weights of a backbone, with all that `load_backbone` needs to build it again.

    Args:
        file: the file to write or replace.
        encoder: the backbone.
        config: the section ``backbone`` that it is built from.
        spec: the description of its samples.
        notes: further entries of the file's header.

    Raises:
        Unwritable: the file cannot be written.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.exported_network.state_dict().items()}
    write_atomic(file, safetensors_bytes(state, {**notes, **backbone_header(config, spec)}))


def backbone_header(config: BackboneConfig, spec: Spec) -> dict[str, str]:
    """Return the header of a file of weights, by which `load_backbone` builds the network again."""
    # The source of the first weights is of no use in another place, and older versions do not know it.
    unset = {"stem_size"} if config.stem_size is None else set()
    described = {"mean", "std", "interpolation"}  # by the spec
    settings = config.model_dump_json(
        exclude={"weights", "weights_prefix", "strict", *described, *unset}
    )
    return {"backbone": settings, "modality": spec.modality, "spec": spec.to_header()}


@torch_defaults()
def load_backbone(path: str | Path) -> nn.Module:
    """Load the trained backbone of a run, in evaluation mode.

    Args:
        path: a run directory, or its `backbone.safetensors`.

    Returns:
        The network: timm's for images, such as that of another library for what a plugin trains.
        For timm's, `model(x)` returns pooled features [B, D], `model.forward_features(x)` the map.
        `model.ssl_zoo_spec` is the description of the samples (`ssl_zoo.spec.Spec`), and
        `model.ssl_zoo_preprocess(file)` returns a file, or a decoded `PIL.Image.Image`, as its input,
        with which the features are those of the run's evaluation.
        `model.ssl_zoo_spec.prepare(batch)` does so for decoded samples, such as uint8 [B, C, h, w].

    Raises:
        UserError: there is no backbone at `path`, it cannot be read, or its plugin is missing.
    """
    encoder, spec = load_encoder(path)
    network: Any = encoder.exported_network
    network.ssl_zoo_spec = spec
    network.ssl_zoo_preprocess = spec.preprocess
    loaded: nn.Module = network
    return loaded


def load_encoder(path: str | Path) -> tuple[Encoder, Spec]:
    """Load the trained backbone of a run as an encoder, in evaluation mode, with its samples' spec.

    Raises:
        UserError: as `load_backbone`.
    """
    config, spec, state = read_backbone(path)
    return restore_encoder(weights_file(path), config, spec, state), spec


def restore_encoder(
    file: Path, config: BackboneConfig, spec: Spec, state: Mapping[str, Tensor]
) -> Encoder:
    """Build the encoder of what `read_backbone` gives, in evaluation mode.

    Raises:
        UserError: its plugin is missing, or the weights do not fit.
    """
    if not is_known(config):
        raise UserError(
            f"{file}: its backbone {config.name!r} belongs to a plugin that is not here; install it, or "
            "give it with --plugin FILE"
        )
    with state_dict_errors(file):
        encoder = build_encoder(config.untrained(), spec, seed=0)
        encoder.exported_network.load_state_dict(state)
    return encoder.eval()


def read_backbone(path: str | Path) -> tuple[BackboneConfig, Spec, dict[str, Tensor]]:
    """Read from `backbone.safetensors` the configuration, the kind of samples and the weights.

    Raises:
        UserError: there is no backbone at `path`, it cannot be read, or the plugin of its modality is
            missing.
    """
    file = weights_file(path)
    with _opened(file) as tensors:
        config, spec = _description(file, tensors.metadata() or {})
        state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    return config, spec, state


def read_spec(path: str | Path) -> Spec:
    """Read from `backbone.safetensors` the kind of samples.

    Raises:
        UserError: as `read_backbone`.
    """
    file = weights_file(path)
    with _opened(file) as tensors:
        return _description(file, tensors.metadata() or {})[1]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a file of weights.

    Raises:
        UserError: it does not exist or cannot be read.
    """
    if not file_exists(file):
        raise UserError(f"{file} does not exist: give a run that has ended, or its backbone.safetensors")
    try:
        with safe_open(file, "pt") as tensors:
            yield tensors
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _description(file: Path, header: Mapping[str, str]) -> tuple[BackboneConfig, Spec]:
    """Return the configuration and the kind of samples that a header describes.

    Raises:
        UserError: it describes none, or the plugin of the modality is missing.
    """
    if "spec" not in header or "backbone" not in header:
        raise UserError(f"{file} is no backbone that ssl-zoo wrote with a description of its samples")
    try:
        spec = spec_of(header)
        config = BackboneConfig.model_validate_json(header["backbone"])
    except ValueError as error:  # pydantic's is one
        raise UserError(
            f"{file} cannot be understood; a newer version may have written it: pip install -U ssl-zoo"
        ) from error
    if spec is None:
        raise UserError(
            f"{file} is for {modality_of(header)} data, whose plugin is not here; install it, or give "
            "it with --plugin FILE"
        )
    return config, spec
