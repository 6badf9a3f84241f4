"""Evaluation takes as many samples at a time as training does and memory holds, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.errors import SslZooError, notes
from ssl_zoo.evaluation import Subject
from ssl_zoo.evaluation.features import extract
from ssl_zoo.evaluation.finetune import finetune
from ssl_zoo.notices import collect_notices
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.backbone import load_backbone
from ssl_zoo.runs.build import build_data
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.eval_batch import EvalBatch
from ssl_zoo.training import train
from tests import processes
from tests.conftest import KNN, Call, flags, small_config

CPU = torch.device("cpu")
SMALL_BYTES, LARGE_BYTES = 32 * 32 * 3, 293 * 293 * 3


class Memory:
    """Memory for some samples at a time, in every convolution of this process.

    Attributes:
        samples: how many fit.
    """

    samples = 8

    def check(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Raise as CUDA does where memory is out."""
        if isinstance(module, nn.Conv2d) and len(inputs[0]) > self.samples:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Memory for eight samples at a time, until it is changed."""
    limit = Memory()
    handle = nn.modules.module.register_module_forward_pre_hook(limit.check)
    yield limit
    handle.remove()


# Two views of four images in a step.
FOUR = [*KNN, *flags("simclr", train__batch_size=4, train__samples=8, train__epochs="null")]


# ---- the rule


def test_large_images_are_evaluated_as_many_at_a_time_as_are_trained_on() -> None:
    device = Device.choose(small_config("simclr", train__batch_size=4).train)
    assert device.eval_batch.size(LARGE_BYTES) == 4
    parts = small_config("simclr", train__cached_gradients=True, train__part_size=16)
    assert Device.choose(parts.train).eval_batch.size(LARGE_BYTES) == 16
    large = small_config("simclr", train__batch_size=4096)
    assert Device.choose(large.train).eval_batch.size(LARGE_BYTES) == 512


@pytest.mark.parametrize("batch_size", [4, 256, 4096])
def test_small_images_are_evaluated_512_at_a_time_so_that_scores_stay_as_they_were(
    batch_size: int,
) -> None:
    config = small_config("simclr", train__batch_size=batch_size)
    assert Device.choose(config.train).eval_batch.size(SMALL_BYTES) == 512


def test_the_number_can_be_set() -> None:
    config = small_config("simclr", train__eval_batch_size=7)
    batch = Device.choose(config.train).eval_batch
    assert [batch.size(n) for n in (SMALL_BYTES, LARGE_BYTES)] == [7, 7]
    assert batch.capped(3).size(LARGE_BYTES) == 3


# ---- out of memory


def test_where_memory_runs_out_batches_are_halved_and_the_features_are_the_same() -> None:
    split = ArraySplit(torch.arange(50).view(50, 1), None)
    sizes = []

    def limited(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        if len(batch) > 5:
            torch.empty(2**50)  # the CPU's allocator raises its own error
        return batch

    batches = EvalBatch(32)
    with collect_notices() as notices:
        for _ in range(2):
            features = extract(limited, split, CPU, batch_size=batches)
            assert features.equal(torch.arange(50.0).view(50, 1))
    assert sizes[:4] == [32, 16, 8, 4]
    assert set(sizes[4:]) == {2, 4}
    assert [notice["text"] for notice in notices] == [
        "evaluation takes 4 samples at a time, as 32 do not fit into memory; --batch-size or "
        "train.eval_batch_size=4 avoids the attempt"
    ]


def test_memory_for_less_than_one_sample_is_an_error() -> None:
    split = ArraySplit(torch.zeros(4, 1), None)
    with pytest.raises(SslZooError, match="out of memory with 1 sample at a time"):
        extract(lambda batch: torch.empty(2**50), split, CPU)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    split = ArraySplit(torch.zeros(4, 1), None)
    with pytest.raises(RuntimeError, match="shape"):
        extract(lambda batch: batch.view(3), split, CPU)


LIMITED_PROCESS = """
import resource
from pathlib import Path
import torch
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.evaluation import Subject
from ssl_zoo.evaluation.features import extract
from ssl_zoo.evaluation.finetune import finetune
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))
split = ArraySplit(torch.arange(64).view(64, 1), None)

def mean(batch):
    return batch.float().repeat(1, 2**22).mean(1, keepdim=True)

features = extract(mean, split, torch.device("cpu"))
print(features.equal(torch.arange(64.0).view(64, 1)))
"""
"""64 samples of 16 MiB each, in a process that gets 512 MiB."""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limits of memory")
def test_a_process_with_little_memory_evaluates_all_the_same() -> None:
    done = processes.run(["-c", LIMITED_PROCESS])
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_network_trained_4_at_a_time_is_evaluated_though_more_do_not_fit(
    call: Call, memory: Memory
) -> None:
    code, out, err = call("train", *FOUR, "--out", "run")
    assert code == 0, err
    assert "kNN %" in out
    # Once, and before training.
    notice = "evaluation takes 8 samples at a time, as 512 do not fit into memory"
    assert err.count(notice) == 1
    assert err.index(notice) < err.index("run: run")


@pytest.mark.parametrize("command", [["eval", "run", *KNN], ["embed", "run", "-o", "f.npz"]])
def test_another_machine_with_less_memory_halves_too_and_batch_size_avoids_the_attempt(
    call: Call, memory: Memory, command: list[str]
) -> None:
    memory.samples = 512
    assert call("train", *FOUR, "--out", "run")[0] == 0
    memory.samples = 8
    code, _, err = call(*command)
    assert (code, err.count("evaluation takes 8 samples at a time")) == (0, 1), err
    code, _, err = call("--quiet", *command, "--batch-size", "8")
    assert (code, err) == (0, "")


def test_fine_tuning_where_its_batches_do_not_fit_learns_the_same_in_parts(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_zoo.evaluation.finetune.EPOCHS", 1)
    monkeypatch.setattr("ssl_zoo.evaluation.finetune.MIN_STEPS", 10)
    whole = build_data(small_config("simclr"), CPU)
    few = whole.train.subset(torch.arange(100))
    data = DataSet("digits", whole.spec, few, whole.test, few)
    weights = []
    for samples in (512, 30):
        memory.samples = samples
        # A network without batch norms.
        network = build_encoder(BackboneConfig(name="test_vit"), data.spec, seed=0)
        with collect_notices() as notices:
            subject = Subject.of_encoder(network, data, Device(CPU, "fp32", channels_last=True), "it")
            weights.append(finetune(subject).state_dict())
    assert [notice["text"] for notice in notices] == [
        "fine-tuning passes a batch of 100 through the network 25 samples at a time, as more do not fit "
        "into memory; only batch norms see the difference"
    ]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-4), name
    memory.samples = 0
    with pytest.raises(SslZooError, match="fine-tuning is out of memory with 1 sample at a time"):
        finetune(subject)


# ---- a failed evaluation


class Gone:
    """An observer with which memory is gone when training has ended."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    @hookimpl
    def ssl_zoo_checkpoint_saved(self) -> None:
        """Leave no memory."""
        self.memory.samples = 0


def test_a_run_whose_evaluation_failed_says_that_its_weights_are_good_and_how_to_evaluate_them(
    call: Call, memory: Memory
) -> None:
    with registry.observing(Gone(memory)):
        code, _, err = call("train", *FOUR, "--out", "a run")
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: evaluation is out of memory with 1 sample at a time; use --device cpu, or a machine "
        "with more memory; training is done and its weights are good: a run/backbone.safetensors; "
        "evaluate them with: ssl-zoo eval 'a run'"
    )
    run = Run("a run")
    results = run.results()
    assert (results["steps"], results["samples"]) == (2, 8)
    assert results["seconds"] > 0
    memory.samples = 512
    assert load_backbone(run.path)(torch.zeros(1, 1, 16, 16)).shape == (1, 16)
    code, out, err = call("eval", "a run")
    assert code == 0, err
    assert "kNN %" in out
    assert set(run.results()["scores"]) == {"simclr", "pixels", "random-init"}


BROKEN_PROTOCOL = """
from ssl_zoo import hookimpl
from ssl_zoo.evaluation import Protocol

def fail(subject):
    raise ValueError("no")

@hookimpl
def ssl_zoo_register_protocols():
    return {"broken": Protocol(fail, {})}
"""


def test_the_scores_that_were_there_before_an_evaluation_failed_are_kept(
    tmp_path: Path, isolated_registry: None
) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN_PROTOCOL)
    registry.load_file(plugin)
    config = small_config("simclr", train__epochs=0.1)
    with pytest.raises(ValueError, match="no") as caught:
        train(config, out=tmp_path / "r", protocol=["knn", "broken"])
    assert notes(caught.value) == (
        f"training is done and its weights are good: {tmp_path}/r/backbone.safetensors; evaluate them "
        f"with: ssl-zoo --plugin {plugin} eval {tmp_path}/r",
    )
    scores = Run(tmp_path / "r").results()["scores"]
    assert list(scores) == ["simclr"]
    assert list(scores["simclr"]) == ["knn"]
