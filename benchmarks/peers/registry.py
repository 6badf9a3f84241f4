"""The peers by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from . import lightly, lightly_train, solo_learn, torchvision
from .loop import fast, plain
from .measure import Build
from .setting import Setting


@dataclass(frozen=True)
class Peer:
    """A library that ssl-zoo is compared with.

    Attributes:
        build: makes the contestant.
        package: the distribution that it needs beyond those of ssl-zoo.
        install: what installs it.
        unfit: returns why it cannot take the settings, or None.
    """

    build: Build
    package: str | None = None
    install: str = ""
    unfit: Callable[[Setting], str | None] = lambda setting: None

    def reason_left_out(self, setting: Setting) -> str | None:
        """Return why it cannot take part, or None."""
        try:
            if self.package is not None:
                metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return f"{self.package} is not installed: {self.install}"
        return self.unfit(setting)


LIGHTLY = ("lightly", "pip install 'ssl-zoo[bench]'", lightly.unfit)

PEERS = {
    "lightly": Peer(lambda setting, epochs: lightly.build(setting, epochs, plain(setting)), *LIGHTLY),
    "lightly, bf16": Peer(
        lambda setting, epochs: lightly.build(setting, epochs, fast(setting)), *LIGHTLY
    ),
    "lightly-train": Peer(
        lightly_train.LightlyTrain,
        lightly_train.PACKAGE,
        f"pip install {lightly_train.PACKAGE}",
        lightly_train.unfit,
    ),
    "solo-learn style": Peer(solo_learn.build),
    "torchvision": Peer(lambda setting, epochs: torchvision.build(setting, epochs, plain(setting))),
    "torchvision, bf16": Peer(lambda setting, epochs: torchvision.build(setting, epochs, fast(setting))),
}
