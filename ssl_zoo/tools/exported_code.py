"""The Python that exports contain, with which others read files as the run did."""

from __future__ import annotations

import inspect
import json
import re

from ssl_zoo import preprocess, sizes
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.pixel_files import arrays, dicom, opening, page, tiff
from ssl_zoo.spec import ImageSpec


def normalisation(spec: ImageSpec) -> dict[str, str]:
    """Return how images are resized and normalised, for the header of a file."""
    names = ["mean", "std", "size", "channels", *(["range"] if spec.range is not None else [])]
    names += ["widen"] if spec.widen else []
    names += ["interpolation"]
    return {"normalise": json.dumps({name: getattr(spec, name) for name in names})}


def preprocessing_source() -> str:
    """Return the source of `preprocess` and of the modules that it takes from, as one module."""
    sources = [
        inspect.getsource(module).partition("from __future__ import annotations\n")[2]
        for module in (page, arrays, tiff, dicom, opening, sizes, preprocess)
    ]
    return "\n\n\n".join(re.sub(r"(?m)^from ssl_zoo.*\n", "", source).strip() for source in sources)


def usage(call: str, convert: str, spec: ImageSpec) -> list[str]:
    """Return the code of ``preprocess``, with comments on how to call the network.

    Args:
        call: computes the features of ``files``.
        convert: what ``preprocess`` does with its array, a format string.
        spec: the description of the images.
    """
    shape = f"[1, {spec.channels}, {spec.height}, {spec.width}]"
    arguments = f"{spec.size}, {spec.channels}, {list(spec.mean)}, {list(spec.std)}"
    arguments += "" if spec.range is None else f", limits={spec.range}"
    arguments += "" if spec.pages == "first" else f", pages={spec.pages!r}"
    arguments += ", widen=True" if spec.widen else ""
    arguments += "" if spec.interpolation == "bilinear" else f", interpolation={spec.interpolation!r}"
    return [
        "",
        f"# features = {call}  # [B, D]",
        "#",
        f"# preprocess(file) returns an image file as float32 {shape}: intensities in [0, 1],",
        f"# resized by {spec.interpolation} interpolation, and normalised by the mean and deviation",
        "# with which the network was trained.",
        "",
        preprocessing_source(),
        "",
        "",
        "def preprocess(file):",
        f'    """Return an image file as the input of the network, float32 {shape}."""',
        f"    return {convert.format(f'image_input(file, {arguments})')}",
    ]


def torch_usage(spec: ImageSpec) -> list[str]:
    """Return the code of ``preprocess`` for a network of torch's."""
    call = "model(torch.cat([preprocess(file) for file in files]))"
    return usage(call, "torch.from_numpy({})", spec)


def without_sources(config: BackboneConfig) -> BackboneConfig:
    """Return the configuration without the source of the initial weights, which may be a local file."""
    sources = ("file", "hf_hub_filename", "hf_hub_id", "source", "url")
    options = {name: value for name, value in config.options.items() if name != "cache_dir"}
    overlay = options.pop("pretrained_cfg_overlay", None) or {}
    if overlay := {name: value for name, value in overlay.items() if name not in sources}:
        options["pretrained_cfg_overlay"] = overlay
    return config.model_copy(update={"options": options, "pretrained": False})
