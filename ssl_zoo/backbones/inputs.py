"""The input of a network: samples of a data set, as its weights were trained on them."""

from __future__ import annotations

from dataclasses import replace

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.notices import Notice
from ssl_zoo.spec import ImageSpec, Spec

NORMALISATION = Notice(
    "normalisation",
    "Images for a network that starts from trained weights are normalised by the mean and deviation "
    "with which these were trained, not by the data's.",
    "backbone.mean, backbone.std",
)


def input_spec(spec: Spec, config: BackboneConfig) -> Spec:
    """Return the description of samples as a network is fed with them.

    A network that starts from trained weights gets images in the normalisation of these weights, in
    training, evaluation and export, and resized with their interpolation. All others get the
    normalisation that is measured on the data, and bilinear interpolation.

    Args:
        spec: the description of the data.
        config: the network, with what `ssl_zoo.config.load` has found out about its weights.
    """
    if not isinstance(spec, ImageSpec):
        return spec
    if config.interpolation is not None:
        spec = replace(spec, interpolation=config.interpolation)
    if config.mean is None or config.std is None:
        return spec
    own = spec.normalised_by(config.mean, config.std)
    if own is None:
        NORMALISATION(
            f"{config.name}: images of {spec.channels} channels are normalised by their own mean and "
            f"deviation, as those of the weights are for {len(config.mean)} channels"
        )
        return spec
    if own != spec:
        reason = "as its weights were trained" if config.starts_trained else "as backbone.mean is set"
        NORMALISATION(
            f"{config.name}: images are normalised by mean {_listed(own.mean)} and deviation "
            f"{_listed(own.std)}, {reason}, not by the data's {_listed(spec.mean)} and "
            f"{_listed(spec.std)}"
        )
    return own


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
