"""The configuration: its schema, and how it is read, merged and written."""

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import (
    BackboneConfig,
    DataConfig,
    EncoderConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
)

__all__ = [
    "BackboneConfig",
    "DataConfig",
    "EncoderConfig",
    "RunConfig",
    "SettingError",
    "TaskConfig",
    "TrainConfig",
]
