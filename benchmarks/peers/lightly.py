"""lightly as its documentation shows SimCLR.

`SimCLRTransform` on PIL images in a `DataLoader` of two workers, `SimCLRProjectionHead`, `NTXentLoss`;
one pass for each view, which is so normalised alone, as in its example. Gray images are PIL images of
mode "L", which all its steps take.
"""

from __future__ import annotations

from ssl_zoo.runtime.device import Device

from .loop import Loop, Pictures, Transform
from .setting import Setting, Views


def lightly_transform(views: Views) -> Transform:
    """Build the augmentation of lightly's own parts, with ssl-zoo's parameters."""
    from lightly.transforms import SimCLRTransform

    brightness, contrast, saturation, hue = views.jitter
    transform: Transform = SimCLRTransform(
        input_size=views.size,
        cj_prob=views.jitter_p,
        cj_strength=1.0,
        cj_bright=brightness,
        cj_contrast=contrast,
        cj_sat=saturation,
        cj_hue=hue,
        min_scale=views.scale[0],
        random_gray_scale=views.grayscale_p,
        gaussian_blur=views.blur_p,
        sigmas=views.sigma,
        hf_prob=views.flip,
        normalize={"mean": list(views.mean), "std": list(views.std)},
    )
    return transform


def unfit(setting: Setting) -> str | None:
    """Return why lightly cannot take the settings, or None."""
    if setting.views.scale[1] != 1:
        return "task.crop_scale: its crops reach to the whole image; let it end with 1"
    return None


def build(setting: Setting, epochs: float, device: Device) -> Loop:
    """Return the loop with a new network and started workers."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    return Loop(
        setting,
        Pictures(setting.images(), lightly_transform(setting.views)),
        lambda widths: SimCLRProjectionHead(*widths),
        NTXentLoss(temperature=setting.temperature),
        device,
        epochs,
        both_at_once=False,
    )
