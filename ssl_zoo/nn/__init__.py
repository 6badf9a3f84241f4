"""Building blocks that many methods share: heads, schedules, teachers, feature queues."""

from ssl_zoo.nn.encoding import by_size, output_shape, undecayed_names
from ssl_zoo.nn.heads import mlp
from ssl_zoo.nn.parts import full_precision, sum_over_rows
from ssl_zoo.nn.queues import FeatureQueue
from ssl_zoo.nn.teacher import ema_update, frozen_copy, schedule, stop_dropout, unsaved

__all__ = [
    "MAX_SCORES",
    "FeatureQueue",
    "by_size",
    "ema_update",
    "frozen_copy",
    "full_precision",
    "mlp",
    "output_shape",
    "schedule",
    "stop_dropout",
    "sum_over_rows",
    "undecayed_names",
    "unsaved",
]

MAX_SCORES = 2**24
"""A loss over a larger matrix of scores (64 MiB in float32) is computed in parts."""
