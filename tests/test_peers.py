"""The comparison with other libraries: what is compared is the same, and what is missing is said."""

from pathlib import Path
from typing import NoReturn

import pytest
import torch

from benchmarks.peers import __main__ as command
from benchmarks.peers.registry import Peer
from benchmarks.peers.setting import Setting
from benchmarks.peers.solo_learn import masked_nt_xent
from benchmarks.peers.torchvision import plain_nt_xent
from ssl_zoo import load_config


def test_the_loss_in_the_style_of_solo_learn_is_that_of_the_others() -> None:
    z0, z1 = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(masked_nt_xent(0.2)(z0, z1), plain_nt_xent(0.2)(z0, z1))


def test_peers_that_are_not_installed_are_named_in_one_line_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(setting: Setting, epochs: float) -> NoReturn:
        raise AssertionError("built before it is measured")

    missing = Peer(build, "no-such-library", "pip install no-such-library")
    unfit = Peer(build, unfit=lambda setting: "train.optimizer: it takes sgd")
    peers = {"a": missing, "a, bf16": missing, "b": unfit, "c": Peer(build)}
    monkeypatch.setattr(command, "PEERS", peers)
    given = {"task.name": "simclr", "task.moves": False, "data.source": "digits"}
    setting = Setting.of(load_config(None, given), tmp_path)
    assert list(command.taking_part(list(peers), setting)) == ["c"]
    assert capsys.readouterr().out.splitlines() == [
        "left out: a; a, bf16 (no-such-library is not installed: pip install no-such-library)",
        "left out: b (train.optimizer: it takes sgd)",
    ]
