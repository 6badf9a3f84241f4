"""Options that the sources share."""

from __future__ import annotations

from ssl_zoo import Field
from ssl_zoo.data import SourceOptions


class SoundOptions(SourceOptions):
    """The options of every source of clips."""

    rate: int = Field(
        16000, ge=4000, le=96000, description="samples per second, to which clips are resampled"
    )
