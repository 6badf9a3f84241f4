"""The networks of single rows of a comparison, where they are not its common one."""

from __future__ import annotations

from ssl_zoo.comparison.config import Comparison
from ssl_zoo.config.layers import SettingsSource
from ssl_zoo.config.load import load_encoder_config
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.config.weights import TIMM, network_settings, weights_name
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.scoring import PRETRAINED


def own_backbone(comparison: Comparison, row: str) -> BackboneConfig | None:
    """Return the backbone of a row's runs if it is not the comparison's; otherwise None.

    Raises:
        UserError: a setting is invalid.
    """
    if not comparison.has_own_backbone(row):
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


def frozen_networks(comparison: Comparison) -> dict[str, str]:
    """Return the further trained networks that are scored as they are: their sources by their rows.

    One that the tasks start from anyway has a row already, and is left out.

    Raises:
        UserError: two of them have the same name.
    """
    common, found = comparison.encoder_config(0).backbone, dict[str, str]()
    started = {f"{TIMM}{common.name}"} if common.pretrained else {common.weights}
    for source in (source for source in comparison.frozen if source not in started):
        name = source.removeprefix(TIMM) if source.startswith(TIMM) else weights_name(source)
        if (row := f"{PRETRAINED}-{name}") in found:
            raise UserError(
                f"{comparison.location('frozen')}: two networks are named {name}; leave one out, or "
                "give a copy under another name"
            )
        found[row] = source
    return found


def frozen_backbone(comparison: Comparison, source: str) -> BackboneConfig:
    """Return the backbone of a network that is scored as it is.

    Raises:
        UserError: there is no such network, or it is not one of ssl-zoo or timm.
    """
    location = comparison.location("frozen")
    if source.startswith(TIMM):
        data = SettingsSource({"data": comparison.encoder_config(0).data.model_dump()}, location)
        named = {"name": source.removeprefix(TIMM), "pretrained": True}
        base = [data, SettingsSource({"backbone": named}, location)]
        return load_encoder_config(base=base).backbone
    settings = network_settings(source, location)
    if settings is None:
        raise UserError(
            f"{location}: {source} is neither a run nor its weights, so its network is not known; "
            "train or evaluate with --from FILE --backbone NAME"
        )
    return BackboneConfig(**settings["backbone"], weights=source)


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
