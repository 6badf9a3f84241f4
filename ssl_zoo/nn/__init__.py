"""Building blocks that many methods share, each with its formula and source; none needs the trainer.

- encoding: how a task calls its encoder: crops of several sizes, heads at each place, shapes of outputs
- heads: projectors and predictors
- teacher: schedules, momentum teachers, frozen and pretrained networks
- shuffled: batch statistics that do not tell which key belongs to a query
- queues: a queue of the latest features, a bank with one for each sample, a first batch's mean
- deferred: the base of buffers that are updated after a step
- checkpointing: activations that are recomputed in the backward pass
- contrast: InfoNCE in its forms
- prototypes: prototypes, balanced assignments, centring, cross entropy across crops
- clusters: spherical k-means
- moments: covariance, whitening, principal components, and regularisers of a distribution
- parts: float32, unit and normalised vectors, their products, large matrices of scores in parts
"""

from ssl_zoo.nn.checkpointing import enable_gradient_checkpointing
from ssl_zoo.nn.clusters import kmeans
from ssl_zoo.nn.contrast import contrastive_loss, info_nce, nt_xent, sup_con
from ssl_zoo.nn.deferred import DeferredUpdate
from ssl_zoo.nn.encoding import at_places, by_size, output_shape, places_of, undecayed_names
from ssl_zoo.nn.heads import mlp
from ssl_zoo.nn.moments import (
    covariance,
    cross_correlation,
    koleo,
    off_diagonal,
    principal_components,
    sigreg,
    whiten,
)
from ssl_zoo.nn.parts import (
    byol_loss,
    full_precision,
    layer_normalised,
    product,
    spread,
    sum_over_rows,
    unit,
)
from ssl_zoo.nn.prototypes import Centre, Prototypes, across, sinkhorn, soft_cross_entropy
from ssl_zoo.nn.queues import FeatureQueue, FirstMean, MemoryBank
from ssl_zoo.nn.shuffled import shuffled_groups
from ssl_zoo.nn.teacher import Teacher, ema_update, frozen_copy, schedule, stop_dropout, unsaved

__all__ = [
    "MAX_SCORES",
    "Centre",
    "DeferredUpdate",
    "FeatureQueue",
    "FirstMean",
    "MemoryBank",
    "Prototypes",
    "Teacher",
    "across",
    "at_places",
    "by_size",
    "byol_loss",
    "contrastive_loss",
    "covariance",
    "cross_correlation",
    "ema_update",
    "enable_gradient_checkpointing",
    "frozen_copy",
    "full_precision",
    "info_nce",
    "kmeans",
    "koleo",
    "layer_normalised",
    "mlp",
    "nt_xent",
    "off_diagonal",
    "output_shape",
    "places_of",
    "principal_components",
    "product",
    "schedule",
    "shuffled_groups",
    "sigreg",
    "sinkhorn",
    "soft_cross_entropy",
    "spread",
    "stop_dropout",
    "sum_over_rows",
    "sup_con",
    "undecayed_names",
    "unit",
    "unsaved",
    "whiten",
]

MAX_SCORES = 2**24
"""A loss over a larger matrix of scores (64 MiB in float32) is computed in parts."""
