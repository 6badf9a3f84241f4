"""Any input gives a configuration that can be written and read again, or an error of one line."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ssl_zoo.config import RunConfig, SettingError, TaskConfig
from ssl_zoo.config.layers import SettingsSource
from ssl_zoo.config.load import dump_config, load_config
from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.task import Field, Losses, Task, TaskOptions
from ssl_zoo.views import Rng
from tests.plugins.sources import SHIPPED

SIMCLR = {"task.name": "simclr"}


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    with registry.isolated():
        yield


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "given.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def complaint(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_config(*arguments, **keywords)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def register(name: str, options: type = TaskOptions, task_recipe: Mapping[str, Any] = {}) -> None:
    class Registered(Task):
        Options = options
        recipe = task_recipe

        def views(self, batch: Any, rng: Rng) -> Any: ...

        def loss(self, views: Any) -> Losses: ...

    Registered.name = name
    registry.register_task(Registered)


# ---- precedence


def test_each_layer_overrides_the_ones_before_it(tmp_path: Path) -> None:
    text = "task: {name: simclr}\ndata: {source: cifar10}\ntrain: {lr: 1, warmup: 0.3, seed: 3}"
    file = write(tmp_path, text)
    config = load_config(file, {"train.seed": 4, "train.batch_size": 32}, ["train.batch_size=16"])
    assert config.train.momentum == 0.9  # the model's default
    assert config.train.weight_decay == 1e-6  # SimCLR's recipe
    assert config.train.lr == 1  # the file, over the recipe's 0.3
    assert config.train.seed == 4  # the flag, over the file
    assert config.train.batch_size == 16  # --set, over the flag


def test_the_recipe_is_that_of_the_task_which_is_named_last(tmp_path: Path) -> None:
    file = write(tmp_path, "task: {name: simclr}\ndata: {source: cifar10}")
    assert load_config(file, {"task.name": "rotation"}).train.schedule == "step"
    assert load_config(file, None, ["task.name=moco"]).train.lr == 0.03


def test_bundled_data_has_a_recipe_of_its_own_for_the_tasks_that_it_names(tmp_path: Path) -> None:
    """It takes the place of the task's, as half of one optimiser's settings do not suit another."""
    digits = load_config(None, {"task.name": "moco"})
    assert (digits.train.optimizer, digits.train.epochs, digits.train.batch_size) == ("muon", 27, 128)
    assert digits.task.queue == 1024
    for data in ("cifar10", ["digits", "photos"]):
        elsewhere = load_config(None, {"task.name": "moco", "data.source": data})
        assert (elsewhere.train.optimizer, elsewhere.train.epochs) == ("momentum", 100)
        assert elsewhere.task.queue is None
    unnamed = load_config(None, {"task.name": "rotation"}).train
    assert (unnamed.optimizer, unnamed.schedule, unnamed.epochs) == ("sgd", "step", 100)
    file = write(tmp_path, "task: {name: moco, queue: 64}\ntrain: {optimizer: adamw, minutes: 2}")
    given = load_config(file)
    assert (given.train.optimizer, given.train.minutes, given.train.epochs) == ("adamw", 2, None)
    assert (given.task.queue, given.train.lr) == (64, 0.02)
    own = load_config(None, {"task.name": "msn"}).backbone
    assert (own.name, own.options) == ("resnet10_narrow", {"output_stride": 8})
    named = load_config(None, {"task.name": "msn", "backbone.name": "vit4_narrow"}).backbone
    assert (named.name, named.options) == ("vit4_narrow", {})


def test_an_override_of_none_leaves_the_field_alone(tmp_path: Path) -> None:
    file = write(tmp_path, "task: {name: simclr}\ntrain: {epochs: 3}")
    assert load_config(file, {"train.epochs": None, "train.lr": None}).train.epochs == 3


def test_null_is_none_or_takes_back_what_was_set(tmp_path: Path) -> None:
    """Where a setting cannot be none, the recipe's value holds then, and else the default."""
    register("tuned", task_recipe={"train": {"lr": 0.7, "clip_norm": 1.0}})
    file = write(tmp_path, "task: {name: tuned}\ntrain: {lr: 3, warmup: 0.5, clip_norm: 2, epochs: 3}")
    names = ("lr", "warmup", "clip_norm")
    nulls = {f"train.{name}": None for name in names}
    in_file = SettingsSource(yaml.safe_load(file.read_text()), "a file")
    for config in (
        load_config(file, None, [f"train.{name}=null" for name in names]),
        load_config(file, settings=nulls),
        load_config(base=[in_file, SettingsSource({"train": dict.fromkeys(names)}, "overrides")]),
    ):
        train = config.train
        assert (train.lr, train.warmup, train.clip_norm) == (0.7, TrainConfig().warmup, None)
        assert train.epochs == 3
    assert load_config(file, settings=nulls, sets=["train.lr=5"]).train.lr == 5
    with pytest.raises(UserError, match=r"train\.lrr: there is no such setting"):
        load_config(file, settings={"train.lrr": None})


@pytest.mark.parametrize("later", ["overrides", "sets"])
def test_a_budget_replaces_one_of_another_kind_in_an_earlier_layer(tmp_path: Path, later: str) -> None:
    file = write(tmp_path, "task: {name: simclr}\ntrain: {epochs: 3}")
    layer: dict[str, Any] = {
        "overrides": {"overrides": {"train.minutes": 2}},
        "sets": {"sets": ["train.minutes=2"]},
    }[later]
    train = load_config(file, **layer).train
    assert (train.epochs, train.minutes) == (None, 2)


def test_a_recipes_budget_gives_way() -> None:
    register("budgeted", task_recipe={"train": {"epochs": 800}})
    assert load_config(None, {"task.name": "budgeted"}).train.epochs == 800
    train = load_config(None, {"task.name": "budgeted", "train.samples": 10}).train
    assert (train.epochs, train.samples) == (None, 10)


def test_two_budgets_in_one_layer_are_refused(tmp_path: Path) -> None:
    both = "give one budget, not epochs and minutes"
    file = write(tmp_path, "task: {name: simclr}\ntrain: {epochs: 1, minutes: 2}")
    assert complaint(file) == f"--config {file}: train: {both}"
    assert both in complaint(None, {**SIMCLR, "train.epochs": 1, "train.minutes": 2})
    assert both in complaint(None, SIMCLR, ["train.epochs=1", "train.minutes=2"])


def test_dictionaries_are_merged_at_every_depth(tmp_path: Path) -> None:
    backbone = "backbone: {name: resnet18, options: {a: {b: 1, c: 2}, d: 3}}"
    file = write(tmp_path, f"task: {{name: simclr}}\n{backbone}")
    config = load_config(file, None, ["backbone.options.a.c=4", "backbone.options.e=5"])
    assert config.backbone.options == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}


def test_the_tasks_options_are_complete() -> None:
    options = load_config(None, {**SIMCLR, "task.out": 7}).task.option_values()
    task = registry.load_task("simclr")
    assert set(options) == set(task.Options.model_fields)
    assert options["out"] == 7


def test_the_validated_options_travel_with_the_configuration(tmp_path: Path) -> None:
    task = registry.load_task("simclr")
    config = load_config(None, {**SIMCLR, "task.out": 7})
    options = config.task.options(task.Options)
    assert isinstance(options, task.Options)
    assert options is config.task.options(task.Options)
    assert options is config.model_copy(update={"provenance": {}}).task.options(task.Options)
    by_hand = RunConfig(
        task=TaskConfig(name="simclr", **config.task.option_values()), train=config.train
    )
    assert by_hand.task.options(task.Options) == options
    assert by_hand == config == RunConfig.model_validate(config.model_dump())
    assert load_config(write(tmp_path, dump_config(config))).task.options(task.Options) == options


# ---- what is read


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E2", 100), ("+.5e1", 5), ("2.e0", 2), ("1.5", 1.5), ("0x1F", 31), ("'3'", 3)],
)
def test_numbers(text: str, value: float) -> None:
    assert load_config(None, SIMCLR, [f"train.lr={text}"]).train.lr == value


@pytest.mark.parametrize(
    "text", ["2024-01-01", "2024-01-01 10:00:00", "=", "'1e3'", "a: b".replace(" ", "")]
)
def test_what_looks_like_a_date_is_text(text: str) -> None:
    config = load_config(None, SIMCLR, [f"data.source={text}"])
    assert config.data.source == text.strip("'")


def test_a_path_is_text() -> None:
    assert load_config(None, {**SIMCLR, "data.source": Path("a/b")}).data.source == "a/b"


def test_a_byte_order_mark_and_empty_sections_are_harmless(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "\ufefftask: {name: moco}\ntrain:\n")).task.name == "moco"
    assert load_config(write(tmp_path, ""), SIMCLR).task.name == "simclr"


# ---- what is refused, and how

WRONG_SETS = [
    ("train.lr=-1", "train.lr: must be greater than 0, not -1"),
    ("train.lr=fast", "train.lr: must be a valid number"),
    ("train.lr=", "train.lr: has no value; write null for none"),
    ("train.lr=.nan", "train.lr: must be a finite number, not nan"),
    ("train.lr=.inf", "train.lr: must be a finite number, not inf"),
    ("train.lr=1e400", "train.lr: must be a finite number, not inf"),
    ("train.lr='nan'", "train.lr: must be a finite number, not 'nan'"),
    ("backbone.options.x=-.inf", "backbone.options.x: must be a finite number"),
    (f"train.samples=1{'0' * 30}", "train.samples: is too large a number"),
    (f"train.samples={'9' * 5000}", "is not valid YAML"),
    ("train.epochs=true", "train.epochs: must not be true"),
    ("task.out=yes", "task.out: must not be true"),
    ("train.batch_size=1.5", "train.batch_size: must be a valid integer"),
    ("train.batchsize=3", "train.batchsize: there is no such setting. Did you mean 'batch_size'"),
    ("task.temprature=3", "task.temprature: there is no such setting. Did you mean 'temperature'?"),
    ("task.qqqq=3", "task.qqqq: there is no such setting. There are: "),
    ("task.jitter=[1, 2]", "task.jitter: has too few values"),
    ("train.milestones=[0.1, x]", "train.milestones.1: must be a valid number"),
    ("train.precision=fp8", "train.precision: must be 'auto', 'fp32', 'bf16' or 'fp16', not 'fp8'"),
    ("trian.lr=3", "there is no section 'trian'. Did you mean 'train'?"),
    ("lr=3", "there is no section 'lr'. Did you mean 'train.lr'?"),
    ("train=3", "train: must have the form train.name"),
    ("train.=3", "train.: must have the form train.name"),
    ("=3", "there is no section ''"),
    ("train.lr", "must have the form section.name=value"),
    ("", "must have the form section.name=value"),
    ("train.lr=[", "line 1: is not valid YAML"),
    ("train.lr=" + "[" * 3000, "is nested too deeply"),
    ("backbone.options.x=" + "[" * 30 + "]" * 30, "is nested too deeply"),
    ("backbone.options={a:1}", "line 1: is not valid YAML: 'a:1' has no value; write {a: 1}"),
    ("data.options={x: {a}}", "'a' has no value; write {a: null}"),
    ("data.options=a=1,b=2", "write --set 'data.options={a: 1, b: 2}'"),
    ("train.optimizer_options=3", "must be a valid dictionary, not 3; write --set"),
    ("backbone.options.x=", "backbone.options.x: has no value; write null for none"),
    ("backbone.options.x={1: 2}", "has a key that is not text: 1"),
    ("backbone.options.x=!!binary aGk=", "cannot be of type bytes"),
    ("backbone.options.x=!!set {a}", "cannot be of type set"),
    ("backbone.options.x=!!timestamp 9", "is not valid YAML"),
    ("backbone.options.x=!!int ''", "is not valid YAML"),
    ("backbone.options.x=!!python/object/apply:os.system [exit]", "is not valid YAML"),
    ("backbone.options.x=&a [*a]", "the reference *a is not supported"),
    ("task.crop_scale=[0.9, 0.1]", "must be two shares in (0, 1], the smaller one first"),
    ("task.crop_scale=[5, 6]", "must be two shares in (0, 1]"),
    ("task.jitter=[1, 1, 1, 0.9]", "must be strengths of at least 0, the hue's of at most 0.5"),
    ("task.jitter=[1, 1, -1, 0.1]", "must be strengths of at least 0"),
    ("task.name=simlcr", "there is no task 'simlcr'. Did you mean 'simclr'?"),
    ("task.name=3", "task.name: must be a name, not 3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG_SETS, ids=[text[:40] for text, _ in WRONG_SETS])
def test_a_wrong_set_is_named_with_path_and_reason(text: str, expected: str) -> None:
    message = complaint(None, SIMCLR, [text])
    assert message.startswith(f"--set {text}"[:80].rstrip())
    assert expected in message


WRONG_FILES = [
    ("- 1", "must hold the sections task, data, backbone, train, provenance, not [1]"),
    ("text", "must hold the sections"),
    ("task: simclr", "task: must hold settings, such as task.name, not 'simclr'"),
    ("task: {name: simclr}\ntrain: [1]", "train: must hold settings, not [1]"),
    ("task: {name: simclr}\nepochs: 3", "there is no section 'epochs'. Did you mean 'train.epochs'?"),
    ("task: {name: simclr}\n1: 3", "there is no section '1'"),
    ("task:\n  name: simclr\n out: 3", "line 3: is not valid YAML"),
    ("task: {name: simclr}\ntrain: {lr: 1, lr: 2}", "line 2: is not valid YAML: 'lr' is given twice"),
    ("task: {name: simclr}\ntask: {name: moco}", "line 2: is not valid YAML: 'task' is given twice"),
    ("a: 1\n---\nb: 2", "is not valid YAML: but found another document"),
    ("\x00", "is not valid YAML"),
    (b"\xff\xfe\xfa", "is not valid UTF-8"),
    ("task: {name: simclr, outt: 3}", "task.outt: there is no such setting. Did you mean 'out'?"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG_FILES)
def test_a_wrong_file_is_named_with_path_and_reason(
    tmp_path: Path, text: str | bytes, expected: str
) -> None:
    file = write(tmp_path, text)
    message = complaint(file)
    assert message.startswith(f"--config {file}")
    assert expected in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in complaint(tmp_path / "none.yaml")
    assert "cannot be read: Is a directory" in complaint(tmp_path)
    assert "cannot be read" in complaint("\0")


def test_a_wrong_flag_is_called_what_the_user_calls_it() -> None:
    given = {**SIMCLR, "train.batch_size": 1}
    assert complaint(None, given).startswith("train.batch_size: must be")
    message = complaint(None, given, flags={"train.batch_size": "--batch-size"})
    assert message.startswith(
        "--batch-size: train.batch_size: must be greater than or equal to 2, not 1"
    )


def test_values_from_python_are_checked_like_those_of_a_file() -> None:
    assert "cannot be of type object" in complaint(None, {**SIMCLR, "backbone.options": {"a": object()}})
    assert "there is no section 'a'" in complaint(None, {**SIMCLR, "a": 3})
    loop: list[Any] = []
    loop.append(loop)
    assert "is nested too deeply" in complaint(None, {**SIMCLR, "backbone.options.a": loop})


def test_no_task_at_all_lists_those_that_there_are() -> None:
    assert complaint() == f"task.name: is required (--task NAME); there are: {', '.join(SHIPPED)}"


def test_an_error_has_its_parts_beside_its_text() -> None:
    with pytest.raises(SettingError) as caught:
        load_config(None, {**SIMCLR, "train.lr": -1}, flags={"train.lr": "--lr"})
    error = caught.value
    assert (error.path, error.reason, error.origin) == (
        "train.lr",
        "must be greater than 0, not -1",
        "--lr",
    )
    assert str(error) == "--lr: train.lr: must be greater than 0, not -1"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# ---- faults of a task's own


class Unsound(TaskOptions):
    share: float = Field(2.0, le=1)


class Required(TaskOptions):
    width: int
    mode: int | bool = 3


class Infinite(TaskOptions):
    limit: float = math.inf


class Unwritable(TaskOptions):
    model_config = {"arbitrary_types_allowed": True}
    thing: Any = object()


class Crashing(TaskOptions):
    def model_post_init(self, context: Any) -> None:
        raise ZeroDivisionError("oh")


def test_a_default_that_its_own_range_refuses_is_told_before_the_run() -> None:
    register("odd", Unsound)
    assert complaint(None, {"task.name": "odd"}) == (
        "the defaults of task 'odd': task.share: must be less than or equal to 1, not 2.0"
    )


@pytest.mark.parametrize("options", [Infinite, Unwritable, Crashing])
def test_options_that_no_file_can_hold_are_an_error(options: type) -> None:
    register("odd", options)
    complaint(None, {"task.name": "odd"})


def test_an_option_without_a_default_must_be_given() -> None:
    register("odd", Required)
    assert complaint(None, {"task.name": "odd"}) == "task.width: must be given"
    config = load_config(None, {"task.name": "odd", "task.width": 3}, ["task.mode=true"])
    assert config.task.option_values() == {"width": 3, "mode": True}
    # The member of the union that pydantic complains of is no part of the path.
    assert ": task.mode: must be" in complaint(
        None, {"task.name": "odd", "task.width": 3}, ["task.mode=x"]
    )


def test_a_recipes_backbone_and_source_give_way_whole_to_those_that_a_user_names() -> None:
    recipe = {
        "backbone": {"name": "test_vit", "options": {"patch_size": 4}},
        "data": {"source": "fashion-mnist", "image_size": 28},
    }
    register("own", task_recipe=recipe)
    config = load_config(None, {"task.name": "own"}, ["backbone.options.depth=3"])
    assert config.backbone.name == "test_vit"
    assert config.backbone.options == {"patch_size": 4, "depth": 3}
    assert (config.data.source, config.data.image_size) == ("fashion-mnist", 28)
    named = {"backbone.name": "resnet18", "data.source": "digits"}
    config = load_config(None, {"task.name": "own", **named})
    assert (config.backbone.name, config.backbone.options) == ("resnet18", {})
    assert (config.data.source, config.data.image_size) == ("digits", None)


def test_a_wrong_recipe_is_the_tasks_fault() -> None:
    register("odd", task_recipe={"trian": {"lr": 1}})
    assert complaint(None, {"task.name": "odd"}) == (
        "the recipe of task 'odd': there is no section 'trian' in a recipe. Did you mean 'train'?"
    )
    register("odd", task_recipe={"train": 3})
    assert complaint(None, {"task.name": "odd"}).startswith("the recipe of task 'odd': train: must hold")
    register("odd", task_recipe={"train": {"lrr": 1}})
    assert complaint(None, {"task.name": "odd"}).startswith(
        "the recipe of task 'odd': train.lrr: there is"
    )
    register("odd", task_recipe={"train": {"lr": math.nan}})
    assert complaint(None, {"task.name": "odd"}).startswith(
        "the recipe of task 'odd': train.lr: must be"
    )


# ---- any input whatever

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e5", "12e456", "2024-01-01", "yes", "~", "=", "<<", "1:30", "0o7", "#"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "name",
        "source",
        "image_size",
        "options",
        "epochs",
        "minutes",
        "lr",
        "milestones",
        "seed",
        "out",
        "temperature",
        "jitter",
    ]
)
SECTIONS = st.sampled_from(["task", "data", "backbone", "train", "provenance"])
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def configured(folder: Path, *arguments: Any) -> None:
    """Check that the configuration is the same once written and read, or the error is one line."""
    try:
        config = load_config(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert isinstance(config, RunConfig)
    written = write(folder, dump_config(config))
    assert load_config(written) == config


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=8)  # with surrogates, as an undecodable file name has
    | st.from_regex(r"[-+]?[0-9.]{1,3}[eE_:][-+]?[0-9]{1,3}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(values=st.dictionaries(st.text(max_size=4), PLAIN, max_size=3), source=st.text(max_size=8))
@example(values={"git": "123456e78901", "when": "2024-01-01", "is": "yes"}, source="1e3")
def test_plain_values_survive_being_written(tmp_path: Path, values: Any, source: str) -> None:
    given = {**SIMCLR, "backbone.name": "resnet18", "backbone.options": values}
    given |= {"provenance.made": values, "data.source": source}
    config = load_config(None, given)
    assert config.backbone.options == config.provenance["made"] == values
    assert load_config(write(tmp_path, dump_config(config))) == config


@QUICK
@given(values=VALUES | st.dictionaries(SECTIONS, VALUES | st.dictionaries(NAMES, VALUES, max_size=3)))
@example(values={"backbone": {"options": {"a": [1.5, "1e3", None, {"b": True}]}}})
def test_any_structure_in_a_file(tmp_path: Path, values: Any) -> None:
    if isinstance(values, dict):
        values = {"task": {"name": "simclr"}, **values}
    configured(tmp_path, write(tmp_path, yaml.safe_dump(values, allow_unicode=True)))


@QUICK
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "ignore"))
)
def test_any_bytes_in_a_file(tmp_path: Path, content: bytes) -> None:
    configured(tmp_path, write(tmp_path, content), SIMCLR)


@QUICK
@given(
    text=st.text(max_size=30)
    | st.builds("{}.{}={}".format, SECTIONS, NAMES, st.text(max_size=12))
    | st.builds("{}.{}={}".format, SECTIONS, NAMES, SCALARS)
    | st.builds("{}.{}={}".format, SECTIONS, NAMES, st.text("[]{}:,&*!|>%@`'\"-? 1ae.\n#", max_size=12))
)
@example(text="data.source=\ud800")
@example(text='data.source="\\uD800"')
@example(text='backbone.name="a\\0\\x85\\u2028 b"')
def test_any_text_in_a_set(tmp_path: Path, text: str) -> None:
    configured(tmp_path, None, SIMCLR, [text])


@QUICK
@given(
    overrides=st.dictionaries(st.text(max_size=6) | st.builds("{}.{}".format, SECTIONS, NAMES), VALUES)
)
def test_any_overrides(tmp_path: Path, overrides: dict[str, Any]) -> None:
    configured(tmp_path, None, {**SIMCLR, **overrides})
