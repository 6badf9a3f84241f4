"""Supervised training on sound: the baseline with labels, under the same budget."""

from __future__ import annotations

from typing import Any

from ssl_zoo.supervised import SupervisedTask
from ssl_zoo_audio.recipes import recipe


class SupervisedAudio(SupervisedTask):
    """Predict the classes of clips: the supervised baseline of the tasks on sound."""

    name = "supervised-audio"
    paper = (
        "Hershey et al. 2017, CNN Architectures for Large-Scale Audio Classification, arXiv:1609.09430"
    )
    modality = "audio"
    expected_failures = {"views_vary": "clips are trained on as they are; nothing is drawn in `views`"}
    recipe = recipe("mel-mini", epochs=25)

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return the clips."""
        return {"clip": views[0]}
