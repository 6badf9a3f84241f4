"""The options of shards."""

from __future__ import annotations

from pydantic import Field

from ssl_zoo.data.source import SourceOptions


class ShardOptions(SourceOptions):
    """The options of shards: which members are what, and how samples are shuffled."""

    image: str = Field(
        "", description="extension of the image, such as jpg or input.png; none: the first image"
    )
    label: str = Field("label", description="name of the class in a .json member, if there is no .cls")
    split: str = Field("split", description="name of the split in a .json member")
    shuffle: int = Field(
        4096, ge=1, description="samples that are shuffled with each other in each lane of a pass"
    )
    keep_gb: float | None = Field(
        None, gt=0, description="gigabytes of fetched shards kept on the disk; none: all of them"
    )
