"""CAPI: at hidden places, predict the clusters of a momentum teacher's features."""

from __future__ import annotations

from torch import Tensor, nn

from ssl_zoo.nn import Prototypes, sinkhorn, soft_cross_entropy, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import inverse_block_places, places_in, some_places
from ssl_zoo_vision.masked.latent_task import LatentOptions, LatentTask
from ssl_zoo_vision.patches import take
from ssl_zoo_vision.predictor import Predictor
from ssl_zoo_vision.transformers import MASKED_ADAMW, MASKED_VIT


class CAPI(LatentTask):
    """A decoder tells the cluster of hidden patches; clusters are learnt, and balanced by position.

    Unlike the authors', positions are sines, not rotary, clusters and the embedding of patches have the
    rate of all, and the teacher's momentum rises on a line; theirs falls from 1 to 0.999 in the warm-up
    and then rises on a cosine.
    """

    name = "capi"
    paper = "Darcet et al. 2025, Cluster and Predict Latent Patches, arXiv:2502.08769"
    prerequisites = "a ViT, batches of 256 or more"
    recipe = {
        "train": {**MASKED_ADAMW, "optimizer_options": {"betas": [0.9, 0.95]}, "weight_decay": 0.1},
        "backbone": MASKED_VIT,
    }
    paper_momentum = 0.999

    class Options(LatentOptions):
        """CAPI's options."""

        mask_ratio: float = Field(0.65, gt=0, lt=1, description="share of patches that are hidden")
        predicted: float | None = Field(
            None, gt=0, le=1, description="share of these to predict; none: 0.05, or 1 up to 64 pixels"
        )
        clusters: int | None = Field(
            None, ge=2, description="number K of clusters; none: 16384, or 256 up to 64 pixels"
        )
        width: int | None = Field(
            None, ge=32, multiple_of=32, description="of the decoder; none: 768, or 128 up to 64 pixels"
        )
        depth: int | None = Field(
            None, ge=1, description="blocks of the decoder; none: 12, or 2 up to 64 pixels"
        )
        temperature: float = Field(0.12, gt=0, description="temperature of the predictions")
        target_temperature: float = Field(0.06, gt=0, description="temperature of the assignments")
        crop_scale: tuple[float, float] = Field((0.6, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        d, small = self.grid.width, self.small
        number = options.clusters or (256 if small else 16384)
        self.hidden = self.grid.share(options.mask_ratio)
        self.asked = max(1, round(self.hidden * (options.predicted or (1 if small else 0.05))))  # M
        self.clusters = nn.Linear(d, number)
        size = options.width or (128 if small else 768), options.depth or (2 if small else 12)
        self.decoder = Predictor(d, d, self.grid.shape, *size, cross=True)
        self.head = Prototypes(d, number)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W], the visible places [B, K], and those to be predicted [B, M]."""
        x = self.augment(batch, rng)
        masks = inverse_block_places(len(x), self.grid.shape, self.hidden, rng)
        visible = places_in(~masks, self.grid.places - self.hidden)
        return x, visible, some_places(masks, self.asked, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the clustering's loss, which trains the clusters alone, plus the predictions'."""
        scores = self.scores(views[0])  # [B, N, K]
        q = sinkhorn(scores / self.options.target_temperature)  # each position by itself
        temperature = self.options.temperature
        clustering = soft_cross_entropy(q.flatten(0, 1), scores.flatten(0, 1), temperature)
        q, z = take(q, views[2]).flatten(0, 1), self.predict(views).flatten(0, 1)  # [B·M, K], [B·M, d]
        prediction = soft_cross_entropy(q, z, temperature, self.head)
        logs = {"clustering": clustering.detach(), "prediction": prediction.detach()}
        return Losses(clustering + prediction, logs)

    def scores(self, x: Tensor) -> Tensor:
        """Return the clusters' scores [B, N, K], from the teacher's features of the whole image."""
        scores: Tensor = self.clusters(unit(self.teacher_places(x)))
        return scores

    def predict(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the decoder's output [B, M, d] at the places to be predicted."""
        x, visible, asked = views
        predicted: Tensor = self.decoder(self.encoder.tokens(x, visible), visible, asked)
        return predicted

    def answers(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the patches [B, M, P] whose clusters are nearest to the predicted ones."""
        predicted = self.head(self.predict(views)) / self.options.temperature
        targets = self.scores(views[0]) / self.options.temperature
        return self.nearest_patches(views[0], predicted.softmax(-1), targets.softmax(-1))
