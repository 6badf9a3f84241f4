"""The trained backbone of a run: writing and reading its file, and building the network."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from os import PathLike
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import weights_file
from ssl_zoo.data.preprocess import image_input
from ssl_zoo.errors import UserError
from ssl_zoo.runs.checkpoints import state_dict_errors
from ssl_zoo.runs.records import file_exists
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder


def write_backbone(file: Path, encoder: Encoder, config: BackboneConfig, spec: Spec) -> None:
    """Save the weights of a backbone, with all that `load_backbone` needs to build it again.

    Raises:
        Unwritable: the file cannot be written.
    """
    weights = encoder.model if isinstance(encoder, TimmEncoder) else encoder
    state = {k: v.detach().cpu().contiguous() for k, v in weights.state_dict().items()}
    # The source of the first weights is of no use in another place, and older versions do not know it.
    unset = {"stem_size"} if config.stem_size is None else set()
    settings = config.model_dump_json(exclude={"weights", "weights_prefix", "strict", *unset})
    header = {"backbone": settings, "modality": spec.modality}
    if isinstance(spec, ImageSpec):
        header["spec"] = json.dumps(asdict(spec))
    write_atomic(file, safetensors_bytes(state, header))


@torch_defaults()
def load_backbone(path: str | Path) -> nn.Module:
    """Load the trained backbone of a run: a timm model in evaluation mode.

    Args:
        path: a run directory, or its `backbone.safetensors`.

    Returns:
        The timm model: `model(x)` returns pooled features [B, D], `model.forward_features(x)` the map.
        `model.ssl_zoo_preprocess(file)` returns an image file, or a decoded `PIL.Image.Image`, as its
        input, float32 [1, C, size, size], with which the features are those of the run's evaluation.
        `model.ssl_zoo_spec.prepare(images)` does so for decoded images, uint8 [B, C, h, w]
        (`ssl_zoo.spec.ImageSpec`).

    Raises:
        UserError: there is no backbone at `path`, it cannot be read, or it is not for images.
    """
    config, spec, state = read_backbone(path)
    with state_dict_errors(weights_file(path)):
        encoder = create_backbone(config.untrained(), spec)
        model: Any = encoder.model
        model.load_state_dict(state)
    model.ssl_zoo_spec = spec
    model.ssl_zoo_preprocess = partial(_preprocess, spec=spec)
    evaluated: nn.Module = model.eval()
    return evaluated


def _preprocess(source: str | PathLike[str] | IO[bytes] | Image.Image, *, spec: ImageSpec) -> Tensor:
    """Return an image file, or a decoded image, as the input [1, C, size, size] of a network."""
    return torch.from_numpy(image_input(source, spec.size, spec.channels, spec.mean, spec.std))


def read_backbone(path: str | Path) -> tuple[BackboneConfig, ImageSpec, dict[str, Tensor]]:
    """Read from `backbone.safetensors` the configuration, the image format and the weights.

    Raises:
        UserError: there is no backbone at `path`, it cannot be read, or it is not for images.
    """
    file = weights_file(path)
    if not file_exists(file):
        raise UserError(f"{file} does not exist: give a run that has ended, or its backbone.safetensors")
    try:
        with safe_open(file, "pt") as tensors:
            header = tensors.metadata() or {}
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if "spec" not in header or "backbone" not in header:
        raise UserError(f"{file} is not an image backbone of ssl-zoo; load its weights yourself")
    try:
        spec = TypeAdapter(ImageSpec).validate_json(header["spec"])
        if unknown := json.loads(header["spec"]).keys() - asdict(spec):
            raise ValueError(f"spec has {sorted(unknown)}")
        config = BackboneConfig.model_validate_json(header["backbone"])
    except ValueError as error:  # pydantic's is one
        raise UserError(
            f"{file} cannot be understood; a newer version may have written it: pip install -U ssl-zoo"
        ) from error
    return config, spec, state
