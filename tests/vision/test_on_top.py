"""ESSL and AugSelf: what they add to another task, and all that they leave to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Rng, Unsuitable
from ssl_zoo.config.load import dump_config, load_config
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.testing import Check, SyntheticImages, parametrize_with_checks
from ssl_zoo.views import ColorJitter, Drawn, GaussianBlur, Normalise, RandomAffine, RandomResizedCrop
from ssl_zoo_vision.predictive.applied import COLUMNS, by_view, compare, describe
from ssl_zoo_vision.predictive.augself import AugSelf
from ssl_zoo_vision.predictive.essl import ESSL, turn
from ssl_zoo_vision.predictive.on_top import _outputs_of, pooled
from tests.vision.small_tasks import TINY_VIT, build, photos, spec, views
from tests.vision.tiny_tasks import TINY_OPTIONS, fixed_views, tiny

BYOL = {"base": "byol", "base_options": {"hidden": 64, "out": 32}}
SIMSIAM = {"base": "simsiam", "base_options": {"hidden": 32, "out": 64}}
ALL = {"crop": 1.0, "colour": 0.5, "blur": 0.3, "flip": 0.2}


@parametrize_with_checks(ESSL, options={"hidden": 64})
def test_essl(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(ESSL, options={"hidden": 64, **BYOL})
def test_essl_on_top_of_byol(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(AugSelf, options={"hidden": 64, **ALL})
def test_augself(check: Check) -> None:
    check()


@parametrize_with_checks(AugSelf, options={"hidden": 64, **BYOL})
def test_augself_on_top_of_byol(check: Check) -> None:
    check()


# --- what is left to the other task ---


@pytest.mark.parametrize("cls", [ESSL, AugSelf])
@pytest.mark.parametrize("given", [{}, BYOL, SIMSIAM], ids=["simclr", "byol", "simsiam"])
def test_without_weight_the_loss_is_the_base_tasks_to_the_bit(cls: Any, given: dict[str, Any]) -> None:
    name = given.get("base", "simclr")
    base = build(registry.load_task(name), **given.get("base_options", {}))
    task = build(cls, hidden=16, weight=0.0, **given)
    task.base.load_state_dict(base.state_dict())
    own, all_views = views(base), views(task)
    assert all(torch.equal(a, b) for a, b in zip(own, all_views, strict=False))
    assert len(all_views) == len(own) + 1
    for progress in (0.2, 0.7):
        losses = []
        for one, drawn in ((base, own), (task, all_views)):
            one.before_step(progress)
            losses.append(one.loss(drawn).total)
            losses[-1].backward()
            one.after_step(progress)
        assert torch.equal(*losses)
    gradients = {n: p.grad for n, p in base.named_parameters() if p.grad is not None}
    for name, gradient in gradients.items():
        assert torch.equal(task.base.get_parameter(name).grad, gradient)


def test_the_term_is_added_with_its_weight_and_reaches_the_encoder() -> None:
    task = build(ESSL, hidden=16, weight=0.25).eval()
    drawn = views(task)
    losses = task.loss(drawn)
    assert losses.logs.keys() == {"base", "mi_bound", "rotation", "rotation_accuracy"}
    torch.testing.assert_close(losses.total, losses.logs["base"] + 0.25 * losses.logs["rotation"])
    term = task.term(drawn[:-1], drawn[-1], []).total
    gradient = torch.autograd.grad(term, list(task.encoder.parameters()), allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradient)


def test_rates_features_and_the_exported_network_are_the_base_tasks() -> None:
    task = build(ESSL, hidden=16, **SIMSIAM)
    constant = {name for name, _ in task.named_parameters() if task.lr_constant(name)}
    assert constant == {f"base.{n}" for n, _ in task.base.named_parameters() if task.base.lr_constant(n)}
    assert constant
    dino = build(ESSL, hidden=16, base="dino", base_options=TINY_OPTIONS["dino"])
    assert dino.exported_encoder is dino.base.exported_encoder is not dino.encoder
    x = spec().normalise(photos(2, 16) / 255)
    assert torch.equal(dino.eval().features(x), dino.exported_encoder(x))


def test_the_recipe_is_that_of_the_base(tmp_path: Any) -> None:
    data = {"data.source": str(tmp_path)}
    default = load_config(overrides={"task.name": "essl", **data})
    assert (default.train.optimizer, default.train.lr) == ("lars", 0.3)
    settings = {"task.name": "augself", "task.base": "simsiam", **data}
    config = load_config(overrides=settings, sets=["task.base_options={out: 64}"])
    assert (config.train.optimizer, config.train.lr) == ("momentum", 0.05)
    assert load_config(overrides={**settings, "train.lr": 0.2}).train.lr == 0.2
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
    options = config.task.option_values()["base_options"]
    assert (options["out"], options["hidden"]) == (64, 512)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["task.base=simclrr"], r"task\.base: .*simclr"),
        (["task.base=npid"], r"task\.base: task 'npid' needs index, which cannot be passed on"),
        (["task.base=supervised"], r"task\.base: task 'supervised' needs labels"),
        (["task.base_options={temperature: -1}"], r"task\.base_options\.temperature: .*greater than 0"),
        (["task.base_options={temprature: 1}"], r"task\.base_options\.temprature: "),
    ],
)
def test_a_wrong_base_or_option_is_refused_in_one_line(sets: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(overrides={"task.name": "essl"}, sets=sets)
    assert "\n" not in str(error.value)


def test_augself_refuses_a_base_without_two_views() -> None:
    with pytest.raises(Unsuitable, match=r"^task\.base: 'rotation' makes no two views"):
        build(AugSelf, base="rotation")
    with pytest.raises(Unsuitable, match=r"^task\.crop: all weights are 0"):
        build(AugSelf, crop=0, colour=0)


# --- ESSL ---


def test_each_small_crop_is_seen_in_all_four_turns() -> None:
    task = build(ESSL, 32, hidden=16).eval()
    *_, small = views(task, 3)
    assert small.shape == (3, 3, 16, 16)
    logits = [task.logits(torch.rot90(small, k, (2, 3))) for k in range(4)]
    expected = sum(F.cross_entropy(logits[k], torch.full((3,), k)) for k in range(4)) / 4
    torch.testing.assert_close(task.term((), small, []).total, expected)


def test_turned_images_are_turned_back() -> None:
    x = torch.rand(6, 3, 8, 8)
    quarters = torch.arange(6)
    turned = turn(x, quarters)
    assert all(torch.equal(turned[i], torch.rot90(x[i], i, (1, 2))) for i in range(6))
    assert torch.equal(turn(turned, -quarters), x)


def test_a_transformers_small_crop_is_a_whole_number_of_patches() -> None:
    images = SyntheticImages(TINY_VIT, 16, any_size=True)
    task = ESSL(images.encoder(), ESSL.Options(hidden=16, size=0.6), images.spec)
    assert views(task, 2)[-1].shape == (2, 3, 8, 8)


# --- AugSelf ---


def drawn_views(given: list[Any], size: int = 20) -> list[list[Drawn]]:
    rng, drawn = Rng(0).recording()
    for transform in given:
        transform(photos(6, size), rng)
    return by_view(drawn)


def test_recording_changes_no_random_number() -> None:
    task = build(registry.load_task("byol"))
    rng, drawn = Rng(4).recording()
    recorded, plain = task.views(photos(), rng), task.views(photos(), Rng(4))
    assert all(torch.equal(a, b) for a, b in zip(recorded, plain, strict=True))
    assert [len(view) for view in by_view(drawn)] == [6, 6]
    for view, x in zip(by_view(drawn), recorded, strict=True):
        again = photos()
        for transform, parameters, shape in view:
            assert again.shape == shape
            again = transform.apply(again, parameters)  # type: ignore[attr-defined]
        assert torch.equal(again, x)


def test_equal_changes_differ_by_nothing_and_exchanged_views_by_the_opposite() -> None:
    task = build(AugSelf, 32, base_options={"blur_p": 0.5})
    rng, drawn = Rng(1).recording()
    task.base.views(photos(32), rng)
    first, second = (describe(view, photos(32)) for view in by_view(drawn))
    same = compare(first, first)
    assert (same[:, :9] == 0).all()
    assert (same[:, 9] == 1).all()
    one, other = compare(first, second), compare(second, first)
    assert torch.equal(one[:, :9], -other[:, :9])
    assert torch.equal(one[:, 9], other[:, 9])
    assert (one[:, :9] != 0).any(0).all()
    assert set(one[:, 9].tolist()) == {0.0, 1.0}
    assert one[:, :9].abs().max() <= 1
    assert torch.equal(views(task, 8, seed=3)[-1], views(task, 8, seed=3)[-1])


def test_a_crop_is_told_by_its_centre_and_size_as_in_the_mirrored_image() -> None:
    normalise = Normalise(spec())
    for flip in (0.0, 1.0):
        crop = RandomResizedCrop(8, flip=flip)
        rng, drawn = Rng(2).recording()
        normalise(crop(photos(6, 20), rng), rng)
        (view,) = by_view(drawn)
        found, box = describe(view, photos(6)), view[0].parameters
        for i in range(6):
            x = (box.left[i] + box.width[i] / 2) / 20
            y = (box.top[i] + box.height[i] / 2) / 20
            expected = [1 - x if flip else x, y, box.width[i] / 20, box.height[i] / 20]
            torch.testing.assert_close(found[i, :4], torch.tensor(expected))
        assert (found[:, 9] == flip).all()


def test_colours_and_blur_are_told_as_shares_of_their_ranges_and_0_where_not_applied() -> None:
    jitter, blur = ColorJitter(0.4, 0.8, 1.5, 0.1, p=0.5), GaussianBlur(sigma=(0.1, 2.0), p=0.5)
    rng, drawn = Rng(0).recording()
    Normalise(spec())(blur(jitter(photos(64), rng), rng), rng)
    (view,) = by_view(drawn)
    found, changed, blurred = describe(view, photos(64)), view[0].parameters, view[1].parameters
    spans = {"brightness": 0.8, "contrast": 1.6, "saturation": 2.5}
    for column, (name, span) in enumerate(spans.items(), 4):
        torch.testing.assert_close(found[:, column], (getattr(changed, name) - 1) / span)
    torch.testing.assert_close(found[:, 7], changed.hue / 0.2)
    torch.testing.assert_close(found[:, 8], blurred.sigma / 2)
    assert (found[~changed.applied, 4:8] == 0).all()
    assert (found[~blurred.applied, 8] == 0).all()
    assert (found[:, :2] == 0.5).all()
    assert (found[:, 2:4] == 1).all()


def test_small_moves_are_told_as_the_part_that_they_show() -> None:
    rng, drawn = Rng(0).recording()
    move = RandomAffine(20, degrees=0, translate=0.3, scale=(0.5, 2.0), flip=0.5)
    Normalise(spec())(move(photos(6), rng), rng)
    (view,) = by_view(drawn)
    found, moved = describe(view, photos(6)), view[0].parameters
    torch.testing.assert_close(found[:, 0], 0.5 - moved.shift[:, 0] / 20)
    torch.testing.assert_close(found[:, 2], 1 / moved.scale)
    assert torch.equal(found[:, 9], moved.flip.float())


def test_the_term_is_the_weighted_error_of_both_orders() -> None:
    task = build(AugSelf, hidden=16, **ALL).eval()
    *own, target = views(task)
    y1, y2 = (task.encoder(x) for x in own)
    expected = torch.zeros(())
    for name, weight in ALL.items():
        there, back = (task.heads[name](torch.cat(pair, 1)) for pair in ((y1, y2), (y2, y1)))
        wanted = target[:, COLUMNS[name]]
        if name == "flip":
            errors = [F.binary_cross_entropy(a.sigmoid(), wanted) for a in (there, back)]
        else:
            errors = [F.mse_loss(there.tanh(), wanted), F.mse_loss(back.tanh(), -wanted)]
        expected = expected + weight * sum(errors) / 2
    losses = task.loss((*own, target))
    torch.testing.assert_close(losses.total - losses.logs["base"], expected, atol=1e-5, rtol=1e-4)


def test_a_picture_of_augself_has_the_difference_and_the_answer_of_each_sample() -> None:
    task = build(AugSelf, hidden=16, crop=1.0, colour=0.0, flip=1.0).eval()
    *own, difference = views(task)
    asked = task.gallery((*own, difference))["difference"]
    answered = task.reconstructions((*own, difference))["predicted"]
    logit = task.heads["flip"](torch.cat([task.encoder(x) for x in own], 1)).detach()
    for text, answer, x, same in zip(asked, answered, difference, logit.sigmoid(), strict=True):
        lines = [f"{name} {100 * float(x[i]):+.0f} %" for name, i in (("x", 0), ("y", 1))]
        assert text.splitlines()[:2] == lines
        assert text.splitlines()[-1] == f"same flip {100 * float(x[9]):+.0f} %"
        assert answer.splitlines()[-1] == f"same flip {100 * float(same):+.0f} %"


PAIRS = [
    name
    for name in sorted(registry.tasks())
    if (cls := registry.load_task(name)).modality == "image"
    and not cls.needs
    and name not in ("essl", "augself", "distillation")
    and "pair" in dir(cls.Options)
]


LOCAL = [name for name in PAIRS if "local" in registry.load_task(name).Options.model_fields]


@pytest.mark.parametrize(
    ("name", "options"), [*((n, {}) for n in PAIRS), *((n, {"local": 2}) for n in LOCAL)]
)
def test_features_that_the_base_has_computed_are_those_of_its_first_two_views(
    name: str, options: dict[str, Any]
) -> None:
    task = tiny(name, size=16, dtype=torch.float32, **options).eval()
    drawn: tuple[Tensor, ...] = fixed_views(task)
    with _outputs_of(task.encoder, drawn[0].shape[1:]) as outputs:
        task.loss(drawn)
    for features, view in zip(pooled(task.encoder, drawn, outputs), drawn, strict=False):
        torch.testing.assert_close(features, task.encoder(view), atol=1e-4, rtol=1e-4)
