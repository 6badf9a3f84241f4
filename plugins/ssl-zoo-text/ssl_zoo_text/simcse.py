"""SimCSE: two passes of a text with different dropout, or its halves, are views of each other."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from ssl_zoo import Field, Losses, Rng, Task, TaskOptions
from ssl_zoo.nn import info_nce, unit
from ssl_zoo.tree import join
from ssl_zoo_text.backbones import TransformersEncoder
from ssl_zoo_text.recipes import recipe
from ssl_zoo_text.segments import split_halves
from ssl_zoo_text.spec import Text, TextSpec


class SimCSE(Task):
    """The features of a text agree with those of another pass of it, whose dropout differs.

    With `positive` halves, two neighbouring spans agree, as in DeCLUTR (Giorgi et al. 2021,
    arXiv:2006.03659) and Contriever (Izacard et al. 2021, arXiv:2112.09118, section 3.1). Dropout is for
    networks that were trained for long, as in the paper; from random weights it teaches little.
    """

    name = "simcse"
    paper = "Gao et al. 2021, arXiv:2104.08821"
    family = "contrastive"
    modality = "text"
    passes = 2
    expected_failures = {"views_vary": "dropout makes the views; nothing is drawn in `views`"}
    recipe = recipe(batch_size=64, lr=3e-4, epochs=1)

    class Options(TaskOptions):
        """The options of SimCSE without labels."""

        temperature: float = Field(0.05, gt=0, description="temperature of InfoNCE")
        positive: Literal["dropout", "halves"] = Field(
            "dropout", description="the second view: another dropout mask, or the other half of a block"
        )
        dropout: float = Field(0.1, gt=0, lt=1, description="rate of all dropout of the network")

    encoder: TransformersEncoder
    spec: TextSpec

    def __init__(self, encoder: TransformersEncoder, options: Options, spec: TextSpec) -> None:
        super().__init__(encoder, options, spec)
        encoder.set_dropout(options.dropout)
        self.head = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.Tanh())

    def views(self, batch: Text, rng: Rng) -> tuple[Text, Text]:
        """Return the texts twice, or their halves; only the network's dropout is random."""
        x = self.spec.prepare(batch)
        return (x, x) if self.options.positive == "dropout" else split_halves(x)

    def loss(self, views: tuple[Text, Text]) -> Losses:
        """Return InfoNCE of the two views, with the other texts of the joint batch as negatives."""
        z = unit(self.head(self.encoder(join(views))))
        first, second = z.chunk(2)
        similarity = (first * second).sum(1).mean().detach()
        return Losses(
            info_nce(first, second, None, self.options.temperature), {"similarity": similarity}
        )

    def compared(self, x: Text) -> Tensor:
        """Return the output [B, D] of the head, with dropout where that makes the views."""
        training = self.encoder.training
        self.encoder.train(self.options.positive == "dropout")
        output: Tensor = self.head(self.encoder(x))
        self.encoder.train(training)
        return output

    def gallery(self, views: tuple[Text, Text]) -> dict[str, Any]:
        """Return the texts, or their halves."""
        if self.options.positive == "dropout":
            return {"text": views[0]}
        return {"first half": views[0], "second half": views[1]}
