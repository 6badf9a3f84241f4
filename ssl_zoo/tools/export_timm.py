"""Exports of timm's models: for timm itself, for torchvision, and as a folder for Hugging Face's hub."""

from __future__ import annotations

import io
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from ssl_zoo.backbones.create import timm_arguments
from ssl_zoo.backbones.timm_encoder import TimmEncoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable
from ssl_zoo.runs.backbone import write_backbone
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.sizes import longer_side
from ssl_zoo.spec import ImageSpec
from ssl_zoo.tools.exported_code import normalisation, torch_usage, without_sources

MAX_DIFFERENCE = 1e-5
"""The largest difference of a feature, relative to the largest one, at which networks are the same."""


def write_timm(encoder: TimmEncoder, spec: ImageSpec, config: BackboneConfig, to: Path) -> str:
    """Write the weights for timm, and for ssl-zoo, which loads the file as it does a run's."""
    config = without_sources(config).resolve(longer_side(spec.size))  # timm knows no preset of ours
    plain = timm.create_model(config.name, **timm_arguments(config, spec))
    changes = stem_changes(encoder.exported_network, plain)
    header = {
        **normalisation(spec),
        "load": timm_code(config, spec, changes, to.name),
        "timm": metadata.version("timm"),
    }
    write_backbone(to, encoder, config, spec, header)
    return timm_code(config, spec, changes, str(to))


def write_torchvision(encoder: TimmEncoder, spec: ImageSpec, config: BackboneConfig, to: Path) -> str:
    """Write a state dict with torchvision's names, where it has the same network.

    Raises:
        Unsuitable: it has none.
    """
    name = config.resolve().name.partition(".")[0]  # without the tag of timm's weights
    state = encoder.exported_network.state_dict()
    theirs: Any = None
    if name in torchvision.models.list_models(torchvision.models):
        theirs = torchvision.models.get_model(name, weights=None)
        theirs.fc = nn.Identity()
    if theirs is None or not _same_network(encoder, theirs, state, spec):
        raise Unsuitable(
            f"--to {to}: torchvision has no network that is {name} with this stem and these options; "
            "export .safetensors (the stem of resnet18, resnet34 and resnet50 is the same with "
            "backbone.stem=original and images in colour)"
        )
    buffer = io.BytesIO()
    torch.save({key: value.detach().cpu().contiguous() for key, value in state.items()}, buffer)
    write_atomic(to, buffer.getbuffer())
    return "\n".join(
        [
            "import torch",
            "import torchvision",
            "",
            f"model = torchvision.models.{name}()",
            "model.fc = torch.nn.Identity()",
            f"model.load_state_dict(torch.load({str(to)!r}, weights_only=True))",
            "model.eval()",
            *torch_usage(spec),
        ]
    )


@torch.no_grad()
def _same_network(encoder: TimmEncoder, theirs: nn.Module, state: Any, spec: ImageSpec) -> bool:
    """Return whether another network takes a state dict as it is, and then gives the same features."""
    try:
        theirs.load_state_dict(state)
    except RuntimeError:  # other names or shapes
        return False
    x = torch.rand(spec.example().shape, generator=torch.Generator().manual_seed(0))
    ours, others = encoder.eval()(x), theirs.eval()(x)
    scale = float(ours.abs().max())
    return ours.shape == others.shape and float((ours - others).abs().max()) <= MAX_DIFFERENCE * scale


def write_folder(encoder: TimmEncoder, spec: ImageSpec, config: BackboneConfig, to: Path) -> str:
    """Write the folder that timm loads from Hugging Face's hub, or from the disk as ``local-dir:``.

    Its `model.safetensors` is a file of ssl-zoo too.

    Raises:
        Unsuitable: timm cannot build the network without lines of code for the stem.
    """
    config = without_sources(config).resolve(longer_side(spec.size))
    arguments = timm_arguments(config, spec)
    plain: Any = timm.create_model(config.name, **arguments)
    if stem_changes(encoder.exported_network, plain):
        raise Unsuitable(
            f"--to {to}: timm cannot build a small stem from such a folder; train with "
            "backbone.stem=original, or export .safetensors, whose code changes the stem"
        )
    known = plain.pretrained_cfg
    trained = {
        "input_size": [spec.channels, spec.height, spec.width],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": spec.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": 0,
    }
    names = ("first_conv", "classifier", "fixed_input_size")
    kept = {name: known[name] for name in names if name in known}
    del arguments["num_classes"], arguments["in_chans"]  # which timm takes from below
    values = {
        "architecture": config.name.partition(".")[0],
        "num_classes": 0,
        "num_features": encoder.width,
        "model_args": arguments,
        "pretrained_cfg": {**kept, **trained},
    }
    write_backbone(to / "model.safetensors", encoder, config, spec, normalisation(spec))
    write_atomic(to / "config.json", (json.dumps(values, indent=2) + "\n").encode())
    return "\n".join(
        [
            "import timm",
            "import torch",
            "",
            "# of a folder on the hub: hf-hub:OWNER/NAME",
            f"model = timm.create_model({f'local-dir:{to}'!r}, pretrained=True)",
            "model.eval()",
            *torch_usage(spec),
        ]
    )


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
    return "\n".join([*imports, "", create, *load, "model.eval()", *torch_usage(spec)])


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
