"""Supervised training on text: the baseline with labels, under the same budget."""

from __future__ import annotations

from typing import Any

from ssl_zoo.supervised import SupervisedTask
from ssl_zoo_text.recipes import recipe


class SupervisedText(SupervisedTask):
    """Predict the classes of texts: the supervised baseline of the tasks on text."""

    name = "supervised-text"
    paper = "Devlin et al. 2018, BERT, arXiv:1810.04805 (section 4.1, from random weights)"
    modality = "text"
    expected_failures = {"views_vary": "texts are trained on as they are; nothing is drawn in `views`"}
    recipe = recipe()

    def gallery(self, views: tuple[Any, ...]) -> dict[str, Any]:
        """Return the texts."""
        return {"text": views[0]}
