"""The options of data sets of the Hugging Face hub."""

from __future__ import annotations

from pydantic import Field

from ssl_zoo.data.source import SourceOptions


class HubOptions(SourceOptions):
    """The options of ``hf:NAME``: which columns are what, and whether it is downloaded or streamed."""

    stream: bool = Field(
        False,
        description="fetch parts of the Parquet files when a pass comes to them; false: download the "
        "data set first",
    )
    image: str = Field(
        "",
        description="name of the column of images; none: the first of images, or the only binary one",
    )
    label: str = Field("label", description="name of the column of classes, which may be missing")
    subset: str | None = Field(None, description="name of a subset (configuration); only with stream")
    revision: str | None = Field(
        None, description="branch, tag or commit of the data set; only with stream"
    )
    shuffle: int = Field(
        256,
        ge=1,
        description="samples that are shuffled with each other in each lane of a pass, rounded to whole "
        "row groups; only with stream",
    )
    memory_gb: float = Field(
        4.0,
        gt=0,
        description="gigabytes of row groups that all processes together hold while they train, without "
        "batches being decoded and the samples of evaluation; it limits the number of lanes, of which "
        "each process has one at least, and is no hard limit; only with stream",
    )
