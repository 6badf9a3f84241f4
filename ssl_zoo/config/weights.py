"""The network that a file of weights belongs to, read from its header without loading torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.plugins.specs import modality_of, spec_of
from ssl_zoo.sizes import Size, longer_side
from ssl_zoo.text import error_reason, printable

BACKBONE_FILE = "backbone.safetensors"
"""The name of the trained backbone in a run directory."""

TIMM = "timm:"
"""Precedes the name of a timm model where runs and files of weights may be named too."""

NETWORK = ("name", "stem", "stem_stride", "stem_size", "options")
"""The settings that determine the network, without the source of its weights."""


def weights_file(path: str | Path) -> Path:
    """Return `path` if it is not a folder, else the backbone in this run directory."""
    file = Path(path).expanduser()
    try:
        return file / BACKBONE_FILE if file.is_dir() else file
    except OSError:  # in a folder without read permission, which opening the file reports
        return file


def weights_name(path: str | Path) -> str:
    """Return the name of the run whose weights these are, or of another file of weights."""
    file = weights_file(path).absolute()
    return printable(file.parent.name if file.name == BACKBONE_FILE else file.stem)


def weights_are_gone(path: str) -> bool:
    """Return whether there is no file of weights; False where that is unknown."""
    try:
        return not weights_file(path).exists()
    except OSError:
        return False


def read_header(path: str | Path, origin: str = "") -> dict[str, str]:
    """Return the header of the weights of a run or in a file; empty for another tool's formats.

    Args:
        path: a run directory, or a file of weights.
        origin: where the path comes from, for messages.

    Raises:
        SettingError: there is no such file, or it cannot be read.
    """
    file = weights_file(user_path("backbone.weights", str(path), origin))
    try:
        if not file.is_file():
            reason = f"{file} does not exist"
            if file.name == BACKBONE_FILE:
                reason += "; give a run that has ended, its backbone.safetensors, or another file"
            raise SettingError("backbone.weights", reason, origin)
        if file.suffix != ".safetensors":
            return {}
        with safe_open(file, "np") as opened:
            return opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        reason = f"{str(file)[:200]} cannot be read: {error_reason(error)}"
        raise SettingError("backbone.weights", reason, origin) from error


def network_settings(
    path: str | Path, origin: str = "", modality: str | None = None
) -> dict[str, dict[str, Any]] | None:
    """Return the settings of the network whose weights a file of ssl-zoo holds, by section.

    They are those of the section backbone, with the `Spec.network_settings` of its samples, and of the
    section data their `Spec.start_settings`, if their plugin is here. A stem that was chosen by the size
    of images is described by it (``stem_size``), so that it stays as it was for images of another size.

    Args:
        path: a run directory, or a file of weights.
        origin: where the path comes from, for messages.
        modality: the kind of data that is wanted; those of other samples have no settings then.

    Returns:
        The settings; None if another tool wrote the file.

    Raises:
        SettingError: there is no such file, or it cannot be read.
    """
    header = read_header(path, origin)
    if "backbone" not in header:
        return None
    try:
        config = BackboneConfig.model_validate_json(header["backbone"])
        trained_on = spec_of(header)
    except ValueError as error:  # pydantic's is one
        reason = f"{weights_file(path)} cannot be understood; a newer version may have written it"
        raise SettingError("backbone.weights", f"{reason}: pip install -U ssl-zoo", origin) from error
    data = {} if trained_on is None else trained_on.start_settings(str(path))
    fed = {} if trained_on is None else trained_on.network_settings()
    if config.stem == "auto" and config.stem_size is None:
        size = data.get("image_size")
        config = config.model_copy(update={"stem_size": None if size is None else longer_side(size)})
    return {
        "backbone": {name: getattr(config, name) for name in NETWORK} | fed,
        "data": data if modality in (None, modality_of(header)) else {},
    }


def check_network(
    given: BackboneConfig,
    image_size: Size | None,
    settings: Mapping[str, Any],
    origins: Mapping[tuple[str, str], str],
) -> None:
    """Check that a network is the one that its weights belong to; further options are allowed.

    Args:
        given: the network.
        image_size: the size of its images; None if unknown.
        settings: the section backbone of `network_settings`.
        origins: where the settings of the network come from, by section and field.

    Raises:
        SettingError: a setting differs.
    """
    theirs = BackboneConfig(**settings).resolve()
    own, named = given.resolve(), BackboneConfig(name=given.name).resolve()
    options = {key: own.options.get(key) for key in theirs.options}
    same = own.name == theirs.name and options == theirs.options
    alias = same and all(theirs.options.get(key) == value for key, value in named.options.items())
    pairs = {
        "name": (given.name, given.name if alias else settings["name"]),
        "options": (options, theirs.options),
        "stem": (_stem(given, image_size), _stem(theirs, image_size)),
        "stem_stride": (given.stem_stride, theirs.stem_stride),
    }
    for name, (value, expected) in pairs.items():
        if value != expected:
            raise SettingError(
                f"backbone.{name}",
                f"{value} is not the network of {given.weights}, which has {expected}; leave it out",
                origins.get(("backbone", name), ""),
            )


def _stem(config: BackboneConfig, image_size: Size | None) -> str:
    """Return the stem that a network has for images of a size; auto where this is unknown."""
    size = image_size if config.stem_size is None else config.stem_size
    if config.stem != "auto" or size is None:
        return config.stem
    return "small" if config.small(longer_side(size)) else "original"
