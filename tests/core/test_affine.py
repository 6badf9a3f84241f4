"""Random moves: torchvision's operation and distributions, and where they take the place of crops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF

from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec, Moves
from ssl_zoo.views import RandomAffine, RandomResizedCrop, Rng
from ssl_zoo.views import functional as F

DIGITS = ImageSpec(channels=1, size=16, mean=(0.3,), std=(0.4,), mirror=False, moves=Moves())


@pytest.mark.parametrize(("height", "width"), [(20, 20), (17, 23)])
def test_affine_changes_equal_those_of_torchvision(height: int, width: int) -> None:
    x = torch.rand(4, 3, height, width, generator=torch.Generator().manual_seed(0))
    angle, shear = torch.tensor([0.0, 10, -25, 3]), torch.tensor([0.0, 5, -12, 0])
    shift = torch.tensor([[0.0, 0], [1.5, -0.5], [0, 2], [-1, 1]])
    scale = torch.tensor([1.0, 1.1, 0.8, 1.3])
    ours = F.affine(x, angle, shift, scale, shear)
    for i, image in enumerate(x):
        theirs = TF.affine(
            image, float(angle[i]), shift[i].tolist(), float(scale[i]), [float(shear[i]), 0.0],
            interpolation=TF.InterpolationMode.BILINEAR,
        )  # fmt: skip
        torch.testing.assert_close(ours[i], theirs, atol=2e-5, rtol=0)


def test_moves_are_drawn_in_the_ranges_of_torchvision() -> None:
    x = torch.zeros(4000, 1, 10, 20)
    drawn = RandomAffine(16, degrees=12, translate=0.1, scale=(0.8, 1.2), shear=6, flip=0.25).draw(
        x, Rng(0)
    )
    share = torch.linspace(0.1, 0.9, 9)
    torch.testing.assert_close(drawn.angle.quantile(share), 24 * share - 12, atol=0.6, rtol=0)
    torch.testing.assert_close(drawn.scale.quantile(share), 0.8 + 0.4 * share, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.shear.quantile(share), 12 * share - 6, atol=0.3, rtol=0)
    reference = T.RandomAffine(12, (0.1, 0.1), (0.8, 1.2), 6)  # also uniform, between the same ends
    theirs = [reference.make_params([x[0]]) for _ in range(500)]
    for ours, name in ((drawn.angle, "angle"), (drawn.scale, "scale")):
        drawn_there = torch.tensor([float(p[name]) for p in theirs])
        assert drawn_there.max() == pytest.approx(float(ours.max()), rel=0.02)
        assert drawn_there.min() == pytest.approx(float(ours.min()), rel=0.02)
    assert drawn.shift.abs().amax(0).tolist() == pytest.approx([2.0, 1.0], rel=0.01)  # of 20 and of 10
    assert drawn.flip.float().mean() == pytest.approx(0.25, abs=0.03)


def test_no_move_is_a_resize() -> None:
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = RandomAffine(8)(x, Rng(0))
    torch.testing.assert_close(moved, x, atol=1e-6, rtol=0)
    assert RandomAffine(16)(x, Rng(0)).shape == (2, 1, 16, 16)


def test_moves_take_the_place_of_crops_where_they_keep_the_meaning_and_crops_do_not() -> None:
    photos = replace(DIGITS, moves=None)
    assert isinstance(CropOptions().crop(DIGITS), RandomAffine)
    assert isinstance(CropOptions().crop(photos), RandomResizedCrop)
    assert isinstance(CropOptions(moves=False).crop(DIGITS), RandomResizedCrop)
    assert isinstance(CropOptions(moves=True).crop(photos), RandomAffine)
    # A small crop shows a part of the image on purpose.
    assert isinstance(CropOptions().crop(DIGITS, size=8, scale=(0.1, 0.3)), RandomResizedCrop)


def test_the_moves_of_data_are_kept_with_a_network() -> None:
    assert ImageSpec.from_header(DIGITS.to_header()) == DIGITS
    photos = replace(DIGITS, moves=None)
    assert photos.adopt(DIGITS).moves == Moves()
    assert DIGITS.adopt(photos).moves is None
