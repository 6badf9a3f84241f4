"""The description of a data source, and the choice of one by what the user names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from ssl_zoo.config.errors import SettingError, first_error
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable


class SourceOptions(BaseModel):
    """A source's options with defaults and ranges, ``data.options`` in a config; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def takes_nothing(name: str) -> bool:
    """Return false: the source is selected by its own name alone."""
    return False


@dataclass(frozen=True)
class Source:
    """A data source, registered by the hook `ssl_zoo_register_sources` under its name.

    ``data.source`` selects it as ``NAME`` or ``NAME:REST``; and by anything that it `takes`, where the
    task is of its modality, even the name of a source of another modality: ``hf:NAME`` is a data set of
    images to a task on images, and one of texts to a task on text.

    Attributes:
        open: maps the ``data`` section, the training device and the validated options to the data.
            ``config.source`` is all that the user wrote, a list only if it takes `several`, and
            ``ssl_zoo.data.rest_of(config)`` what follows the name.
        modality: the kind of data.
        Options: the model of its options.
        takes: whether it opens what the user names, such as a file or a folder of texts.
        several: whether it opens several things at once, ``config.sources``; each of them it `takes`.
    """

    open: Callable[[DataConfig, torch.device, Any], DataSet]
    modality: str = "image"
    Options: type[SourceOptions] = SourceOptions
    takes: Callable[[str], bool] = takes_nothing
    several: bool = False

    @classmethod
    def of(
        cls,
        value: Source | Callable[[DataConfig, torch.device], DataSet],
        takes: Callable[[str], bool] = takes_nothing,
        modality: str = "image",
    ) -> Source:
        """Return a source; a plain function of the section and the device is one without options."""
        if isinstance(value, Source):
            return value
        return cls(lambda config, device, options: value(config, device), modality, takes=takes)

    def __call__(self, config: DataConfig, device: torch.device) -> DataSet:
        """Open the data.

        Raises:
            UserError: an option is wrong, or the data cannot be read.
        """
        return self.open(config, device, self.options(config))

    def options(self, config: DataConfig) -> SourceOptions:
        """Return the validated options.

        Raises:
            SettingError: one of them is unknown, or has a wrong value.
        """
        known = list(self.Options.model_fields)
        if config.options and not known:
            raise SettingError(
                "data.options", f"{printable(config.source_text)} has no options; leave them out"
            )
        try:
            return self.Options.model_validate(config.options)
        except ValidationError as error:
            path, reason = first_error(error, config.options, known)
            raise SettingError(f"data.options.{path}".rstrip("."), reason) from error


def rest_of(config: DataConfig) -> str:
    """Return what follows the name of a source, such as ``FILE`` of ``tar:FILE``; "" if nothing does."""
    return config.sources[0].partition(":")[2]


def _named_source(name: str, sources: Mapping[str, Source]) -> Source | None:
    """Return the source that a user's text names as ``NAME`` or ``NAME:REST``, None if there is none."""
    return sources.get(name) or sources.get(name.partition(":")[0])


def modality_of(source: str | Sequence[str], sources: Mapping[str, Source]) -> str:
    """Return the kind of data that ``data.source`` names, as its source declares it, without opening it.

    Several sources may take one file or folder, and images are then what is meant, as where none does.
    """
    name = source if isinstance(source, str) else source[0]
    if (named := _named_source(name, sources)) is not None:
        return named.modality
    takers = [source.modality for source in sources.values() if source.takes(name)]
    default = Source.modality
    return takers[0] if takers and default not in takers else default


def choose_source(name: str, sources: Mapping[str, Source], modality: str) -> Source | None:
    """Return the source that a user's text names, None if there is none.

    One of another modality is returned if none of the wanted modality takes the text.

    Args:
        name: ``data.source``: the name of a source, ``NAME:REST``, or what a source takes.
        sources: the sources by name.
        modality: the kind of data that is wanted.

    Raises:
        UserError: several sources take it.
    """
    named = _named_source(name, sources)
    if named is not None and named.modality == modality:
        return named
    takers = [key for key, s in sources.items() if s.modality == modality and s.takes(name)]
    if len(takers) > 1:
        raise UserError(
            f"data.source: {printable(name)} could be opened by {' and by '.join(takers)}; "
            f"write {takers[0]}:{printable(name)}"
        )
    return sources[takers[0]] if takers else named
