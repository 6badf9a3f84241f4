"""The estimate of a long run: by hand, and the bottleneck."""

from __future__ import annotations

import json

import pytest

from ssl_zoo.config.errors import SettingError
from ssl_zoo.tools.estimate import Cluster, Job, estimate, parse
from tests.conftest import Call


def test_imagenet_on_one_node_is_what_it_is_by_hand() -> None:
    found = estimate(Job(samples=1_281_167, labelled=1_281_167), Cluster(nodes=1, gpus=8))
    needs = {need.part: need.need for need in (*found.slowing, *found.needs)}
    # 8 · 2,500 views/s are 10,000 images/s of 110 kB, of which a core decodes 200.
    assert needs["reading"] == pytest.approx(1.10)
    assert needs["decoding"] == pytest.approx(50)
    assert needs["opening files"] == pytest.approx(10_000)
    assert needs["the network"] == 0  # one node
    assert needs["memory for lists"] == pytest.approx(8 * 500 * 1_281_167 / 1e9)
    assert needs["space"] == pytest.approx(0.141, rel=0.01)
    assert found.steps == 31_200
    assert found.hours == pytest.approx(3.56, rel=0.01)
    # 60,000 images/s could pass, but 64 cores decode 12,800.
    assert found.evaluation_hours * 3600 == pytest.approx(1_281_167 / 12_800)
    assert found.start_minutes * 60 == pytest.approx(12.8, rel=0.01)


def test_between_nodes_a_ring_sends_the_gradient_twice_and_fsdp_sends_more_and_holds_less() -> None:
    ddp, fsdp = (
        estimate(Job(samples=10**8, parallel=kind), Cluster(nodes=8, gpus=8)) for kind in ("ddp", "fsdp")
    )
    sent, more = (found.slowing[2].need for found in (ddp, fsdp))
    steps_per_s = 64 * 2500 / 2 / 4096
    assert sent == pytest.approx(2 * 112e6 * 63 / 64 * steps_per_s / 1e9)
    assert more == pytest.approx(1.5 * sent)
    assert fsdp.needs[1].need == pytest.approx(ddp.needs[1].need / 64)


def test_the_verdict_names_what_gives_first_and_lists_give_no_more_with_an_index() -> None:
    def verdict(samples: int, **figures: str) -> str:
        job, cluster = parse({"samples": str(samples), "gpus": "8", **figures})
        return estimate(job, cluster).verdict

    assert verdict(10**9) == "memory for lists is the bottleneck: it needs 7.8 times what there is."
    assert verdict(10**9, source="shards") == (
        "computing takes the time; next is decoding, of which 78% is used."
    )
    assert verdict(10**6, source="shards", cores="20") == (
        "decoding is the bottleneck: the run takes 2.5 times as long."
    )
    slow = estimate(*parse({"samples": "1000000", "source": "shards", "cores": "20"}))
    assert slow.hours == pytest.approx(2.5 * slow.computing_hours)


def test_wrong_figures_are_named() -> None:
    with pytest.raises(SettingError, match=r"view_per_s: there is no such figure. Did you mean 'views_"):
        parse({"samples": "1", "view_per_s": "2"})
    with pytest.raises(SettingError, match="gpus: must be greater than 0, not '0'"):
        parse({"samples": "1", "gpus": "0"})
    with pytest.raises(SettingError, match="source: "):
        parse({"samples": "1", "source": "floppies"})


def test_the_command_prints_a_table_and_a_sentence(call: Call) -> None:
    arguments = ("estimate", "--images", "100_000_000", "--epochs", "10", "--nodes", "8")
    code, out, _ = call(*arguments, "--set", "cores=100")
    assert code == 0
    assert "memory for lists" in out
    assert out.splitlines()[-1].startswith("Computing takes the time; next is opening files")
    code, out, _ = call(*arguments, "--source", "shards", "--json")
    assert json.loads(out)["steps"] == 244_140
