"""Training follows its configuration: parameter groups, budgets, gradients, averages, precision."""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_zoo import distributed
from ssl_zoo.config.schema import DEFAULT_EPOCHS, RunConfig, TrainConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Subject, score
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.build import build_data, build_task, restore_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Field, Losses, Task, TaskOptions
from ssl_zoo.training import Trainer, api, loop
from ssl_zoo.training.batch import Batch
from ssl_zoo.views import Rng
from tests.conftest import small_config, train

CPU = torch.device("cpu")
UNSCORED: dict[str, Any] = {"protocol": (), "with_baselines": False}
"""Arguments of `train` for a run that is not evaluated at its end."""


class Colour(Task):
    """A task that predicts the mean intensity; the samples of a batch do not affect each other."""

    name = "colour"

    class Options(TaskOptions):
        fail_at: int | None = Field(None, description="the step that raises an error")

    def __init__(self, encoder: Any, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, 1)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.spec.prepare(batch),)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        (x,) = views
        predicted = self.head(self.encoder(x)).float().squeeze(1)
        total = (predicted - x.mean((1, 2, 3))).pow(2).mean()
        if self.training:
            self.steps += 1
        if self.options.fail_at == self.steps:
            raise RuntimeError("out of memory")
        return Losses(total)

    def lr_scale(self, parameter: str) -> float:
        return 0.1 if parameter.startswith("head.") else 1.0


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with registry.isolated():
        registry.register_task(Colour)
        yield


def trainer(task: str = "colour", **settings: Any) -> Trainer:
    config = small_config(task, **settings)
    return Trainer(config, build_data(config, CPU), Device.choose(config.train))


def without_batchnorm(**settings: Any) -> Trainer:
    return trainer(backbone__name="test_vit", data__image_size=32, **settings)


def short(task: str = "colour", **settings: Any) -> RunConfig:
    """Return the configuration of a run of five steps."""
    return small_config(task, **{"train__batch_size": 256, **settings})


def scores_of(task: Task, data: DataSet, device: Device) -> dict[str, float]:
    """Return the scores that a run of this task gets at its end."""
    return score(Subject.of_task(task, data, device), ["knn"])


def lines(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]


# ---- parameter groups and optimisers


def test_each_trainable_parameter_is_in_one_group_and_no_other_in_any(task_name: str) -> None:
    t = trainer(task_name)
    grouped = [id(p) for group in t.optimizer.param_groups for p in group["params"]]
    trainable = {id(p) for p in t.task.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable


def test_biases_and_scales_are_not_decayed_weights_are_and_a_task_scales_its_rates() -> None:
    t = trainer(train__weight_decay=0.3, train__lr=1.0, train__warmup=0.0, train__lr_scaling="none")
    groups = {id(p): group for group in t.optimizer.param_groups for p in group["params"]}
    t.follow_schedules()
    for name, parameter in t.task.named_parameters():
        if name.startswith("frozen."):
            assert id(parameter) not in groups
            continue
        group = groups[id(parameter)]
        assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0), name
        assert group["lr"] == pytest.approx(0.1 if name.startswith("head.") else 1.0), name
    assert any(p.ndim == 1 for p in t.task.encoder.parameters())


def test_what_a_backbone_wants_undecayed_is_not_decayed() -> None:
    t = without_batchnorm(train__weight_decay=0.3)
    decay = {id(p): g["weight_decay"] for g in t.optimizer.param_groups for p in g["params"]}
    model = t.task.encoder.model
    assert {"pos_embed", "cls_token"} <= set(model.no_weight_decay())
    assert decay[id(model.pos_embed)] == decay[id(model.cls_token)] == 0.0
    assert decay[id(model.blocks[0].attn.qkv.weight)] == 0.3


def test_what_was_chosen_here_is_written_down_so_that_resuming_does_not_choose_anew(
    tmp_path: Path,
) -> None:
    settings = {"train__precision": "auto", "train__samples": 256, "train__epochs": None}
    run = train(small_config("simclr", **settings), out=tmp_path / "run")
    config = run.config()
    assert config.train.precision == Device.choose(small_config("simclr", **settings).train).precision
    assert (config.data.resident, config.train.samples) == ("always", 256)
    assert trainer(train__epochs=None).config.train.epochs == DEFAULT_EPOCHS


@pytest.mark.parametrize(
    "name", ["sgd", "momentum", "lars", "adam", "adamw", "lamb", "muon", "lion", "lookahead_adamw"]
)
def test_timms_optimisers_lower_the_loss_by_name(name: str) -> None:
    lr = {"lars": 1.0, "muon": 0.01, "lion": 1e-4}.get(name, 0.005)
    settings = {"train__optimizer": name, "train__lr": lr, "train__lr_scaling": "none"}
    t = trainer(train__warmup=0.0, train__epochs=4, **settings)
    raw = [Batch(t.data.train.batch(torch.arange(32)), torch.arange(32))]
    before = {k: v.clone() for k, v in t.task.state_dict().items()}
    losses = [t.train_step(raw).total.item() for _ in range(8)]
    assert losses[-1] < losses[0]
    moved = [n for n, p in t.task.named_parameters() if not p.equal(before[n])]
    assert "head.weight" in moved
    assert any(n.startswith("encoder.") for n in moved)
    assert not any(n.startswith("frozen.") for n in moved)


def test_momentum_is_adams_first_beta_unless_betas_are_given() -> None:
    settings: dict[str, Any] = {"train__optimizer": "adamw", "train__momentum": 0.5}
    assert trainer(**settings).optimizer.defaults["betas"] == (0.5, 0.999)
    settings["train__optimizer_options"] = {"betas": (0.8, 0.95)}
    assert tuple(trainer(**settings).optimizer.defaults["betas"]) == (0.8, 0.95)
    assert trainer(train__momentum=0.7).optimizer.defaults["momentum"] == 0.7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgdd", {}, "train.optimizer: timm has no optimiser 'sgdd'. Did you mean 'sgd'"),
        ("qqqqqq", {}, "timm has no optimiser 'qqqqqq'. `timm.optim.list_optimizers()` lists all."),
        ("sgd", {"nestrov": True}, "options.nestrov: sgd has no such argument. Did you mean 'nesterov'"),
        ("sgd", {"qqqqqq": 1}, "sgd has no such argument. There are: "),
        ("sgd", {"lr": 1}, "train.optimizer_options.lr: set train.lr instead"),
        ("adamw", {"betas": [2, 3]}, "train.optimizer: adamw refuses its options: Invalid beta"),
    ],
)  # fmt: skip
def test_a_wrong_optimiser_or_option_is_one_line_with_what_is_near(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        trainer(train__optimizer=name, train__optimizer_options=options)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# ---- the learning rate


def test_the_logged_rates_are_those_of_the_formula(tmp_path: Path) -> None:
    run = train(short(train__lr=0.01, train__warmup=0.0), out=tmp_path / "r", **UNSCORED)
    assert [line["lr"] for line in lines(run)] == pytest.approx(
        [0.005 * (1 + math.cos(math.pi * i / 5)) for i in range(5)], rel=1e-4
    )


def test_a_run_of_one_step_trains_at_the_full_rate_and_moves_its_weights(tmp_path: Path) -> None:
    config = short(train__epochs=None, train__samples=1, train__lr=0.01)
    run = train(config, out=tmp_path / "r")
    (line,) = lines(run)
    assert (line["step"], line["lr"]) == (1, 0.01)
    before = build_task(config, build_data(config, CPU).spec).state_dict()
    after = run.checkpoints.load()["task"]
    assert not after["encoder.model.conv1.0.weight"].equal(before["encoder.model.conv1.0.weight"])


# ---- budgets


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        ({"train__epochs": 0.6}, 3 * 256),
        ({"train__epochs": None, "train__samples": 600}, 3 * 256),
        ({"train__epochs": 1.4}, 7 * 256),
    ],
)
def test_a_run_stops_where_its_budget_says(
    tmp_path: Path, settings: dict[str, Any], samples: int
) -> None:
    run = train(short(**settings), out=tmp_path / "r", **UNSCORED)
    assert run.results()["samples"] == run.metrics()[-1]["samples"] == samples
    assert run.checkpoints.load()["step"] == samples // 256


def test_a_run_of_minutes_stops_after_them_and_not_before(tmp_path: Path) -> None:
    config = small_config("colour", train__epochs=None, train__minutes=0.02, train__batch_size=8)
    *before, last = [line["seconds"] for line in train(config, out=tmp_path / "r", **UNSCORED).metrics()]
    rounding = 0.0005  # lines give milliseconds
    assert last >= 60 * 0.02 - rounding
    assert all(seconds < 60 * 0.02 + rounding for seconds in before)


# ---- gradients


def gradients(monkeypatch: pytest.MonkeyPatch, t: Trainer, raw: list[Batch]) -> dict[str, Tensor]:
    """Return the gradients that the optimiser receives in one step."""
    received: dict[str, Tensor] = {}

    def step(closure: Any = None) -> None:
        received.update({n: p.grad.clone() for n, p in t.task.named_parameters() if p.grad is not None})

    monkeypatch.setattr(t.optimizer, "step", step)
    t.train_step(raw)
    return received


@pytest.mark.parametrize("batches", [2, 4])
def test_accumulated_batches_give_the_gradient_of_one_as_large(
    monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    one, many = without_batchnorm(), without_batchnorm(train__accumulate=batches, train__batch_size=16)
    raw = one.data.train.batch(torch.arange(16 * batches))
    joint = gradients(monkeypatch, one, [Batch(raw, torch.arange(len(raw)))])
    accumulated = gradients(monkeypatch, many, [Batch(part, torch.arange(16)) for part in raw.split(16)])
    assert (
        joint.keys()
        == accumulated.keys()
        == {n for n, p in one.task.named_parameters() if p.requires_grad}
    )
    for name, gradient in joint.items():
        torch.testing.assert_close(accumulated[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_step_takes_as_many_batches_as_are_accumulated() -> None:
    t = trainer(train__accumulate=3, train__batch_size=100)
    steps = list(t.epoch_batches())
    assert len(steps) == t.budget.steps_per_epoch == 4
    assert [[len(batch.raw) for batch in step] for step in steps] == [[100] * 3] * 4


def test_each_epoch_has_its_own_order_and_holds_a_sample_once() -> None:
    t = trainer(train__batch_size=100)
    numbered = ArraySplit(torch.arange(1438), None)
    t.data = DataSet("numbers", t.data.spec, numbered, None, numbered)

    def order(step: int) -> list[int]:
        t.step = step
        return torch.cat([batch.raw for step in t.epoch_batches() for batch in step]).tolist()

    first, second = order(0), order(t.budget.steps_per_epoch)
    assert len(set(first)) == len(set(second)) == len(first) == 1400
    assert first != second
    assert order(3) == first[300:]  # as in a resumed run


def test_gradients_are_clipped_to_the_norm_and_not_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raw: list[Batch] = [Batch(trainer().data.train.batch(torch.arange(64)), torch.arange(64))]
    free = gradients(monkeypatch, trainer(), raw)
    norm = math.sqrt(sum(float(g.pow(2).sum()) for g in free.values()))
    clipped = gradients(monkeypatch, trainer(train__clip_norm=norm / 7), raw)
    wide = gradients(monkeypatch, trainer(train__clip_norm=norm * 7), raw)
    for name, gradient in free.items():
        torch.testing.assert_close(clipped[name], gradient / 7, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(wide[name], gradient)


# ---- averages and evaluation


def test_the_average_of_the_weights_is_what_is_evaluated_and_saved(tmp_path: Path) -> None:
    config = short(train__ema=0.5)
    run = train(config, out=tmp_path / "r")
    state = run.checkpoints.load()
    weights = load_file(run.backbone_file)
    raw = {k.removeprefix("encoder.model."): v for k, v in state["task"].items()}
    average = {k.removeprefix("model."): v for k, v in state["ema"].items()}
    assert weights.keys() == average.keys()
    assert all(weights[k].equal(average[k]) for k in weights)
    assert not weights["conv1.0.weight"].equal(raw["conv1.0.weight"])
    data = build_data(config, CPU)
    rebuilt = scores_of(restore_task(run, data.spec), data, Device.choose(config.train))
    assert rebuilt == pytest.approx(run.results()["scores"]["colour"], rel=1e-6)


def test_the_average_is_the_exponential_one_of_each_step() -> None:
    t = trainer(train__ema=0.9, train__lr=0.05, train__warmup=0.0)
    name, raw = "model.conv1.0.weight", [Batch(t.data.train.batch(torch.arange(64)), torch.arange(64))]
    expected = t.task.encoder.state_dict()[name].clone()
    for _ in range(3):
        t.train_step(raw)
        expected = 0.9 * expected + 0.1 * t.task.encoder.state_dict()[name]
    torch.testing.assert_close(t.ema.module.state_dict()[name], expected)


def test_knn_is_logged_every_so_many_epochs_and_changes_no_loss(tmp_path: Path) -> None:
    plain = train(short(), out=tmp_path / "plain", **UNSCORED)
    often = train(short(train__knn_every=0.4), out=tmp_path / "often")
    evaluated = [line for line in often.metrics() if "knn" in line]
    assert [line["step"] for line in evaluated] == [2, 4, 5]
    assert all(0 < line["knn"] <= 100 for line in evaluated)
    assert [line for line in lines(often) if "knn" not in line] == lines(plain)
    # The evaluations during training use all the digits too, so the last one equals the final one.
    assert evaluated[-1]["knn"] == often.results()["scores"]["colour"]["knn"]


@pytest.mark.parametrize(
    "budget", [{"train__epochs": 2}, {"train__epochs": None, "train__samples": 2500}]
)
def test_knn_is_logged_so_many_times_evenly_over_the_run(tmp_path: Path, budget: dict[str, Any]) -> None:
    run = train(short(train__knn_points=4, **budget), out=tmp_path / "r", **UNSCORED)
    steps = [line["step"] for line in run.metrics() if "knn" in line]
    total = run.results()["steps"]
    assert steps == [math.ceil(total * part / 4) for part in (1, 2, 3, 4)]


def test_a_run_says_what_it_cost(tmp_path: Path) -> None:
    for task, passes in (("colour", 1), ("simclr", 2), ("byol", 4), ("rotation", 4)):
        config = short(task, train__epochs=0.3)
        results = train(config, out=tmp_path / task, **UNSCORED).results()
        assert results["passes_per_sample"] == passes
        assert results["samples_per_second"] == pytest.approx(
            results["samples"] / results["seconds"], rel=0.2
        )
        assert results["peak_memory_bytes"] > 5e7
        assert results["needs_labels"] is False


class Later(Colour):
    """A task that passes its samples through the encoder three times from the third step on."""

    name = "later"

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        if self.steps >= 2:
            self.encoder(torch.cat([*views, *views]))
        return super().loss(views)


def test_passes_are_the_mean_over_all_steps_also_after_resuming() -> None:
    registry.register_task(Later)
    t, resumed = trainer("later"), trainer("later")
    batches = itertools.islice(t.epoch_batches(), 5)
    for k, step in enumerate(batches):
        if k == 3:
            resumed.load_state_dict(copy.deepcopy(t.state_dict()))
        (t if k < 3 else resumed).train_step(step)
    assert t.passes == pytest.approx((1 + 1 + 3) / 3)
    assert resumed.passes == pytest.approx((1 + 1 + 3 + 3 + 3) / 5)


def test_labels_reach_a_task_that_says_it_needs_them_and_no_other(tmp_path: Path) -> None:
    t, plain = trainer("supervised", train__batch_size=100), trainer(train__batch_size=100)
    samples = t.data.train
    assert samples.labels is not None
    everything = samples.batch(torch.arange(len(samples)))
    for step in t.epoch_batches():
        for raw, numbers, (labels,) in step:
            assert raw.equal(everything[numbers])
            assert labels.equal(samples.labels[numbers])
    assert all(batch.needed == () for step in plain.epoch_batches() for batch in step)
    run = train(small_config("supervised", train__epochs=6, train__lr=0.1), out=tmp_path / "r")
    assert run.results()["needs_labels"] is True
    assert run.metrics()[-1]["accuracy"] > 0.7
    assert run.results()["scores"]["supervised"]["knn"] > 80


def test_the_results_stand_beside_pixels_and_the_very_weights_that_the_run_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial: dict[str, Any] = {}

    def fit(t: Trainer, run: Run) -> None:
        initial["state"] = {k: v.clone() for k, v in t.task.state_dict().items()}
        initial["scores"] = scores_of(t.task, t.data, t.device)
        loop.fit(t, run)

    monkeypatch.setattr(api, "fit", fit)
    config = short("moco", train__seed=3, train__epochs=0.4)
    run = train(config, out=tmp_path / "r")
    again = build_task(config, build_data(config, CPU).spec).state_dict()
    assert again.keys() == initial["state"].keys()
    assert all(again[name].equal(value) for name, value in initial["state"].items())
    scores = run.results()["scores"]
    assert list(scores) == ["moco", "pixels", "random-init"]
    assert scores["random-init"] == initial["scores"]
    assert scores["moco"] != initial["scores"]


# ---- randomness and numbers


def test_a_seed_gives_the_same_metrics_to_the_bit_and_another_seed_others(tmp_path: Path) -> None:
    settings = {"train__epochs": 0.2, "train__batch_size": 64}
    first, again, other = (
        lines(train(short("byol", train__seed=seed, **settings), out=tmp_path / name, **UNSCORED))
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first == again
    assert all(a["loss"] != b["loss"] for a, b in zip(first, other, strict=True))


def test_warnings_that_several_processes_cause_are_ignored_for_the_run_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = list(warnings.filters)
    with api._ignore_ddp_warnings():
        assert list(warnings.filters) == before
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        for _ in range(3):
            with api._ignore_ddp_warnings():
                inside = list(warnings.filters)
                warnings.warn("Grad strides do not match bucket view strides.", stacklevel=1)
                assert isinstance(trainer().parallel.model, DistributedDataParallel)
                assert list(warnings.filters) == inside
            assert list(warnings.filters) == before
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_on_a_cpu_like_full_precision(precision: str) -> None:
    # At full resolution, as the mean of many places rounds less.
    settings = {"backbone__stem_stride": 1, "train__lr": 0.01}
    full, half = (trainer(train__precision=p, **settings) for p in ("fp32", precision))
    assert half.device.precision == precision
    assert half.scaler.is_enabled() == (precision == "fp16")
    raw = [Batch(full.data.train.batch(torch.arange(16)), torch.arange(16))]
    losses = [[t.train_step(raw).total.item() for _ in range(3)] for t in (full, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]
    assert all(p.dtype == torch.float32 for p in half.task.parameters())


def test_a_step_that_overflows_in_fp16_is_left_out_and_moves_no_teacher() -> None:
    t = trainer("moco", train__precision="fp16", train__ema=0.5, train__warmup=0.0)
    t.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = {k: v.clone() for k, v in t.task.state_dict().items() if "running" not in k}
    t.train_step([Batch(t.data.train.batch(torch.arange(16)), torch.arange(16))])
    after = {k: v for k, v in t.task.state_dict().items() if k in before and "num_batches" not in k}
    assert all(v.equal(before[k]) for k, v in after.items())
    assert t.scaler.get_scale() < 2.0**60


def test_a_precision_that_the_device_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*arguments: Any, **keywords: Any) -> Any:
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'\nand more")

    monkeypatch.setattr(torch, "autocast", lacking)
    with pytest.raises(UserError, match=r"cpu does not compute in fp16: .*; choose --precision fp32"):
        Device.choose(TrainConfig(device="cpu", precision="fp16"))


def test_the_memory_format_changes_no_result() -> None:
    # Of the usual width, as narrow layers make more of the rounding.
    settings = {"backbone__options": {}}
    first, last = (trainer(train__channels_last=flag, **settings) for flag in (False, True))
    raw = [Batch(first.data.train.batch(torch.arange(64)), torch.arange(64))]
    losses = [[t.train_step(raw).total.item() for _ in range(3)] for t in (first, last)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    weight = last.task.encoder.model.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


# ---- endings


def test_what_fails_before_a_step_is_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(small_config("colour", task__fail_at=1))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="out of memory"):
        train(small_config("colour", task__fail_at=2))
    assert [p.name for p in tmp_path.glob("runs/*/*.yaml")] == ["config.yaml"]


def test_features_that_cannot_be_had_are_told_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task.stage: the backbone has no stage 9"):
        train(small_config("rotation", task__stage=9), out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_configuration_and_a_run_to_resume_exclude_each_other(tmp_path: Path) -> None:
    config: RunConfig = small_config("colour")
    for wrong in ({"config": config, "resume": tmp_path}, {}, {"resume": tmp_path, "out": tmp_path}):
        with pytest.raises(TypeError, match="either a config, or a run to resume"):
            train(**wrong)


def test_every_line_is_written_when_it_is_reported(tmp_path: Path) -> None:
    seen = []

    class Reader:
        @hookimpl
        def ssl_zoo_step_logged(self, run: Run, metrics: dict[str, float]) -> None:
            seen.append(json.loads(run.metrics_file.read_text().splitlines()[-1]) == metrics)

        @hookimpl
        def ssl_zoo_run_ended(self, run: Run, results: dict[str, Any]) -> None:
            seen.append(json.loads(run.results_file.read_text()) == results)

    with registry.observing(Reader()):
        train(short(), out=tmp_path / "r")
    assert len(seen) == 5 + 1
    assert all(seen)
