"""Images in archives, which are read one after another: no random access."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssl_zoo import hookimpl
from ssl_zoo.data import Stream, rest_of
from ssl_zoo.data.assemble import assemble


class Archives(Stream):
    """The PNG files of archives, the class being what precedes ``-`` in a name."""

    def __init__(self, archives):
        self.archives = archives
        self.counts, labels = [], []
        for archive in archives:
            with tarfile.open(archive) as opened:
                names = opened.getnames()
            self.counts.append(len(names))
            labels += [int(name.split("-")[0]) for name in names]
        self.labels = torch.tensor(labels)

    def __len__(self):
        return sum(self.counts)

    def read(self, seed):
        order = range(len(self.archives))
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(self.archives), generator=generator).tolist()
        for i in order:
            number = sum(self.counts[:i])
            with tarfile.open(self.archives[i]) as opened:
                for member in opened:
                    with Image.open(io.BytesIO(opened.extractfile(member).read())) as image:
                        yield number, torch.from_numpy(np.array(image)[None])
                    number += 1


def tars(config, device):
    """Return the images in all but the last archive to train on, and those in it to evaluate on."""
    *train, test = sorted(Path(rest_of(config)).glob("*.tar"))
    return assemble("tars", config, device, size=16, train=Archives(train), test=Archives([test]))


@hookimpl
def ssl_zoo_register_sources():
    return {"tars": tars}
