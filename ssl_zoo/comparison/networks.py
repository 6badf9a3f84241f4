"""The networks of single rows of a comparison, where they are not its common one."""

from __future__ import annotations

from ssl_zoo.comparison.config import Comparison
from ssl_zoo.config.layers import SettingsSource
from ssl_zoo.config.load import load_encoder_config
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import TIMM, weights_name
from ssl_zoo.errors import UserError


def own_backbone(comparison: Comparison, row: str) -> BackboneConfig | None:
    """Return the backbone of a row's runs if it is not the comparison's; otherwise None.

    Raises:
        UserError: a setting is invalid.
    """
    if "backbone" not in comparison.row_overrides(row):
        return None
    own = comparison.run_config(row, 0).backbone
    return own if own != comparison.encoder_config(0).backbone else None


def own_backbones(comparison: Comparison) -> dict[str, BackboneConfig]:
    """Return the backbones of single rows that are not the comparison's, by a name for each.

    Raises:
        UserError: a setting is invalid.
    """
    found: dict[str, BackboneConfig] = {}
    for row in (*comparison.task_names(), *comparison.variants, *comparison.supervised_names()):
        backbone = own_backbone(comparison, row)
        if backbone is not None and backbone not in found.values():
            name = backbone.name if backbone.name not in found else f"{backbone.name}-{row}"
            found[name] = backbone
    return found


def frozen_backbones(comparison: Comparison) -> dict[str, BackboneConfig]:
    """Return the further networks that are scored as they are, by a name for each.

    Raises:
        UserError: there are no such weights, or two of them have the same name.
    """
    data = {"data": comparison.encoder_config(0).data.model_dump()}
    location = comparison.location("frozen")
    found: dict[str, BackboneConfig] = {}
    for source in comparison.frozen:
        model = source.removeprefix(TIMM)
        network = {"weights": source} if model == source else {"name": model, "pretrained": True}
        base = [SettingsSource(data, location), SettingsSource({"backbone": network}, location)]
        backbone = load_encoder_config(base=base).backbone
        name = model if backbone.weights is None else weights_name(source)
        if name in found:
            raise UserError(
                f"{location}: two networks are named {name}; leave one out, or rename its file"
            )
        found[name] = backbone
    return found


def backbone_label(comparison: Comparison, own: BackboneConfig) -> str:
    """Return the name of a backbone of single rows, for tables.

    If the comparison's has the same name, the settings that differ follow it, such as
    ``mel-mini (positions=convolution)``.
    """
    common = comparison.encoder_config(0).backbone
    if own.name != common.name:
        return own.name
    mine, others = ({**dict(b), **b.options, "options": None} for b in (own, common))
    changed = [f"{n}={mine.get(n)}" for n in {**mine, **others} if mine.get(n) != others.get(n)]
    return f"{own.name} ({', '.join(changed)})"
