"""The shipped tasks pass the conformance suite, in their variants and on another backbone."""

from __future__ import annotations

import pytest

from ssl_zoo.testing import Check, parametrize_with_checks
from ssl_zoo.testing.check_data import TINY
from ssl_zoo_vision.clustering.deepcluster_v2 import DeepClusterV2
from ssl_zoo_vision.clustering.swav import SwAV
from ssl_zoo_vision.contrastive.densecl import DenseCL
from ssl_zoo_vision.contrastive.moco import MoCo
from ssl_zoo_vision.contrastive.moco_v3 import MoCoV3
from ssl_zoo_vision.contrastive.nnclr import NNCLR
from ssl_zoo_vision.contrastive.npid import NPID
from ssl_zoo_vision.contrastive.pixpro import PixPro
from ssl_zoo_vision.contrastive.simclr import SimCLR
from ssl_zoo_vision.contrastive.supcon import SupCon
from ssl_zoo_vision.distillation.byol import BYOL
from ssl_zoo_vision.distillation.dino import DINO
from ssl_zoo_vision.distillation.dinov2 import DINOv2
from ssl_zoo_vision.distillation.ibot import IBOT
from ssl_zoo_vision.distillation.msn import MSN
from ssl_zoo_vision.distillation.pretrained_teacher import Distillation
from ssl_zoo_vision.distillation.simsiam import SimSiam
from ssl_zoo_vision.masked.inpainting import Inpainting
from ssl_zoo_vision.predictive.rotation import Rotation
from ssl_zoo_vision.redundancy.barlow_twins import BarlowTwins
from ssl_zoo_vision.redundancy.lejepa import LeJEPA
from ssl_zoo_vision.redundancy.tico import TiCo
from ssl_zoo_vision.redundancy.vicreg import VICReg
from ssl_zoo_vision.redundancy.w_mse import WMSE
from ssl_zoo_vision.supervised import Supervised

VIT = {"name": "test_vit", "options": {"patch_size": 4}}
SMALL_HEAD = {"prototypes": 64, "hidden": 64, "out": 32}


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


@parametrize_with_checks(SimSiam, options={"hidden": 32, "out": 64})
def test_simsiam(check: Check) -> None:
    check()


@parametrize_with_checks(DINO, options=SMALL_HEAD)
def test_dino(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(DINO, options={**SMALL_HEAD, "local": 2, "train_gain": True})
def test_dino_with_small_crops(check: Check) -> None:
    check()


@parametrize_with_checks(IBOT, options=SMALL_HEAD, backbone=VIT)
def test_ibot(check: Check) -> None:
    check()


@parametrize_with_checks(DINOv2, options=SMALL_HEAD, backbone=VIT)
def test_dinov2(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(DINOv2, options={**SMALL_HEAD, "local": 2, "centring": "centre"}, backbone=VIT)
def test_dinov2_with_a_centre_and_small_crops(check: Check) -> None:
    check()


@parametrize_with_checks(MSN, options=SMALL_HEAD, backbone=VIT)
def test_msn(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(MSN, options={**SMALL_HEAD, "local": 2}, backbone=TINY)
def test_msn_of_a_convolutional_network_with_small_crops(check: Check) -> None:
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


@parametrize_with_checks(BarlowTwins, options={"hidden": 32, "out": 32})
def test_barlow_twins(check: Check) -> None:
    check()


@parametrize_with_checks(VICReg, options={"hidden": 32, "out": 32})
def test_vicreg(check: Check) -> None:
    check()


@parametrize_with_checks(WMSE, options={"hidden": 32, "out": 4})
def test_w_mse(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(WMSE, options={"hidden": 32, "out": 4, "slice": 8, "number": 4})
def test_w_mse_with_four_views_in_slices(check: Check) -> None:
    check()


@parametrize_with_checks(TiCo, options={"hidden": 64, "out": 32})
def test_tico(check: Check) -> None:
    check()


@parametrize_with_checks(LeJEPA, options={"hidden": 64, "out": 16, "directions": 32})
def test_lejepa(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(
    LeJEPA, options={"hidden": 64, "out": 16, "directions": 32, "local": 2, "local_size": 0.5}
)
def test_lejepa_with_small_crops(check: Check) -> None:
    check()


@parametrize_with_checks(SwAV, options={"hidden": 32, "out": 16, "prototypes": 16, "queue": 24})
def test_swav(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(
    SwAV,
    options={"hidden": 32, "out": 16, "prototypes": 16, "queue": 0, "local": 2, "local_size": 0.5},
)
def test_swav_with_small_crops_and_no_queue(check: Check) -> None:
    check()


@parametrize_with_checks(DeepClusterV2, options={"hidden": 32, "out": 16, "prototypes": 4})
def test_deepcluster_v2(check: Check) -> None:
    check()


@parametrize_with_checks(Distillation, options={"queue": 24})
def test_distillation(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(Distillation, options={"queue": 24, "places": 0})
def test_distillation_of_images_alone(check: Check) -> None:
    check()
