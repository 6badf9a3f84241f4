"""The views and the wide head that Barlow Twins and VICReg share."""

from __future__ import annotations

from torch import nn

from ssl_zoo.nn import mlp
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field
from ssl_zoo_vision.augmentation import AsymmetricViewOptions, is_small


class ExpanderOptions(AsymmetricViewOptions):
    """The options of BYOL's views and of a head that is wider than the features, as both papers have."""

    hidden: int | None = Field(
        None, ge=1, description="hidden width of the head; none: 8192, or 2048 up to 64 pixels"
    )
    out: int | None = Field(
        None, ge=2, description="width of the embedding; none: 8192, or 2048 up to 64 pixels"
    )

    def expander(self, encoder: Encoder, spec: ImageSpec) -> nn.Sequential:
        """Return the head: three layers without biases, and no norm at the end.

        Args:
            encoder: the encoder whose pooled features it takes.
            spec: the description of the images, whose size decides what options of None are.
        """
        width = 2048 if is_small(spec) else 8192
        hidden = self.hidden or width
        return mlp([encoder.width, hidden, hidden, self.out or width], bias=False)
