"""BEiT's classes: codes of patches, and that of flat ones."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ssl_zoo import UserError
from ssl_zoo_vision.codes import PatchCodes
from ssl_zoo_vision.masked.beit import BEiT
from ssl_zoo_vision.patches import take
from tests.vision.test_masked import build, views_of


def test_a_patch_has_the_code_nearest_to_its_normalised_projection() -> None:
    codes = PatchCodes(12, 7, 5)
    patches = torch.randn(2, 3, 12)
    found = codes(patches)
    for image in range(2):
        for place in range(3):
            patch = patches[image, place]
            normal = (patch - patch.mean()) / (patch.var(correction=0) + 1e-5).sqrt()
            z = normal @ codes.projection
            distances = (z / z.norm() - codes.codes).norm(dim=1)
            assert found[image, place] == distances.argmin()


def test_codes_are_of_the_clean_image_and_the_first_loss_is_that_of_chance() -> None:
    task = build(BEiT, 32, codes=64)
    x, hidden = views_of(task, 32)
    labels = task.tokenizer(task.grid.patches(x)).gather(1, hidden)
    logits = task.predict(x, hidden)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    losses = task.loss((x, hidden))
    torch.testing.assert_close(losses.total, expected)
    assert losses.total.item() == pytest.approx(math.log(65), rel=0.05)
    assert task.chance_loss == math.log(65)
    share = labels.flatten().bincount(minlength=65) / labels.numel()
    torch.testing.assert_close(losses.logs["label_entropy"], torch.special.entr(share).sum())


def test_codes_of_k_means_are_the_means_of_the_patches_on_the_sphere() -> None:
    task = build(BEiT, codes=4, tokenizer="kmeans")
    x, hidden = views_of(task, 16)
    task.before_training(iter([(x, hidden)]))
    patches = task.grid.patches(x)
    rows, labels = task.tokenizer.projected(patches).flatten(0, 1), task.tokenizer(patches).flatten()
    again = torch.stack([F.normalize(rows[labels == k].sum(0), dim=0) for k in range(4)])
    assert (again * task.tokenizer.codes).sum(1).min() > 0.97  # Lloyd's algorithm is near its end


def test_flat_patches_have_a_class_of_their_own_and_take_no_code() -> None:
    patches = torch.randn(4, 50, 12)
    patches[:, :20] = 0.3
    codes = PatchCodes(12, 16, None)
    codes.cluster(iter([patches]))
    torch.testing.assert_close(codes.codes.norm(dim=1), torch.ones(16))
    found = codes(patches)
    assert (found[:, :20] == 16).all()
    assert found[:, 20:].unique().tolist() == list(range(16))
    assert torch.equal(codes.of_classes(found)[:, :20], torch.zeros(4, 20, 12))
    assert torch.equal(codes.of_classes(found)[:, 20:], codes.codes[found[:, 20:]])
    with pytest.raises(UserError, match=r"^task\.codes: 120 patches that are not flat cannot form 121 "):
        PatchCodes(12, 121, None).cluster(iter([patches]))


def test_beits_answers_are_as_bright_as_what_is_hidden() -> None:
    task = build(BEiT, codes=8)
    x, hidden = views_of(task)
    asked, answers = take(task.grid.patches(x), hidden), task.answers((x, hidden))
    for of_patch in (torch.mean, torch.std):
        torch.testing.assert_close(of_patch(answers, 2), of_patch(asked, 2), rtol=1e-3, atol=1e-3)
