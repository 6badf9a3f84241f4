"""lightly-train: `lightly_train.pretrain(method="simclr", …)` on a folder of PNG files.

It runs in a process of its own, with the same network and threads. The network, which is ours, waits in
each forward pass until the next step is asked for; so steps are counted, and the set-up is not. The
differences:

- It reads and decodes a file for each image, and makes views with albumentations in two workers.
- Its log, progress bar, and checkpoints at the end of an epoch and of the run count, as they are on by
  default. Defaults are changed in two places: the workers stay alive between epochs, as the others' do,
  and nothing is reported to its makers.
- Its colour operations need three channels. Gray images keep one, so that all have the same network, and
  it leaves out brightness and contrast, which is to its advantage.
- Precision is its own choice: float32 without CUDA, else bfloat16 by autocast. Both views pass through
  the network at once.
- The optimiser is torch's SGD, without Nesterov's momentum, or AdamW; neither is fused. The learning
  rate warms up for a tenth of the epochs, at most ten, and then follows a cosine.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Encoder
from ssl_zoo.training.optimizer import learning_rate

from .loop import AHEAD, WORKERS, plain
from .setting import Setting

PACKAGE = "lightly-train"
OPTIMIZERS = ("sgd", "adamw")
ENVIRONMENT = {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
"""Nothing is sent or asked for over the network."""


class Paced(nn.Module):
    """An encoder as a model of lightly-train, which waits before each training step.

    Attributes:
        line: says that a step can begin, and hears whether it shall; None in a copy.
    """

    def __init__(self, encoder: Encoder, line: Connection) -> None:
        super().__init__()
        self.encoder = encoder
        self.line: Connection | None = line

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection out, as checkpoints contain the model."""
        return {**vars(self), "line": None}

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the pooled features as a map [B, D, 1, 1].

        Raises:
            SystemExit: no step is wanted any more.
        """
        if self.training and self.line is not None:
            try:
                self.line.send(True)
                wanted = self.line.recv()
            except (EOFError, OSError):  # the benchmark has ended
                wanted = False
            if not wanted:
                raise SystemExit
        return {"features": self.encoder(x)[:, :, None, None]}

    def forward_pool(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the features, which are pooled already."""
        return {"pooled_features": x["features"]}

    def feature_dim(self) -> int:
        """Return D."""
        return self.encoder.width

    def get_model(self) -> nn.Module:
        """Return the network to export."""
        return self.encoder


@dataclass(frozen=True)
class Job:
    """The input of lightly-train's process.

    Attributes:
        encoder: the network.
        device: the device and the threads.
        weights: the file for the trained weights.
        log: the file for all that is printed.
        environment: further environment variables.
        start_method: how its data loader's workers start; a spawned process would spawn them too.
        arguments: those of `lightly_train.pretrain`.
    """

    encoder: Encoder
    device: Device
    weights: Path
    log: Path
    environment: dict[str, str]
    start_method: str
    arguments: dict[str, Any]


def pretrain(job: Job, line: Connection) -> None:
    """Train, a step for each `True` that comes over the line, and save the weights."""
    os.environ.update(job.environment)
    multiprocessing.set_start_method(job.start_method, force=True)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(job.log.open("w"))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        stack.enter_context(job.device.computing())
        import lightly_train

        lightly_train.pretrain(model=Paced(job.encoder, line), **job.arguments)
    torch.save(job.encoder.cpu().state_dict(), job.weights)
    line.send(False)


class LightlyTrain:
    """A process of lightly-train, which makes a step when it is told to."""

    ahead = WORKERS * AHEAD

    def __init__(self, setting: Setting, epochs: float) -> None:
        train, place = setting.config.train, setting.device.device.type
        per_epoch = len(setting.data.train) // train.batch_size
        self.steps = max(1, round(epochs * per_epoch))
        folder = Path(tempfile.mkdtemp(dir=setting.folder))
        self._weights = folder / "weights.pt"
        device = plain(setting)
        encoder = build_encoder(setting.config.backbone, setting.data.spec, train.seed)
        optimizer = {"lr": learning_rate(train, train.batch_size), "weight_decay": train.weight_decay}
        job = Job(
            encoder,
            device,
            self._weights,
            folder / "log",
            {**ENVIRONMENT, "LIGHTLY_TRAIN_CACHE_DIR": str(folder / "cache")},
            multiprocessing.get_start_method(),
            {
                "out": folder / "out",
                "data": png_folder(setting),
                "method": "simclr",
                "method_args": {
                    "hidden_dim": setting.widths[1],
                    "output_dim": setting.widths[2],
                    "temperature": setting.temperature,
                    "reference_batch_size": train.batch_size,
                },
                "transform_args": transform_args(setting),
                "epochs": math.ceil(self.steps / per_epoch),
                "trainer_args": {"max_steps": self.steps},
                "batch_size": train.batch_size,
                "num_workers": WORKERS,
                "loader_args": {"persistent_workers": True},
                "devices": 1,
                "accelerator": {"cpu": "cpu", "cuda": "gpu"}.get(place, "auto"),
                "seed": train.seed,
                "optim": train.optimizer,
                "optim_args": optimizer
                | ({"momentum": train.momentum} if train.optimizer == "sgd" else {}),
            },
        )
        self._encoder = device.place(encoder)
        fresh = multiprocessing.get_context("spawn")
        self._line, theirs = fresh.Pipe()
        self._process = fresh.Process(target=pretrain, args=(job, theirs))
        self._process.start()
        theirs.close()
        self._wait()

    @property
    def encoder(self) -> Encoder:
        """The trained network, once all steps have been made."""
        self._encoder.load_state_dict(torch.load(self._weights, weights_only=True))
        return self._encoder

    def step(self) -> None:
        """Let it make a step, and wait until the next could begin or all has ended."""
        self._line.send(True)
        self._wait()

    def _wait(self) -> None:
        try:
            self._line.recv()
        except EOFError as error:
            raise RuntimeError("lightly-train has failed; its error is printed above") from error

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self._line.send(False)
        self._process.join()


def png_folder(setting: Setting) -> Path:
    """Return a folder of the train images, which is written when it is first asked for."""
    folder = setting.folder / "images"
    if not folder.exists():
        folder.mkdir()
        for number, image in enumerate(setting.images().permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image.squeeze()).save(folder / f"{number:07}.png")
    return folder


def transform_args(setting: Setting) -> dict[str, Any]:
    """Return the augmentation, with ssl-zoo's parameters."""
    views = setting.views
    brightness, contrast, saturation, hue = views.jitter
    return {
        "image_size": (views.size, views.size),
        "random_resize": {"min_scale": views.scale[0], "max_scale": views.scale[1]},
        "random_flip": {"horizontal_prob": views.flip, "vertical_prob": 0.0},
        "color_jitter": {
            "prob": views.jitter_p,
            "strength": 1.0,
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
        },
        "random_gray_scale": views.grayscale_p,
        "gaussian_blur": {"prob": views.blur_p, "sigmas": views.sigma, "blur_limit": 0},
        "normalize": {"mean": views.mean, "std": views.std},
    }


def unfit(setting: Setting) -> str | None:
    """Return why lightly-train cannot take the settings, or None."""
    train = setting.config.train
    if train.optimizer not in OPTIMIZERS or train.optimizer_options:
        return f"train.optimizer: it takes {' or '.join(OPTIMIZERS)} without further options"
    return None
