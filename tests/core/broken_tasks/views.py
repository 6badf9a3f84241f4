"""Tasks with broken views."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo import Encoder, Losses, Rng, UserError
from tests.core.broken_tasks.declare import EVERYTHING, broken
from tests.core.sound_tasks import Sound


@broken("views_are_batches", r"view 1 has no steady form: .*float32 \[6, 3, 16, 16\] of 6")
class ViewsOfAnyType(Sound):
    """A view is in double precision at times."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        view = super().view(batch, rng)
        return view.double() if rng.order(2)[0] else view

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return super().loss(tuple(view.float() for view in views))


@broken("views_are_batches", "views changes the batch that it is given")
class ViewsThatBlackenTheBatch(Sound):
    """Views change the raw batch in place."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        batch[..., 0] = 0
        return super().views(batch, rng)


@broken("views_are_batches", "views must return a tuple of tensors")
class ViewsInAList(Sound):
    """Views are a list instead of a tuple."""

    def views(self, batch: Tensor, rng: Rng) -> Any:
        return list(super().views(batch, rng))


@broken("views_are_batches", "view 3 is no tensor, but int", also=EVERYTHING)
class ViewThatIsANumber(Sound):
    """A view is a number, which cannot be moved to a device."""

    def views(self, batch: Tensor, rng: Rng) -> Any:
        return *super().views(batch, rng), 3


@broken("views_are_batches", "view 1 requires a gradient")
class ViewsThatAreLearnt(Sound):
    """Views depend on a parameter, but the trainer makes them without gradient."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.contrast = nn.Parameter(torch.ones(1, 1, 1, 1))

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return super().view(batch, rng) * self.contrast


@broken("views_are_batches", "2 views at one time, 3 at another", also=EVERYTHING)
class ViewsOfAnyNumber(Sound):
    """The number of views is random."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return super().views(batch, rng) + (self.spec.prepare(batch),) * (rng.order(2)[0])

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return super().loss(views[:2])


@broken("views_obey_the_seed", "view 1 is another one each time: draw all that is random from `rng`")
class ViewsOfTheGlobalGenerator(Sound):
    """Torch's global generator ignores the seed, and is the same in all processes."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return 0.5 + torch.rand(n)


@broken("views_obey_the_seed", "view 1 is another one each time", also=["resumed_training_is_the_same"])
class ViewsOfPythonsGenerator(Sound):
    """Python's global generator ignores the seed."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return torch.tensor([0.5 + random.random() for _ in range(n)])


@broken("views_obey_the_seed", "views draws from torch's global generator")
class ViewsThatSeedTheGlobalGenerator(Sound):
    """Views set the global seed, which changes all later random numbers."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        torch.manual_seed(rng.seed())
        return 0.5 + torch.rand(n)


@broken("views_vary", "another seed gives the same views")
class ViewsOfOneSeed(Sound):
    """A generator that is made anew gives the same factors at each step."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return 0.5 + torch.rand(n, generator=torch.Generator().manual_seed(0))


@broken("views_vary", "all samples of a batch are changed in the same way: draw parameters for each")
class ViewsOfOneFactor(Sound):
    """One factor is drawn for all images of a batch, as torchvision's transforms do."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return rng.uniform(1, low=0.5, high=1.5).expand(n)


@broken(
    "views_take_any_image",
    "^21×13 images of 3 channels, network at 17: RuntimeError: The size of tensor a",
)
class SizeHardCoded(Sound):
    """A mask has a fixed size."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        x = super().view(batch, rng)
        return x * torch.ones(16, 16) if self.spec.size < 20 else x


@broken(
    "views_take_any_image",
    "^8×8 images of 1 channels, network at 16: RuntimeError",
)
class ChannelsHardCoded(Sound):
    """A weight for each of three channels fails or broadcasts on one channel."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return super().view(batch, rng) * torch.tensor([0.9, 1.0, 1.1]).view(3, 1, 1)


@broken(
    "views_take_any_image",
    "^8×8 images of 1 channels, network at 16: task: it takes images in colours",
)
class GrayRefused(Sound):
    """Grayscale images are refused."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        if spec.channels != 3:
            raise UserError("task: it takes images in colours")


@broken(
    "views_can_be_shown",
    r"column 'view 1' must be .*, not float32 \[3, 16, 16\]",
)
class GalleryOfOneChannel(Sound):
    """A column lacks the dimension of channels."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {name: column[:, 0] for name, column in super().gallery(views).items()}


@broken(
    "views_can_be_shown",
    r"column 'first' must be .*, not float32 \[1, 3, 16, 16\]",
)
class GalleryOfOneRow(Sound):
    """A column has only the first sample."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"first": views[0][:1]}


@broken(
    "views_can_be_shown",
    r"column 'painted' must be .*, not uint8 \[3, 3, 16, 16\]",
)
class ReconstructionsOfBytes(Sound):
    """A column is in bytes instead of normalised values."""

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"painted": (255 * self.spec.denormalise(views[0])).byte()}


@broken("views_can_be_shown", "gallery gives no column, so there is nothing to look at")
class GalleryOfNothing(Sound):
    """There is no column."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {}


@broken("views_can_be_shown", r"compared must return embeddings \[B, E\], not .* of 3 samples")
class ComparedMaps(Sound):
    """Maps are compared instead of embeddings."""

    def compared(self, x: Tensor) -> Tensor:
        return self.encoder.feature_map(x)


@broken("throughput", "RuntimeError: .*256")
class BatchesUpToAHundred(Sound):
    """The batch size is limited to 100."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return super().factors(100, rng)[:n]
