"""The columns of Parquet files: which has the images, and which the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_zoo.config.errors import SettingError
from ssl_zoo.data.lanes.index import MAX_DIGITS
from ssl_zoo.data.row_groups.options import HubOptions
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

CONTENT = "bytes"
"""The field of an image that is its file."""
PATH = "path"
"""The field of an image that is the path of its file."""


@dataclass(frozen=True)
class Columns:
    """The columns of a data set that are read.

    Attributes:
        image: the column of images.
        content: what is read of it: the field `CONTENT` of a structure, or the column itself.
        label: the column of classes; None for none.
        classes: the names of the classes, where the data set declares them.
    """

    image: str
    content: str
    label: str | None
    classes: tuple[str, ...] | None


def find_columns(schema: Any, features: Any | None, options: HubOptions, labelled: bool) -> Columns:
    """Return the columns of images and of classes.

    Args:
        schema: the Arrow schema of a file.
        features: the kind of each column by name; None for what the file says.
        options: the options of the source.
        labelled: whether classes are wanted.

    Raises:
        SettingError: there is no column that an option names, or that of classes has other values.
        UserError: there is no column of images.
    """
    from datasets import ClassLabel, Features, Image  # type: ignore[import-untyped]

    features = Features.from_arrow_schema(schema) if features is None else features
    listed = ", ".join(f"{printable(field.name)}: {_kind(field.type)}" for field in schema)
    for option in ("image", "label"):
        name = getattr(options, option)
        if name not in schema.names and name != HubOptions.model_fields[option].default:
            raise SettingError(
                f"data.options.{option}", f"there is no column {name!r} (there are {listed}); name one"
            )
    declared = [name for name in schema.names if isinstance(features.get(name), Image)]
    likely = [field.name for field in schema if _content(field) == f"{field.name}.{CONTENT}"]
    binary = [field.name for field in schema if _content(field) == field.name]
    only = binary if len(binary) == 1 else []
    image = options.image or next(iter(declared + likely + only), "")
    content = _content(schema.field(image)) if image else ""
    if not content:
        problem = f"the column {printable(image)} has no images" if image else "has no column of images"
        raise UserError(
            f"data.source: {problem} (there are {listed}); data.options.image names the column whose "
            f"values are files, or have them in a field {CONTENT}"
        )
    label = options.label if labelled and options.label in schema.names else None
    if label and not _has_classes(schema.field(label).type):
        raise SettingError(
            "data.options.label",
            f"the column {label!r} is {_kind(schema.field(label).type)}, not numbers or names of "
            "classes; name another one, or set data.labels=none",
        )
    feature = features.get(label) if label else None
    classes = tuple(map(str, feature.names)) if isinstance(feature, ClassLabel) else None
    return Columns(image, content, label, classes)


def _content(field: Any) -> str:
    """Return the path of the column in which the files of images are, "" if there is none."""
    from pyarrow import types  # type: ignore[import-untyped]

    def binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    if binary(field.type):
        return str(field.name)
    if types.is_struct(field.type):
        inner = field.type.get_field_index(CONTENT)
        if inner >= 0 and binary(field.type.field(inner).type):
            return f"{field.name}.{CONTENT}"
    return ""


def _has_classes(kind: Any) -> bool:
    """Return whether values of a type are numbers or names of classes."""
    from pyarrow import types

    tests = (types.is_integer, types.is_boolean)
    return _has_names(kind) or any(test(_values(kind)) for test in tests)


def _has_names(kind: Any) -> bool:
    """Return whether values of a type are texts."""
    from pyarrow import types

    return bool(types.is_string(_values(kind)) or types.is_large_string(_values(kind)))


def _values(kind: Any) -> Any:
    """Return the type of values, also where they are stored as numbers in a dictionary."""
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _kind(kind: Any) -> str:
    return str(kind).partition("<")[0]


def find_classes(
    files: Mapping[str, Any], columns: Columns
) -> tuple[NDArray[np.int64], tuple[str, ...] | None] | None:
    """Return the class of each sample, int64 [N], -1 for none, and the names; None if none has one.

    Args:
        files: the column of classes of each file by its URL, in order, as Arrow's chunked arrays.
        columns: the columns.

    Raises:
        SettingError: a number is too large for one of a class, or a file has values of another kind.
    """
    import pyarrow as pa
    from pyarrow import compute

    first, names = next(iter(files.values())).type, columns.classes
    kind = pa.large_string() if _has_names(first) else pa.int64()
    alike = [_converted(values, kind, columns, url) for url, values in files.items()]
    column = pa.chunked_array([chunk for values in alike for chunk in values.chunks], kind)
    if _has_names(kind):
        known = sorted(value for value in compute.unique(column).to_pylist() if value)
        labels = compute.index_in(column, pa.array(known, kind)).to_numpy()
        labels, names = np.nan_to_num(labels, nan=-1).astype(np.int64), tuple(known)
    else:
        labels = np.maximum(compute.fill_null(column, -1).to_numpy(), -1)
    largest = int(labels.max(initial=-1))
    if largest >= 10**MAX_DIGITS:
        raise _no_classes(columns, f"has the number {largest}, which is no class")
    return None if largest < 0 else (labels, names)


def _converted(values: Any, kind: Any, columns: Columns, url: str) -> Any:
    """Return the column of classes of a file with the type of all files.

    Raises:
        SettingError: it cannot be converted.
    """
    import pyarrow as pa

    own = values.type
    if not pa.types.is_null(own) and (not _has_classes(own) or _has_names(own) != _has_names(kind)):
        other = "names" if _has_names(kind) else "numbers"
        problem = f"is {_kind(own)} in {printable(url)}, and {other} of classes in the first file"
        raise _no_classes(columns, problem)
    try:
        return values.cast(_values(own)).cast(kind)
    except pa.ArrowInvalid as error:
        raise _no_classes(columns, f"has a number in {printable(url)} which is no class") from error


def _no_classes(columns: Columns, problem: str) -> SettingError:
    return SettingError(
        "data.options.label",
        f"the column {columns.label!r} {problem}; name another one, or set data.labels=none",
    )
