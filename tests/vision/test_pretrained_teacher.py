"""Distillation learns how alike a frozen teacher finds images, and never touches the teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.runs.backbone import write_backbone
from ssl_zoo.spec import Spec
from ssl_zoo.task import Encoder
from ssl_zoo_vision.distillation.frozen import FrozenTeacher
from ssl_zoo_vision.distillation.pretrained_teacher import Distillation, queue_size
from ssl_zoo_vision.distillation.similarity import similarity_loss
from tests.vision.small_tasks import TINY_RESNET, build, spec, views


def unit(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=-1)


def test_the_loss_is_0_for_a_student_that_is_its_teacher() -> None:
    t, keys = unit(1, 6, 4), unit(1, 9, 4, seed=1)
    assert similarity_loss(t, t, keys, keys).item() == pytest.approx(0, abs=1e-15)


def test_the_loss_ignores_a_rotation_of_both_and_of_what_they_are_compared_with() -> None:
    s, t, keys = unit(1, 6, 4), unit(1, 6, 4, seed=1), unit(1, 9, 4, seed=2)
    rotation = torch.linalg.qr(unit(4, 4, seed=3))[0]
    loss = similarity_loss(s, t, keys, keys)
    rotated = similarity_loss(s @ rotation, t @ rotation, keys @ rotation, keys @ rotation)
    assert loss > 0.1
    torch.testing.assert_close(rotated, loss)


def test_a_student_with_the_teachers_weights_and_heads_that_change_nothing_has_no_loss() -> None:
    task = build(Distillation, backbone=BackboneConfig(name="test_resnet"), queue=16)
    task.encoder = task.teacher.encoder
    task.head = task.place_head = torch.nn.Identity()
    losses = task.loss(views(task))
    assert losses.total.item() == pytest.approx(0, abs=1e-5)
    assert set(losses.logs) == {"images", "places"}


def test_an_image_is_compared_with_the_batch_itself_too(monkeypatch: pytest.MonkeyPatch) -> None:
    task = build(Distillation, queue=16)
    seen: list[Tensor] = []

    def loss(s: Tensor, t: Tensor, s_keys: Tensor, t_keys: Tensor, temperature: float) -> Tensor:
        seen.append(t_keys)
        return similarity_loss(s, t, s_keys, t_keys, temperature)

    monkeypatch.setattr("ssl_zoo_vision.distillation.pretrained_teacher.similarity_loss", loss)
    task.loss(views(task))
    assert [len(keys[0]) for keys in seen] == [8 + 16, 4]  # images, then an image's own 2 × 2 places


def test_a_run_as_the_teacher_sees_images_in_its_own_size_and_normalisation(tmp_path: Path) -> None:
    own = replace(spec(24, 1), mean=(0.3,), std=(0.2,))
    torch.manual_seed(1)
    encoder = create_backbone(TINY_RESNET, own).eval()
    write_backbone(tmp_path / "backbone.safetensors", encoder, TINY_RESNET, own)
    teacher = FrozenTeacher(Distillation.Options(weights=str(tmp_path / "backbone.safetensors")), spec())
    images = torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0))
    pooled, places = teacher(spec().prepare(images))  # the student takes colours
    torch.testing.assert_close(pooled, encoder(own.prepare(images)), rtol=1e-4, atol=1e-5)
    assert places.shape[:2] == (4, teacher.place_width)


def test_a_timm_teacher_sees_images_of_the_size_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_download(config: BackboneConfig, spec: Spec, seed: int) -> Encoder:
        return build_encoder(config.untrained(), spec, seed)

    monkeypatch.setattr("ssl_zoo_vision.distillation.frozen.build_encoder", without_download)
    for size, places in ((None, 14 * 14), (64, 4 * 4)):
        options = Distillation.Options(
            teacher="vit_tiny_patch16_224", pretrained=True, teacher_size=size
        )
        teacher = FrozenTeacher(options, spec())
        assert (teacher.own.mean, teacher.own.std) == ((0.5,) * 3, (0.5,) * 3)  # not ImageNet's
        assert teacher.own.interpolation == "bicubic"
        assert (
            teacher(torch.rand(2, 3, 16, 16))[1].shape[2:].numel() == places == teacher.number_of_places
        )


def test_no_row_of_the_queue_is_0_at_first_which_every_image_would_find_alike() -> None:
    features = build(Distillation, queue=16).queue.features
    torch.testing.assert_close(features.norm(dim=1), torch.ones(16))


def test_the_teacher_is_left_out_of_checkpoints_and_of_training() -> None:
    task = build(Distillation, queue=16).train()
    assert not any("teacher" in name for name in task.state_dict())
    assert not any(p.requires_grad for p in task.teacher.parameters())
    assert not any(m.training for m in task.teacher.encoder.modules())


def test_an_untrained_teacher_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    build(Distillation, queue=16)
    assert "untrained" in caplog.text
    assert "task.pretrained=true" in caplog.text


@pytest.mark.parametrize(
    ("samples", "size"), [(2, 16), (50, 16), (4000, 1024), (10_000, 2048), (20_000, 4096), (10**6, 8192)]
)
def test_the_queue_fits_the_data_as_in_lightly_train(samples: int, size: int) -> None:
    assert queue_size(samples) == size
