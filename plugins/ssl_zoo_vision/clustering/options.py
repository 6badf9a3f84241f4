"""The views, the head and the prototypes that SwAV and DeepCluster v2 share."""

from __future__ import annotations

from torch import nn

from ssl_zoo.errors import UserError
from ssl_zoo.nn import mlp
from ssl_zoo.notices import Notice
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, TaskOptions
from ssl_zoo_vision.augmentation import MultiCropOptions, SymmetricViewOptions, is_small

FEWER_CLUSTERS = Notice(
    "deepcluster-clusters",
    "DeepCluster makes at most half as many clusters as there are images to train on.",
    "task.prototypes, or more images",
)


class PrototypeOptions(TaskOptions):
    """The number of prototypes, or of clusters."""

    prototypes: int | None = Field(
        None, ge=2, description="number K of prototypes; none: 3000, or 512 up to 64 pixels"
    )

    def number(self, spec: ImageSpec, large: int = 3000) -> int:
        """Return K, the number of prototypes.

        Args:
            spec: the description of the images.
            large: the paper's number, for large images where the option is None.
        """
        return self.prototypes or (512 if is_small(spec) else large)

    def clusters(self, spec: ImageSpec, large: int = 3000) -> tuple[int, int]:
        """Return the number of clusters to find, at most half of the images, and that of the images.

        Args:
            spec: the description of the images.
            large: as for `number`.

        Raises:
            UserError: the number of images is unknown.
        """
        if spec.samples is None:
            raise UserError("data.source: to cluster all images, their number must be known")
        wanted, samples = self.number(spec, large), spec.samples
        number = min(wanted, max(1, samples // 2))
        if number < wanted:
            FEWER_CLUSTERS(f"task.prototypes: {number} clusters of {samples} images, not {wanted}")
        return number, samples


class ClusteringOptions(PrototypeOptions, MultiCropOptions, SymmetricViewOptions):
    """The options of multi-crop, of a head, and of prototypes that embeddings are assigned to."""

    temperature: float = Field(0.1, gt=0, description="temperature τ of predictions")
    hidden: int = Field(2048, ge=1, description="hidden width of the head")
    out: int = Field(128, ge=2, description="width of the embedding")

    def head(self, encoder: Encoder) -> nn.Sequential:
        """Return the head: two layers with biases.

        Args:
            encoder: the encoder whose pooled features it takes.
        """
        return mlp([encoder.width, self.hidden, self.out], bias=True)
