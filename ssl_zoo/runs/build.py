"""Building the data, the encoder and the task that a configuration names."""

from __future__ import annotations

from dataclasses import replace

import torch

from ssl_zoo.backbones.gradient_cache import cache_gradients
from ssl_zoo.backbones.timm_encoder import create_backbone
from ssl_zoo.config.schema import BackboneConfig, DataConfig, RunConfig
from ssl_zoo.data import DataSet, load
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder, Task


def build_data(config: RunConfig, device: torch.device, data: DataSet | None = None) -> DataSet:
    """Load the data that a configuration names, for its task.

    Args:
        config: the configuration.
        device: where samples are kept that fit.
        data: what its `data` section describes, if it is loaded already.

    Raises:
        UserError: there is no such source; `Unsuitable` if it does not go with the task.
    """
    data = load_data(config.data, device) if data is None else data
    cls, name = registry.load_task(config.task.name), config.task.name
    if data.spec.modality != cls.modality:
        raise Unsuitable(
            f"data.source: task {name!r} takes {cls.modality} data, "
            f"but {config.data.source!r} has {data.spec.modality} data"
        )
    if cls.needs_labels:
        if data.bank.labels is None:
            raise UserError(f"data.source: task {name!r} learns from labels, {data.name} has none")
        data = replace(data, train=data.bank)
    return data


def load_data(config: DataConfig, device: torch.device) -> DataSet:
    """Load the data that a configuration names, from a plugin's source or one of the core's.

    Raises:
        UserError: there is no such source.
    """
    return load(config, device, registry.collect("ssl_zoo_register_sources"))


def build_encoder(config: BackboneConfig, spec: Spec, seed: int) -> Encoder:
    """Build the backbone that a configuration names, with weights that follow from the seed.

    Raises:
        UserError: there is no such backbone for such data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build_encoder(config, spec)


def _build_encoder(config: BackboneConfig, spec: Spec) -> Encoder:
    """Build the backbone that a configuration names, from a plugin or from timm.

    Raises:
        UserError: there is no such backbone for such data.
    """
    factory = registry.collect("ssl_zoo_register_backbones").get(config.name)
    if factory is not None:
        encoder: Encoder = factory(config, spec)
        return encoder
    if not isinstance(spec, ImageSpec):
        raise UserError(
            f"backbone.name: {config.name!r} is for images, the data is {spec.modality}; "
            "install a plugin with backbones for it"
        )
    return create_backbone(config, spec)


def build_task(config: RunConfig, spec: Spec) -> Task:
    """Build the task with a new network; its weights follow from the seed alone."""
    cls = registry.load_task(config.task.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        encoder = _build_encoder(config.backbone, spec)
        if config.train.cached_gradients:
            cache_gradients(encoder, config.train.part_size)
        return cls(encoder, config.task.options(cls.Options), spec)
