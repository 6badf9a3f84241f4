"""The shipped tasks pass the conformance suite, in their variants and on another backbone."""

from __future__ import annotations

import pytest

from ssl_zoo.testing import Check, parametrize_with_checks
from ssl_zoo_vision.contrastive.densecl import DenseCL
from ssl_zoo_vision.contrastive.moco import MoCo
from ssl_zoo_vision.contrastive.moco_v3 import MoCoV3
from ssl_zoo_vision.contrastive.nnclr import NNCLR
from ssl_zoo_vision.contrastive.npid import NPID
from ssl_zoo_vision.contrastive.pixpro import PixPro
from ssl_zoo_vision.contrastive.simclr import SimCLR
from ssl_zoo_vision.contrastive.supcon import SupCon
from ssl_zoo_vision.distillation.byol import BYOL
from ssl_zoo_vision.masked.inpainting import Inpainting
from ssl_zoo_vision.predictive.rotation import Rotation
from ssl_zoo_vision.supervised import Supervised

VIT = {"name": "test_vit", "options": {"patch_size": 4}}


@parametrize_with_checks(SimCLR)
def test_simclr(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(SimCLR, options={"decoupled": True})
def test_decoupled_simclr(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(SimCLR, backbone=VIT)
def test_simclr_of_a_transformer(check: Check) -> None:
    check()


@parametrize_with_checks(MoCo, options={"queue": 24})
def test_moco(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(MoCo, options={"symmetric": True, "head": "linear", "key_groups": 4})
def test_symmetric_moco_with_a_linear_head(check: Check) -> None:
    check()


@parametrize_with_checks(SupCon)
def test_supcon(check: Check) -> None:
    check()


@parametrize_with_checks(MoCoV3, options={"hidden": 64, "out": 32})
def test_moco_v3(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(MoCoV3, options={"hidden": 64, "out": 32}, backbone=VIT)
def test_moco_v3_of_a_transformer(check: Check) -> None:
    check()


@parametrize_with_checks(NNCLR, options={"hidden": 64, "predictor": 64, "out": 32, "queue": 24})
def test_nnclr(check: Check) -> None:
    check()


@parametrize_with_checks(NPID)
def test_npid(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(NPID, options={"negatives": 64})
def test_npid_with_drawn_negatives(check: Check) -> None:
    check()


@parametrize_with_checks(DenseCL, options={"queue": 24})
def test_densecl(check: Check) -> None:
    check()


@parametrize_with_checks(PixPro, options={"hidden": 64, "out": 32})
def test_pixpro(check: Check) -> None:
    check()


@parametrize_with_checks(BYOL, options={"hidden": 64, "out": 32})
def test_byol(check: Check) -> None:
    check()


@parametrize_with_checks(Rotation)
def test_rotation(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(Rotation, options={"stage": -2})
def test_rotation_with_features_of_a_middle_stage(check: Check) -> None:
    check()


@parametrize_with_checks(Inpainting, options={"hidden": 32})
def test_inpainting(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(Inpainting, options={"hidden": 32, "adversarial": 0.1, "region": "centre"})
def test_inpainting_against_a_critic(check: Check) -> None:
    check()


@parametrize_with_checks(Supervised)
def test_supervised(check: Check) -> None:
    check()
