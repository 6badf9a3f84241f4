"""Building the backbone of a configuration, from a plugin or from timm."""

from __future__ import annotations

import timm

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.backbones.weights import Weights
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import read_header
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.specs import spec_of
from ssl_zoo.runtime.defaults import seeded
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder


def is_known(config: BackboneConfig) -> bool:
    """Return whether a plugin that is here, or timm, has the backbone of a configuration."""
    registered = registry.collect("ssl_zoo_register_backbones")
    return config.name in registered or timm.is_model(config.resolve().name)


def check_samples(weights: str, spec: Spec) -> None:
    """Raise if weights of ssl-zoo were trained on samples of another meaning, such as other tokens.

    Raises:
        UserError: the network cannot take these samples.
    """
    trained_on = spec_of(read_header(weights))
    if trained_on is not None:
        try:
            trained_on.adopt(spec)
        except UserError as error:
            raise UserError(f"backbone.weights: {weights}: the data {error}") from error


def build_encoder(config: BackboneConfig, spec: Spec, seed: int) -> Encoder:
    """Build the backbone of a configuration; the seed alone determines its weights.

    Raises:
        UserError: there is no such backbone for such data.
    """
    with seeded(seed):
        return create_encoder(config, spec)


def create_encoder(config: BackboneConfig, spec: Spec, any_size: bool = False) -> Encoder:
    """Build the backbone of a configuration, from a plugin or from timm.

    Args:
        config: the configuration.
        spec: the description of the samples.
        any_size: as for `create_backbone`.

    Raises:
        UserError: there is no such backbone for such data, or its weights do not fit.
    """
    factory = registry.collect("ssl_zoo_register_backbones").get(config.name)
    if factory is not None:
        encoder: Encoder = factory(config, spec)
        if config.weights is not None:
            check_samples(config.weights, spec)
            Weights(config).load(encoder.exported_network)  # as `write_backbone` saves it
        return encoder
    if not isinstance(spec, ImageSpec):
        raise UserError(
            f"backbone.name: {config.name!r} is for images, the data is {spec.modality}; "
            "install a plugin with backbones for it"
        )
    return create_backbone(config, spec, any_size)
