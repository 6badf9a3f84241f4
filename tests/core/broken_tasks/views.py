"""Tasks with broken views."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from ssl_zoo import Encoder, Losses, Rng, UserError
from tests.core.broken_tasks.declare import EVERYTHING, broken
from tests.core.sound_tasks import Sound


@broken("views_are_tensors_of_steady_shape", r"view \d has no steady shape: .*\[6, 3, \d+, 16\] of 6")
class ViewsOfAnySize(Sound):
    """A crop is left at the size that was drawn."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return super().view(batch, rng)[:, :, rng.order(8)[0] :]


@broken("views_are_tensors_of_steady_shape", "views changes the batch that it is given")
class ViewsThatBlackenTheBatch(Sound):
    """The margin of the very images that a later view is made of is blackened in place."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        batch[..., 0] = 0
        return super().views(batch, rng)


@broken("views_are_tensors_of_steady_shape", "views must return a tuple of tensors")
class ViewsInAList(Sound):
    """A list is no tuple."""

    def views(self, batch: Tensor, rng: Rng) -> Any:
        return list(super().views(batch, rng))


@broken("views_are_tensors_of_steady_shape", "view 3 is no tensor, but int", also=EVERYTHING)
class ViewThatIsANumber(Sound):
    """A number between tensors cannot be put on a device."""

    def views(self, batch: Tensor, rng: Rng) -> Any:
        return *super().views(batch, rng), 3


@broken("views_are_tensors_of_steady_shape", "view 1 requires a gradient")
class ViewsThatAreLearnt(Sound):
    """Views are made outside of what the trainer differentiates."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.contrast = nn.Parameter(torch.ones(1, 1, 1, 1))

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return super().view(batch, rng) * self.contrast


@broken("views_are_tensors_of_steady_shape", "2 views at one time, 3 at another", also=EVERYTHING)
class ViewsOfAnyNumber(Sound):
    """How many there are is drawn."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return super().views(batch, rng) + (self.spec.prepare(batch),) * (rng.order(2)[0])

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        return super().loss(views[:2])


@broken("views_obey_the_seed", "view 1 is another one each time: draw all that is random from `rng`")
class ViewsOfTheGlobalGenerator(Sound):
    """What torch draws by itself is lost to the seed, and the same in all processes."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return 0.5 + torch.rand(n)


@broken("views_obey_the_seed", "view 1 is another one each time", also=["resumed_training_is_the_same"])
class ViewsOfPythonsGenerator(Sound):
    """Python's own generator is no better."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return torch.tensor([0.5 + random.random() for _ in range(n)])


@broken("views_obey_the_seed", "views draws from torch's global generator")
class ViewsThatSeedTheGlobalGenerator(Sound):
    """The views are the same each time, but so is all that anybody else draws thereafter."""

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
    """A mask is made for the network's size in the first experiment."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        x = super().view(batch, rng)
        return x * torch.ones(16, 16) if self.spec.size < 20 else x


@broken(
    "views_take_any_image",
    "^8×8 images of 1 channels, network at 16: RuntimeError",
)
class ChannelsHardCoded(Sound):
    """A weight for each of three channels makes three of one."""

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return super().view(batch, rng) * torch.tensor([0.9, 1.0, 1.1]).view(3, 1, 1)


@broken(
    "views_take_any_image",
    "^8×8 images of 1 channels, network at 16: task: it takes images in colours",
)
class GrayRefused(Sound):
    """It takes colours alone."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        if spec.channels != 3:
            raise UserError("task: it takes images in colours")


@broken("pictures_are_images", r"column 'view 1' must be \[B, C, h, w\], not float32 \[3, 16, 16\]")
class GalleryOfOneChannel(Sound):
    """A column without a dimension of channels."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {name: column[:, 0] for name, column in super().gallery(views).items()}


@broken("pictures_are_images", r"column 'first' must be \[B, C, h, w\], not float32 \[1, 3, 16, 16\]")
class GalleryOfOneRow(Sound):
    """A column of the first sample alone."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"first": views[0][:1]}


@broken("pictures_are_images", "column 'painted' must be normalised, not torch.uint8")
class ReconstructionsOfBytes(Sound):
    """A column is meant for the screen already."""

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"painted": (255 * self.spec.denormalise(views[0])).byte()}


@broken("pictures_are_images", "gallery gives no column, so there is nothing to look at")
class GalleryOfNothing(Sound):
    """No column at all."""

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {}


@broken("throughput", "RuntimeError: .*256")
class BatchesUpToAHundred(Sound):
    """Factors are drawn for a largest batch."""

    def factors(self, n: int, rng: Rng) -> Tensor:
        return super().factors(100, rng)[:n]
