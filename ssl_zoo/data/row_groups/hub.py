"""The files of a data set, as Hugging Face's library finds them without downloading any."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.row_groups.options import HubOptions
from ssl_zoo.data.source import rest_of
from ssl_zoo.data.timm_sets import TEST_SPLITS, check_datasets
from ssl_zoo.errors import UserError
from ssl_zoo.text import error_reason, printable

CONVERTED = "refs/convert/parquet"
"""The branch in which the hub keeps copies in Parquet, with a folder for each subset and split."""
PARTIAL = "partial-"
"""The start of the name of a folder for a split there of which the copy has the first part alone."""


@dataclass(frozen=True)
class DataFiles:
    """The Parquet files of the splits that are used.

    Attributes:
        urls: the path or URL of each; that of the hub names a commit.
        splits: the name of its split, ``"train"`` or ``"test"``.
        states: a text that changes if its content does.
        features: the kind of each column by name, where the data set says it apart from its files.
    """

    urls: tuple[str, ...]
    splits: tuple[str, ...]
    states: tuple[str, ...]
    features: Any | None

    @property
    def names(self) -> list[str]:
        """The path or URL of each; that of the hub without a commit."""
        return [re.sub("^(hf://[^@]+)@[^/]+", r"\1", url) for url in self.urls]


def find_files(config: DataConfig, options: HubOptions, cache: Path) -> DataFiles:
    """Return the files of the split to train on, and of one to evaluate on if there is any.

    Args:
        config: the ``data`` section.
        options: the options of the source.
        cache: the folder for small files about the data set.

    Raises:
        UserError: the library is missing, the data set cannot be found, it is not in Parquet, or has no
            split to train on; or it is a copy that the hub has made, and is not whole, or has several
            subsets of which none is chosen.
    """
    source = printable(config.source_text)
    check_datasets(config.sources[0])
    from datasets import load_dataset_builder  # type: ignore[import-untyped]

    name, copied = rest_of(config), options.revision == CONVERTED
    subset = {"data_dir": options.subset} if copied else {"name": options.subset}
    try:
        builder = load_dataset_builder(name, **subset, revision=options.revision, cache_dir=str(cache))
    except Exception as error:  # it raises errors of many libraries
        hint = "; data.options.subset names one" if "onfig name is missing" in str(error) else ""
        raise UserError(f"data.source: {source} cannot be found: {error_reason(error)}{hint}") from error
    found = {str(split): files for split, files in (builder.config.data_files or {}).items()}
    kinds = Counter(Path(url).suffix or "unknown" for files in found.values() for url in files)
    if set(kinds) != {".parquet"}:
        kind = printable(" and ".join(kind for kind, _ in kinds.most_common(2))) or "no"
        hint = "" if Path(name).expanduser().exists() else (
            f", or set data.options.revision={CONVERTED}, where the hub may have a copy in Parquet"
        )  # fmt: skip
        raise UserError(
            f"data.source: {source} has {kind} files, and data.options.stream reads Parquet alone; "
            f"leave it out{hint}"
        )
    if copied:
        _check_copy(source, [str(url) for files in found.values() for url in files])
    if "train" not in found:
        raise UserError(
            f"data.source: {source} has no split named train; it has {printable(', '.join(found))}"
        )
    test = next((split for split in TEST_SPLITS if split in found), None)
    used = {"train": found["train"], **({} if test is None else {"test": found[test]})}
    urls = tuple(str(url) for files in used.values() for url in files)
    states = [str(state) for files in used.values() for state in files.origin_metadata]
    blobs = _blobs(urls) if urls[0].startswith("hf://") else {}
    return DataFiles(
        urls=urls,
        splits=tuple(split for split, files in used.items() for _ in files),
        states=tuple(blobs.get(url, state) for url, state in zip(urls, states, strict=True)),
        features=builder.info.features,
    )


def _blobs(urls: Sequence[str]) -> dict[str, str]:
    """Return the hash of the content of each file of the hub, which several commits may share.

    Raises:
        UserError: the folders of the files cannot be listed.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    folders = {url.rpartition("/")[0] for url in urls}
    try:
        system, _ = url_to_fs(urls[0])  # whose listings reading uses too
        listed = [entry for folder in sorted(folders) for entry in system.ls(folder, detail=True)]
    except Exception as error:  # it raises errors of many libraries
        raise UserError(
            f"data.source: {printable(urls[0])} and the others cannot be listed: {error_reason(error)}"
        ) from error
    return {f"hf://{entry['name']}": entry["blob_id"] for entry in listed if entry.get("blob_id")}


def _check_copy(source: str, urls: Sequence[str]) -> None:
    """Raise if files of `CONVERTED` are not all of one subset.

    Args:
        source: the name of the data set.
        urls: the files, ``hf://datasets/OWNER/NAME@COMMIT/SUBSET/SPLIT/FILE``.

    Raises:
        UserError: they are the first part of a split alone, or those of several subsets.
    """
    folders = [url.partition("@")[2].split("/")[1:-1] for url in urls]
    subsets = sorted({folder[0] for folder in folders if folder})
    if len(subsets) > 1:
        raise UserError(
            f"data.source: {source} has several subsets ({printable(', '.join(subsets))}); "
            "data.options.subset names one"
        )
    partial = next((part for folder in folders for part in folder if part.startswith(PARTIAL)), None)
    if partial is not None:
        raise UserError(
            f"data.source: the copy of {source} in Parquet on the hub has only the first part of a "
            f"split ({printable(partial)}); leave data.options.revision and data.options.stream out"
        )
