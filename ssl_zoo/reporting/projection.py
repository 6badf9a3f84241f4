"""Projections of features to two dimensions, for maps."""

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

MAX_COMPONENTS = 50
"""Features are reduced to at most this many principal components before t-SNE or UMAP."""
MIN_SAMPLES = 10
"""Fewer samples are always projected by PCA."""


def pca(features: Points, components: int = 2) -> Points:
    """Return the principal components [N, components] of features [N, D], padded with 0 if fewer."""
    available = min(components, *features.shape)
    with np.errstate(divide="ignore", invalid="ignore"):  # explained shares of a variance of 0
        points = PCA(available, svd_solver="full").fit_transform(features.astype(np.float64))
    return np.pad(points, ((0, 0), (0, components - available)))


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
"""The title of each method and its function from components [N, P] to points [N, 2], by name."""
NONE = "none"
"""The name that stands for no map, and no features."""


def choose_method(name: str) -> str:
    """Return the name of the method; for ``auto`` UMAP if it is installed, else t-SNE.

    Raises:
        UserError: there is no such method, or it is not installed.
    """
    installed = find_spec("umap") is not None
    if name == "auto":
        return "umap" if installed else "tsne"
    if name not in (*METHODS, NONE):
        known = ("auto", *METHODS, NONE)
        raise UserError(
            f"--map: there is no map {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
        )
    if name == "umap" and not installed:
        raise UserError("--map umap needs the extra: pip install 'ssl-zoo[umap]'; or use --map tsne")
    return name


def project(features: Points, method: str) -> Points:
    """Project features [N, D], each scaled to unit length, to points [N, 2], reproducibly.

    Features that are all equal, and fewer than `MIN_SAMPLES` samples, are projected by PCA.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    reduced = pca(features / np.maximum(lengths, 1e-12), max(2, min(MAX_COMPONENTS, *features.shape)))
    if len(features) < MIN_SAMPLES or reduced[:, 0].std() < 1e-6:
        method = "pca"
    return METHODS[method][1](reduced)
