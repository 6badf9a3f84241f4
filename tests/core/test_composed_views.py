"""Augmentations that are composed in a configuration, from transforms by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ssl_zoo.views
from ssl_zoo.config.load import dump_config, load_config
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.options import CropOptions
from ssl_zoo.plugins.registry import registry
from ssl_zoo.spec import ImageSpec
from ssl_zoo.views import (
    Compose,
    Normalise,
    RandomHorizontalFlip,
    RandomQuarterTurn,
    RandomResizedCrop,
    RandomVerticalFlip,
    Rng,
)
from ssl_zoo.views.named import build_transform, named_transforms, parameters
from ssl_zoo_vision.augmentation import (
    AsymmetricViewOptions,
    Crops,
    MultiCropOptions,
    SymmetricViewOptions,
)
from ssl_zoo_vision.predictive.rotation import Rotation
from tests.conftest import Call
from tests.vision.tiny_tasks import tiny

SPEC = ImageSpec(channels=3, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
CROP, GRAY = "random_resized_crop", {"random_grayscale": {"p": 0.2}}


def photos(n: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, 20, 20), generator=generator, dtype=torch.uint8)


def jitter(*strengths: float) -> dict[str, Any]:
    names = ("brightness", "contrast", "saturation", "hue")
    return {"color_jitter": {**dict(zip(names, strengths, strict=True)), "p": 0.8}}


def blur(p: float) -> dict[str, Any]:
    return {"gaussian_blur": {"p": p}}


def solarise(p: float) -> dict[str, Any]:
    return {"random_solarise": {"p": p}}


def alike(a: Any, b: Any) -> bool:
    """Return whether two augmentations give the same views of the same images, to the bit."""
    pairs = zip(a(photos(), Rng(3)), b(photos(), Rng(3)), strict=True)
    return all(x.equal(y) for x, y in pairs)


# ---- turns and mirrorings


@pytest.mark.parametrize(
    ("transform", "operations"),
    [
        (RandomHorizontalFlip(), (lambda x: x, lambda x: x.flip(2))),
        (RandomVerticalFlip(), (lambda x: x, lambda x: x.flip(1))),
        (RandomQuarterTurn(), tuple(lambda x, k=k: torch.rot90(x, k, (1, 2)) for k in range(4))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_image_is_moved_as_drawn_and_each_way_as_often(transform: Any, operations: Any) -> None:
    x = photos(4000)
    (drawn,) = transform.draw(x, Rng(0))
    counts = drawn.long().bincount(minlength=len(operations)) / len(x)
    assert (counts - 1 / len(operations)).abs().max() < 0.03  # 4 deviations
    moved = transform(x[:16], Rng(1))
    (drawn,) = transform.draw(x[:16], Rng(1))
    for image, own, way in zip(x / 255, moved, drawn.tolist(), strict=False):
        assert own.equal(operations[way](image))
    with pytest.raises(Unsuitable, match="square images, not 10×20"):
        RandomQuarterTurn()(x[:, :, :10], Rng(0))


# ---- transforms by name


def test_every_transform_has_a_name_and_its_own_defaults() -> None:
    named = named_transforms()
    classes = {getattr(ssl_zoo.views, name) for name in ssl_zoo.views.__all__}
    transforms = {c for c in classes if dataclasses.is_dataclass(c) and hasattr(c, "apply")}
    assert {*named.values()} == transforms - {Normalise}
    assert (named["random_quarter_turn"], named[CROP]) == (RandomQuarterTurn, RandomResizedCrop)
    for name, cls in named.items():
        defaults = parameters(name)().model_dump()
        assert build_transform(name, defaults, size=9, spec=SPEC) == (
            cls(size=9) if "size" in {f.name for f in dataclasses.fields(cls)} else cls()
        )


def test_the_papers_views_by_name_are_the_papers_views() -> None:
    views = [CROP, jitter(0.8, 0.8, 0.8, 0.2), GRAY, blur(0.5), solarise(0)]
    composed = SymmetricViewOptions(views=views).pair(SPEC)
    assert alike(composed, SymmetricViewOptions(blur_p=0.5).pair(SPEC))

    def byols(p: float, solarised: float) -> list[Any]:
        return [CROP, jitter(0.4, 0.4, 0.2, 0.1), GRAY, blur(p), solarise(solarised)]

    kinds = Crops(1, blur_p=1.0), Crops(1, blur_p=0.1, solarise_p=0.2)
    large = dataclasses.replace(SPEC, size=65)
    composed = AsymmetricViewOptions(views=[byols(1.0, 0), byols(0.1, 0.2)]).pair(large)
    assert alike(composed, AsymmetricViewOptions().crops(large, *kinds))


def test_small_crops_keep_their_share_and_take_the_first_list() -> None:
    kinds = Crops(2, (0.3, 1.0)), Crops(3, (0.05, 0.1), size=8, blur_p=0.0)
    views = [{CROP: {"scale": [0.5, 1.0], "flip": 0}}, "random_vertical_flip"]
    made = MultiCropOptions(views=views).crops(SPEC, *kinds)
    crops = [augmentation.transforms[0] for _, augmentation in made.crops for _ in range(1)]
    assert [crop.size for crop in crops] == [16, 16, 8, 8, 8]
    assert [crop.scale for crop in crops] == [(0.5, 1.0)] * 2 + [(0.05, 0.1)] * 3
    assert {crop.flip for crop in crops} == {0}
    two = MultiCropOptions(views=[[CROP, "random_vertical_flip"], [CROP]]).crops(SPEC, *kinds)
    assert [len(augmentation.transforms) for _, augmentation in two.crops] == [3, 2, 3, 3, 3]
    assert two.crops[0][1].transforms[0].scale == (0.3, 1.0)  # the task's own, as none is given


def test_without_a_crop_images_are_resized_and_always_normalised() -> None:
    whole = CropOptions(views=[]).view(SPEC)(photos(), Rng(0))
    assert torch.allclose(whole, SPEC.prepare(photos()), atol=1e-5)
    assert isinstance(CropOptions(views=["random_quarter_turn"]).view(SPEC).transforms[-1], Normalise)


# ---- what is refused


@pytest.mark.parametrize("views", [[], [[], []]])
def test_views_without_a_transform_are_refused_where_they_would_be_equal(views: Any) -> None:
    with pytest.raises(Unsuitable, match=r"^task\.views: has no transform, so that all 2 views of"):
        SymmetricViewOptions(views=views).pair(SPEC)
    assert SymmetricViewOptions(views=[[], [CROP]]).pair(SPEC)  # one of them may be the image itself


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (
            ["gaussian_blurr"],
            "views.0: there is no transform 'gaussian_blurr'. Did you mean 'gaussian_b",
        ),
        (
            [CROP, {"gausian_blur": {}}],
            "views.1.gausian_blur: there is no transform 'gausian_blur'. Did",
        ),
        ([["warp"], [CROP]], "views.0.0: there is no transform 'warp'. There are: color_jitter, "),
        (
            [{CROP: {"scal": 1}}],
            "views.0.random_resized_crop.scal: random_resized_crop has no parameter",
        ),
        (
            [{CROP: {"size": 9}}],
            "random_resized_crop has no parameter 'size'. There are: scale, ratio, fl",
        ),
        ([blur(1.5)], "views.0.gaussian_blur.p: must be less than or equal to 1, not 1.5"),
        (
            [{"random_channel_drop": {"number": 0}}],
            "views.0.random_channel_drop.number: must be greater than or equal to 1, not 0",
        ),
        (
            [{CROP: {"scale": [1, 0.5]}}],
            "scale: must be two shares in (0, 1], the smaller one first, not",
        ),
        ([{CROP: 3}], "views.0.random_resized_crop: must be {parameter: value}, not 3"),
        ([3], "views.0: must be the name of a transform, or {name: {parameter: value}}, not 3"),
        (
            CROP,
            "views: must be a list of transforms, such as [random_resized_crop, gaussian_blur], not ",
        ),
    ],
)
def test_a_wrong_transform_is_named_with_its_place(views: Any, message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config(overrides={"task.name": "simclr", "task.views": views})
    assert f"task.{message}" in str(raised.value) or message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_options_without_effect_beside_views_are_refused() -> None:
    for name, value in (("jitter", (0, 0, 0, 0)), ("blur_p", 0.3), ("solarise_p", 0.1)):
        with pytest.raises(ValueError, match=f"{name} has no effect beside task.views"):
            AsymmetricViewOptions(views=[CROP], **{name: value})


def test_tasks_whose_views_have_a_meaning_refuse_what_hides_it() -> None:
    with pytest.raises(ValueError, match="random_quarter_turn hides the rotation to predict; leave it"):
        Rotation.Options(views=[[CROP, "random_quarter_turn"]])
    with pytest.raises(UserError, match=r"task\.views: there is no such setting"):
        load_config(overrides={"task.name": "jigsaw", "task.views": [CROP]})
    with pytest.raises(Unsuitable, match="views: this task's views are a part of what it learns"):
        CropOptions(views=[CROP]).crop(SPEC)  # as a plugin's task does that adds the rest itself
    with pytest.raises(Unsuitable, match="has 2 lists, and this task makes 1 view; give one list of"):
        SymmetricViewOptions(views=[[CROP], [CROP]]).view(SPEC)
    with pytest.raises(Unsuitable, match=r"has 2 lists, and this task makes 3 views; .* or 3 lists"):
        SymmetricViewOptions(views=[[CROP], [CROP]]).crops(SPEC, Crops(3))
    options = AsymmetricViewOptions
    for views in (
        ["random_vertical_flip", CROP],
        [CROP, "random_vertical_flip"],
        [[CROP], [CROP, CROP]],
    ):
        with pytest.raises(Unsuitable, match=r"task\.views: this task finds places again"):
            options(views=views).pair(SPEC, placed=True)
    assert options(views=[CROP, GRAY]).pair(SPEC, placed=True).is_placed
    with pytest.raises(Unsuitable, match=r"task\.moves: this task finds places again"):
        options(moves=True).pair(SPEC, placed=True)
    with pytest.raises(TypeError, match="RandomQuarterTurn: moves what the boxes tell"):
        Compose(RandomResizedCrop(8), RandomQuarterTurn()).placed(photos(), Rng(0))


# ---- from a configuration to the network


PLAIN: dict[str, dict[str, Any]] = {"autoencoder": {"noise": 0.0}}
"""Options without which a task would change the pixels of a view itself."""
TAKING = [name for name in registry.tasks() if "views" in registry.load_task(name).Options.model_fields]


def test_all_but_tasks_on_tiles_take_views_themselves_or_for_their_base() -> None:
    names = {name for name in registry.tasks() if registry.load_task(name).modality == "image"}
    assert names - {*TAKING} == {"cpc", "jigsaw", "relative-patch", "essl", "augself"}


@pytest.mark.parametrize("name", TAKING)
def test_every_task_applies_the_views_it_is_given(name: str) -> None:
    """Without a crop or a change, views of one gray value have that value, whatever the task does."""
    task = tiny(name, views=[blur(0)], **PLAIN.get(name, {}))
    spec = task.spec
    batch = torch.full((4, spec.channels, 40, 40), 51, dtype=torch.uint8)
    expected = spec.normalise(torch.full((1, spec.channels, 1, 1), 0.2))
    images = [v for v in task.views(batch, Rng(0)) if isinstance(v, Tensor) and v.ndim == 4]
    large = [v for v in images if v.shape[1:] == (spec.channels, spec.size, spec.size)]
    assert large
    for view in large:
        assert torch.allclose(view, expected.expand_as(view), atol=1e-5)


def test_a_file_of_views_is_drawn_and_read_again(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "microscopy.yaml"
    file.write_text(
        "task:\n  name: simclr\n  views:\n    - random_resized_crop: {scale: [0.5, 1.0]}\n"
        "    - random_quarter_turn\n    - gaussian_blur: {p: 0.5}\n"
    )
    config = load_config(file)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    again = load_config(tmp_path / "again.yaml")
    assert again.task == config.task
    code, _, error = call("views", "--config", file, "--rows", "2", "-o", "x.png")
    assert code == 0, error
    code, output, _ = call("views", "--transforms")
    assert (code, "- random_quarter_turn: {p: 0.75}\n" in output) == (0, True)
