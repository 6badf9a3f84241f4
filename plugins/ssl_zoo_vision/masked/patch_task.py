"""The base of tasks that hide patches of an image: their grid, their features, their pictures."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Task
from ssl_zoo_vision.patches import PatchGrid


class PatchTask(Task):
    """A task that hides some patches of one crop of each image, and asks for something about them.

    Its first view are the crops [B, C, H, W]; the others say what is hidden, and what is asked for.

    Attributes:
        grid: the patches, on the grid of the encoder's feature map.
        augment: the augmentation to the crop.
    """

    family = "masked"
    passes = 1
    prerequisites = "a ViT"

    def __init__(self, encoder: Encoder, options: CropOptions, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.grid = PatchGrid.of(encoder, spec)
        self.augment = options.view(spec)

    @abstractmethod
    def hidden_places(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the places that the network does not see, int64 [B, K]."""

    def asked_places(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the places about which something is predicted, int64 [B, M]; by default the hidden."""
        return self.hidden_places(views)

    @abstractmethod
    def answers(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the answer at the asked places as patches [B, M, P], for pictures.

        A task that predicts no pixels shows `nearest_patches`.
        """

    def nearest_patches(self, x: Tensor, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return patches [B, M, P] of the batch whose targets are nearest to some predictions.

        Args:
            x: the crops [B, C, H, W].
            predictions: [B, M, d].
            targets: the targets of all places [B, N, d].
        """
        nearest = torch.cdist(predictions.flatten(0, 1), targets.flatten(0, 1)).argmin(1)
        patches = self.grid.patches(x).flatten(0, 1)  # [B·N, P]
        return patches[nearest].view(*predictions.shape[:2], -1)

    def features(self, x: Tensor) -> Tensor:
        """Return the mean of the places' features [B, d]; the backbone's own pooling is not trained."""
        return self.exported_encoder.feature_map(x).flatten(2).mean(2)

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image and the input of the network."""
        x = views[0]
        return {"image": x, "input": self.grid.replaced(x, self.hidden_places(views), 0.0)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image with the answers at the asked places."""
        shown = self.grid.replaced(views[0], self.hidden_places(views), 0.0)
        return {"painted": self.grid.replaced(shown, self.asked_places(views), self.answers(views))}
