"""SimCSE: two passes of a text with different dropout are views of each other."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions
from ssl_zoo.nn import info_nce, unit
from ssl_zoo.tree import join
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.recipes import recipe
from ssl_zoo_text.spec import Text, TextSpec


class SimCSE(Task):
    """The features of a text agree with those of another pass of it, whose dropout differs.

    From random weights it learns little more than which words occur; start from a run of `bert`.
    """

    name = "simcse"
    paper = "Gao et al. 2021, arXiv:2104.08821"
    family = "contrastive"
    modality = "text"
    passes = 2
    recipe = recipe(batch_size=64)

    class Options(TaskOptions):
        """The options of SimCSE without labels."""

        temperature: float = Field(0.05, gt=0, description="temperature of InfoNCE")
        dropout: float = Field(0.1, gt=0, lt=1, description="rate of all dropout of the network")

    encoder: TransformersEncoder
    spec: TextSpec

    def __init__(self, encoder: TransformersEncoder, options: Options, spec: TextSpec) -> None:
        super().__init__(encoder, options, spec)
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = options.dropout
        self.head = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.Tanh())

    def views(self, batch: Text, rng: Rng) -> tuple[Text]:
        """Return the texts; only the network's dropout is random."""
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Text]) -> Losses:
        """Return InfoNCE of the two passes, with the other texts of the joint batch as negatives."""
        (x,) = views
        z = unit(self.head(self.encoder(join([x, x]))))
        first, second = z.chunk(2)
        similarity = (first * second).sum(1).mean().detach()
        return Losses(
            info_nce(first, second, None, self.options.temperature), {"similarity": similarity}
        )

    def gallery(self, views: tuple[Text]) -> dict[str, Any]:
        """Return the texts."""
        return {"text": views[0]}
