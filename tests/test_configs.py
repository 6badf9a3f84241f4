"""The configurations that users copy: each is valid, names what exists, and trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.comparison import open_sweep
from ssl_zoo.comparison.load import load_comparison
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import BackboneConfig, RunConfig
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.data.catalogue import CATALOGUE
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_task
from ssl_zoo.spec import ImageSpec
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.optimizer import Schedules, create_optimizer, learning_rate
from ssl_zoo.views import Rng
from ssl_zoo_vision.joint_embedding import JointEmbedding
from tests.conftest import ROOT, TASKS
from tests.zoo import shipped

CONFIGS = Path(__file__).parent.parent / "configs"
COMPARISONS = sorted((CONFIGS / "compare").glob("*.yaml"))
ADVICE = sorted((CONFIGS / "advise").glob("*.yaml"))
RECIPES = sorted((CONFIGS / "data").glob("*.yaml"))
FILES = sorted(set(CONFIGS.rglob("*.yaml")) - {*COMPARISONS, *ADVICE, *RECIPES})


def spec_of(config: RunConfig) -> ImageSpec:
    """Return the description of the configured data without loading it."""
    known = CATALOGUE.get(config.data.source)
    channels, size = (known.channels, known.size) if known else (3, 16)
    half = (0.5,) * channels
    return ImageSpec(channels=channels, size=config.data.image_size or size, mean=half, std=half)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CONFIGS)))
def test_a_shipped_configuration_takes_a_step(file: Path) -> None:
    teacher = {"task.teacher": "test_vit", "task.pretrained": False}
    config = load_config(file, teacher if file.stem == "distillation" else {})
    config.backbone = config.backbone.untrained()  # nothing is downloaded
    spec = spec_of(config)
    task = build_task(config, spec)
    optimizer = create_optimizer(task, config.train, config.train.batch_size)
    before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    batch = torch.randint(0, 256, (2, spec.channels, spec.size, spec.size), dtype=torch.uint8)
    losses = task(task.views(batch, Rng(0)))
    losses.total.backward()
    optimizer.step()
    task.after_step(0.5)
    after = [p for group in optimizer.param_groups for p in group["params"]]
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(p).all() for p in after)
    assert not all(map(torch.equal, before, after))


@pytest.mark.parametrize("name", ["dino", "dinov2"])
def test_training_goes_on_from_a_file_of_weights_with_the_heads_first(name: str, tmp_path: Path) -> None:
    own = {"backbone.name": "test_vit", "backbone.options": {"patch_size": 4}, "data.image_size": 16}
    file = CONFIGS / "pretrained" / f"{name}.yaml"
    given = {**own, "backbone.pretrained": False, "backbone.weights": str(tmp_path / "weights.pth")}
    config = load_config(
        file, {**given, "task.prototypes": 24, "task.hidden": 32, "task.freeze_last": 0}
    )
    spec = spec_of(config)
    weights = build_encoder(config.backbone.untrained(), spec, 7).exported_network.state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    task = build_task(config, spec)
    encoders = (task.encoder.model, task.exported_encoder.model)

    def moved() -> list[bool]:
        return [
            not all(map(torch.equal, encoder.state_dict().values(), weights.values()))
            for encoder in encoders
        ]

    optimizer = create_optimizer(task, config.train, config.train.batch_size)
    schedules = Schedules(optimizer, config.train, Budget(128, 20, 20, None, warmup_of=20))
    assert moved() == [False, False]
    head = task.head[0].weight.detach().clone()
    for step, expected in enumerate([False, False, True, True]):
        schedules.follow(step / 20)  # the heads alone are trained up to a tenth
        task.before_step(step / 20)
        batch = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
        task(task.views(batch, Rng(step))).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step((step + 1) / 20)
        assert moved() == [expected, expected]
        assert not torch.equal(task.head[0].weight, head)
    rates = [g["lr"] for g in optimizer.param_groups if "begins" in g]
    others = [g["lr"] for g in optimizer.param_groups if "begins" not in g]
    assert max(rates) == max(others)  # the last layer's
    assert min(rates) < 0.3 * max(rates)
    longer = Budget(128, 20, 20, None, schedule="again", warmup_of=20)
    Schedules(optimizer, config.train, longer).follow(0.0)  # of a finished run that goes on
    assert all(group["lr"] > 0 for group in optimizer.param_groups)


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda f: f.stem)
def test_a_shipped_comparison_is_valid_for_every_task(file: Path) -> None:
    comparison = load_comparison(file, {})
    assert set(TASKS) <= set(comparison.task_names())
    expected = ["supcon", "supervised"] if comparison.baselines == "all" else ["supervised"]
    assert comparison.supervised_names() == expected
    assert set(comparison.overrides) <= {*comparison.task_names(), *comparison.variants, *expected}
    for task in sorted({*TASKS, *comparison.overrides, "supervised"}):
        config = comparison.run_config(task, 1)
        assert config.task.name == comparison.task_of(task)
        assert config.train.seed == 1
        build_task(config, replace(spec_of(config), classes=10, samples=60_000))


def test_the_records_of_the_zoo_are_gone_on_with(tmp_path: Path) -> None:
    """A changed default of a task is no reason to refuse the command that the results print."""
    file = CONFIGS / "compare" / "fashion-mnist-zoo.yaml"
    open_sweep(file, tmp_path / "c", record=ROOT / "results" / file.stem).write()
    assert (tmp_path / "c" / "compare.yaml").is_file()


@pytest.mark.parametrize("file", ADVICE, ids=lambda f: f.stem)
def test_a_shipped_configuration_for_advice_is_valid_for_every_row(file: Path) -> None:
    comparison = load_comparison(file, {})
    assert comparison.encoder_config(0).backbone.pretrained
    comparison = comparison.model_copy(update={"scratch": comparison.task_names()})
    assert comparison.overrides.keys() <= comparison.trained_rows().keys()
    for row in comparison.trained_rows():
        config = comparison.run_config(row, 0)
        assert config.backbone.pretrained is not comparison.is_scratch(row)
        assert (config.train.heads_first > 0) is config.backbone.pretrained


@pytest.mark.parametrize("data", ["cifar10", "fashion-mnist"])
def test_each_task_has_a_configuration(data: str) -> None:
    files = sorted((CONFIGS / data).glob("*.yaml"))
    assert {f.stem for f in files} == set(TASKS)
    configs = [load_config(f) for f in files]
    assert [c.task.name for c in configs] == [f.stem for f in files]
    assert {c.data.source for c in configs} == {data}


@pytest.mark.parametrize(
    ("name", "batch", "rate"),
    [
        ("mae", 4096, 2.4e-3),
        ("simmim", 2048, 4e-4),
        ("maskfeat", 256, 2e-4),
        ("beit", 2048, 1.5e-3),
        ("data2vec", 2048, 2e-3),
        ("i-jepa", 2048, 1e-3),
        ("capi", 16384, 1e-3),
        ("aim", 4096, 1e-3),
        ("spark", 4096, 3.2e-3),
        ("fcmae", 4096, 2.4e-3),
    ],
)
def test_the_rate_at_224_pixels_is_the_papers_at_its_batch_size(
    name: str, batch: int, rate: float
) -> None:
    config = load_config(CONFIGS / "imagenet-100" / f"{name}.yaml")
    assert learning_rate(config.train, batch) == pytest.approx(rate)


def test_simclr_on_cifar10_is_the_textbook_set_up() -> None:
    config = load_config(CONFIGS / "cifar10" / "simclr.yaml")
    task = build_task(config, spec_of(config))
    assert config.train.batch_size == 512
    assert task.temperature == 0.5
    widths = [tuple(m.weight.shape) for m in task.head.modules() if isinstance(m, torch.nn.Linear)]
    assert widths == [(512, 512), (128, 512)]
    stem = task.encoder.model.conv1
    assert (stem.kernel_size, stem.stride) == ((3, 3), (1, 1))
    assert isinstance(task.encoder.model.maxpool, torch.nn.Identity)
    ((number, view),) = task.pair.crops
    assert number == 2
    names = [type(t).__name__ for t in view.transforms]
    assert names[:3] == ["RandomResizedCrop", "ColorJitter", "RandomGrayscale"]
    crop, jitter, gray, blur, *_ = view.transforms
    assert (crop.flip, crop.scale) == (0.5, (0.08, 1.0))
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.8, 0.8, 0.8, 0.2)
    assert (jitter.p, gray.p, blur.p) == (0.8, 0.2, 0.0)


def test_the_default_is_spelled_out_and_gives_way_whole_to_a_named_backbone() -> None:
    default = load_config(None, {"task.name": "simclr"})
    assert load_config(CONFIGS / "default.yaml") == default
    assert default.backbone.name == "resnet10_narrow"
    named = load_config(None, {"task.name": "simclr", "backbone.name": "vit_tiny_patch16_224"})
    assert (named.backbone.options, named.backbone.stem_stride) == ({}, 1)


@pytest.mark.parametrize("file", RECIPES, ids=lambda f: f.stem)
def test_the_recipe_of_bundled_data_is_valid_for_the_tasks_that_it_names(file: Path) -> None:
    recipe = read_yaml(file)
    for task in recipe["tasks"]:
        config = load_config(None, {"task.name": task, "data.source": file.stem})
        train = recipe["train"] | recipe.get("overrides", {}).get(task, {}).get("train", {})
        assert config.train.model_dump(include={*train}) == train
    assert {*recipe.get("overrides", {})} <= {*recipe["tasks"]}


def test_the_digits_have_a_recipe_for_all_joint_embedding_tasks_but_those_named_here() -> None:
    joint = {name for name, task in shipped().items() if issubclass(task, JointEmbedding)}
    without = {"supcon", "distillation", "deepcluster", "pixpro", "ibot", "dinov2"}
    assert joint - {*read_yaml(CONFIGS / "data" / "digits.yaml")["tasks"]} == without


@torch.no_grad()
def test_the_default_network_uses_all_of_its_blocks_from_the_first_step() -> None:
    """A residual branch that starts at zero would make it as shallow as the network without it."""
    spec = ImageSpec(channels=1, size=16, mean=(0.5,), std=(0.25,))
    network = build_encoder(BackboneConfig(), spec, 0).train()
    x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before = network(x)
    for name, p in network.named_parameters():
        if name.endswith("conv2.weight"):
            p.mul_(-1)
    assert not torch.allclose(before, network(x), atol=0.01)


def test_leaving_the_backbone_out_and_naming_the_default_give_the_same_network() -> None:
    left_out, named = BackboneConfig(), BackboneConfig(name="resnet10_narrow")
    spelled_out = BackboneConfig(
        name="resnet18",
        stem_stride=2,
        options={"channels": [32, 64, 128, 256], "layers": [1, 1, 1, 1], "zero_init_last": False},
    )
    assert left_out == named
    assert named.resolve() == spelled_out
    spec = ImageSpec(channels=1, size=16, mean=(0.5,), std=(0.25,))
    first, *others = [build_encoder(c, spec, 3).state_dict() for c in (left_out, named, spelled_out)]
    for other in others:
        assert first.keys() == other.keys()
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_the_default_backbone_takes_further_options_beside_its_own() -> None:
    given = {"backbone.options.drop_rate": 0.1, "backbone.options.layers": [1, 1, 1, 2]}
    config = load_config(None, {"task.name": "simclr", **given})
    assert config.backbone.stem_stride == 2
    assert config.backbone.resolve().options == {
        "channels": [32, 64, 128, 256],
        "layers": [1, 1, 1, 2],
        "zero_init_last": False,
        "drop_rate": 0.1,
    }
    assert (
        load_config(None, {"task.name": "simclr", "backbone.stem_stride": 1}).backbone.stem_stride == 1
    )


@pytest.mark.parametrize("given", [{}, {"backbone.name": "resnet10_narrow"}])
def test_the_default_backbone_has_no_pretrained_weights_and_says_so(given: dict[str, str]) -> None:
    message = "--pretrained: backbone: resnet10_narrow has no pretrained weights; choose another network"
    with pytest.raises(UserError, match=message):
        load_config(
            None,
            {"task.name": "simclr", "backbone.pretrained": True, **given},
            flags={"backbone.pretrained": "--pretrained"},
        )
