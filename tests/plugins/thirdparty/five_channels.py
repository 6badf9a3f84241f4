"""Images of five channels, such as those of a satellite."""

import torch
import torch.nn.functional as F

from ssl_zoo import hookimpl
from ssl_zoo.data import ArraySplit
from ssl_zoo.data.assemble import assemble


def bands(config, device):
    """Return smooth images of five channels, in which one of three channels is brightest."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(240) % 3
    coarse = torch.rand(240, 5, 4, 4, generator=generator)
    coarse[torch.arange(240), classes] += 0.5
    images = (170 * F.interpolate(coarse, (16, 16), mode="bilinear")).clamp(0, 255).byte()
    split = ArraySplit(images.to(device), classes)
    train, test = split.subset(torch.arange(40, 240)), split.subset(torch.arange(40))
    return assemble("bands", config, device, size=16, train=train, test=test)


@hookimpl
def ssl_zoo_register_sources():
    return {"bands": bands}
