"""The network that a file of weights belongs to, read from its header without loading torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.presets import SMALL_IMAGE
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.text import error_reason

BACKBONE_FILE = "backbone.safetensors"
"""The name of the trained backbone in a run directory."""

NETWORK = ("name", "stem", "stem_stride", "stem_size", "options")
"""The settings that determine the network, without the source of its weights."""


def weights_file(path: str | Path) -> Path:
    """Return `path` if it is not a folder, else the backbone in this run directory."""
    file = Path(path).expanduser()
    try:
        return file / BACKBONE_FILE if file.is_dir() else file
    except OSError:  # in a folder without read permission, which opening the file reports
        return file


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


def network_settings(path: str | Path, origin: str = "") -> dict[str, Any] | None:
    """Return the backbone settings of the network whose weights a file of ssl-zoo holds.

    A stem that was chosen by the size of the images is described by that size (``stem_size``), so that
    it stays as it was for images of another size.

    Args:
        path: a run directory, or a file of weights.
        origin: where the path comes from, for messages.

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
        if config.stem == "auto" and config.stem_size is None and "spec" in header:
            config = config.model_copy(update={"stem_size": int(json.loads(header["spec"])["size"])})
    except (ValueError, LookupError, TypeError) as error:  # pydantic's is a ValueError
        reason = f"{weights_file(path)} cannot be understood; a newer version may have written it"
        raise SettingError("backbone.weights", f"{reason}: pip install -U ssl-zoo", origin) from error
    return {name: getattr(config, name) for name in NETWORK}


def check_network(
    given: BackboneConfig, settings: Mapping[str, Any], origins: Mapping[tuple[str, str], str]
) -> None:
    """Check that a network is the one that its weights belong to; further options are allowed.

    Args:
        given: the network.
        settings: the result of `network_settings`.
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
        "stem": (_stem(given), _stem(theirs)),
        "stem_stride": (given.stem_stride, theirs.stem_stride),
    }
    for name, (value, expected) in pairs.items():
        if value != expected:
            raise SettingError(
                f"backbone.{name}",
                f"{value} is not the network of {given.weights}, which has {expected}; leave it out",
                origins.get(("backbone", name), ""),
            )


def _stem(config: BackboneConfig) -> str:
    if config.stem != "auto" or config.stem_size is None:
        return config.stem
    return "small" if config.stem_size <= SMALL_IMAGE else "original"
