"""The plugin with the core's protocols, registered like that of a third party.

Imports are inside the hook, so that listing plugins imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ssl_zoo.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from ssl_zoo.evaluation import Protocol


@hookimpl
def ssl_zoo_register_protocols() -> Mapping[str, Protocol]:
    """Register the protocols for every modality, in the order of tables."""
    from ssl_zoo.evaluation.finetune import FINETUNE, FINETUNE_FEW
    from ssl_zoo.evaluation.health import HEALTH
    from ssl_zoo.evaluation.knn import KNN
    from ssl_zoo.evaluation.label_curve import LABEL_CURVE
    from ssl_zoo.evaluation.linear import LINEAR
    from ssl_zoo.evaluation.lowshot import LOWSHOT
    from ssl_zoo.evaluation.pretext import PRETEXT

    return {
        "knn": KNN,
        "linear": LINEAR,
        "lowshot": LOWSHOT,
        "label-curve": LABEL_CURVE,
        "finetune": FINETUNE,
        "finetune-few": FINETUNE_FEW,
        "health": HEALTH,
        "pretext": PRETEXT,
    }
