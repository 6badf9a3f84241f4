"""Maps: features in two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ssl_zoo.errors import UserError
from ssl_zoo.text import did_you_mean

Points = NDArray[np.floating[Any]]

KEPT = 50
"""So many principal components are left of features before they are laid out as a map."""
FEWEST = 10
"""Of fewer samples than this a map is that of the principal components alone."""


def pca(features: Points, components: int = 2) -> Points:
    """The principal components of features [N, D], as [N, components]; what there is not is 0."""
    kept = min(components, *features.shape)
    with np.errstate(divide="ignore", invalid="ignore"):  # of shares of a variance that is 0
        found = PCA(kept, svd_solver="full").fit_transform(features.astype(np.float64))
    return np.pad(found, ((0, 0), (0, components - kept)))


def _tsne(features: Points) -> Points:
    perplexity = min(30.0, (len(features) - 1) / 3)
    points: Points = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    return points


def _umap(features: Points) -> Points:
    neighbours = min(15, len(features) - 1)
    umap = import_module("umap").UMAP(n_components=2, n_neighbors=neighbours, random_state=0, n_jobs=1)
    points: Points = umap.fit_transform(features)
    return points


METHODS: Mapping[str, tuple[str, Callable[[Points], Points]]] = {
    "pca": ("PCA", lambda features: features[:, :2]),
    "tsne": ("t-SNE", _tsne),
    "umap": ("UMAP", _umap),
}
"""By name how a method is written, and the method: from principal components [N, P] to points [N, 2]."""


def choose(name: str) -> str:
    """The method of this name; of ``auto`` UMAP where it is installed, else t-SNE.

    Raises:
        UserError: there is no such method, or it is not installed.
    """
    installed = find_spec("umap") is not None
    if name == "auto":
        return "umap" if installed else "tsne"
    if name not in METHODS:
        known = ("auto", *METHODS)
        raise UserError(
            f"--map: there is no map {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
        )
    if name == "umap" and not installed:
        raise UserError("--map umap needs the extra: pip install 'ssl-zoo[umap]'; or take --map tsne")
    return name


def layout(features: Points, method: str) -> Points:
    """Features [N, D], each scaled to unit length, as points [N, 2]; the same each time.

    Features that do not differ, and few samples, have no map but that of their principal components.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    reduced = pca(features / np.maximum(lengths, 1e-12), max(2, min(KEPT, *features.shape)))
    if len(features) < FEWEST or reduced[:, 0].std() < 1e-6:
        method = "pca"
    return METHODS[method][1](reduced)
