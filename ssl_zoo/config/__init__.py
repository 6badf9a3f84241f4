"""The configuration: the schema, and reading, merging and writing it."""

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
