"""A source under test: how it is opened, and which of its samples are looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, Source, Split, Stream, load
from ssl_zoo.data.source import choose_source, modality_of
from ssl_zoo.data.sources import known_sources
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.testing.check import CheckSkipped, require
from ssl_zoo.tree import Tree

SourceFunction = Callable[[DataConfig, torch.device], DataSet]


@dataclass(frozen=True)
class SourceCase:
    """A test case: a source, and the configuration that it is opened with.

    Attributes:
        config: the ``data`` section.
        further: sources by name, beside those that plugins register.
    """

    config: DataConfig
    further: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        source: str | Source | SourceFunction,
        config: DataConfig | Mapping[str, Any] | None = None,
    ) -> SourceCase:
        """Return the case of a source.

        Args:
            source: what ``data.source`` may be, such as ``NAME`` or ``NAME:REST``; or a `Source`, or a
                function that a plugin registers as one.
            config: the ``data`` section, None for its defaults, but that samples are not loaded into
                memory in advance. Its ``source`` is what a source that is not given by name finds
                there, such as ``NAME:REST``.
        """
        if isinstance(config, DataConfig):
            config = config.model_dump(exclude_unset=True)
        values = {"resident": "never", **(config or {})}
        if isinstance(source, str):
            return cls(DataConfig.model_validate({**values, "source": source}))
        values.setdefault("source", getattr(source, "__name__", "source"))
        config = DataConfig.model_validate(values)
        return cls(config, {config.sources[0].partition(":")[0]: Source.of(source)})

    @property
    def sources(self) -> dict[str, Source]:
        """All sources by name."""
        return known_sources({**registry.collect("ssl_zoo_register_sources"), **self.further})

    @property
    def modality(self) -> str:
        """The kind of data that the source says it has."""
        return modality_of(self.config.source, self.sources)

    def choose(self) -> Source:
        """Return the source, with valid options.

        Raises:
            UserError: there is no such source, or an option is wrong.
        """
        source = choose_source(self.config.sources[0], self.sources, self.modality)
        if source is None:
            self.open()  # which says what there is
            raise AssertionError("a source was opened that there is not")
        source.options(self.config)
        return source

    def open(self) -> DataSet:
        """Open the data.

        Raises:
            UserError: there is no such source, an option is wrong, or the data cannot be read.
            CheckFailed: what it returns is no data set.
        """
        data = load(self.config, torch.device("cpu"), self.sources, self.modality)
        kind = type(data).__name__
        require(isinstance(data, DataSet), f"a source must return a DataSet, not {kind}")
        for name, split in splits_of(data).items():
            kind = type(split).__name__
            require(isinstance(split, Split), f"the {name} split must be a Split, not {kind}")
            require(len(split) > 0, f"the {name} split has no sample; let `test` be None without any")
        return data

    @cached_property
    def opened(self) -> DataSet:
        """The data, opened once; raises as `open` does."""
        return self.open()

    @property
    def data(self) -> DataSet:
        """The data.

        Raises:
            CheckSkipped: they cannot be opened, which `check_can_be_opened` reports.
        """
        try:
            return self.opened
        except PLUGIN_ERRORS as error:
            raise CheckSkipped("not run: the source cannot be opened") from error

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, each once."""
        return splits_of(self.data)

    def streams(self) -> dict[str, Stream]:
        """Return the splits without random access.

        Raises:
            CheckSkipped: there are none.
        """
        streams = {name: split for name, split in self.splits.items() if isinstance(split, Stream)}
        if not streams:
            raise CheckSkipped("its samples are read by index, not as a stream")
        return streams

    def batch(self, n: int) -> Tree:
        """Return a raw batch [n, ...] of the train split."""
        return self.data.train.batch(some(self.data.train, n))

    def prepared(self, n: int) -> Tree:
        """Return a prepared batch [n, ...] of the train split."""
        return self.data.spec.prepare(self.batch(n))


def splits_of(data: DataSet) -> dict[str, Split]:
    """Return the splits of a data set by name, each once."""
    splits = {"train": data.train, "test": data.test, "bank": data.bank}
    if data.bank is data.train:
        del splits["bank"]
    return {name: split for name, split in splits.items() if split is not None}


def some(split: Split, n: int) -> Tensor:
    """Return n indices in a fixed random order, as different as there are samples, int64."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    return order.repeat(-(-n // len(split)))[:n]
