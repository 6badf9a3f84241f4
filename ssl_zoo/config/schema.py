"""The schema of a run's configuration: one pydantic model for each section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ssl_zoo.config.presets import DEFAULT_BACKBONE, PRESETS, SMALL_IMAGE
from ssl_zoo.config.source_names import plain_source, source_name
from ssl_zoo.sizes import Size, height_width, parse_size

BUDGETS = ("epochs", "samples", "minutes")
"""The fields that set the budget; at most one of them is set."""
OLD_NAMES = {"train": {"images": "samples"}}
"""By section, the names of settings in older versions, which are read, and the present ones."""
DEFAULT_EPOCHS = 100.0
"""The budget if none is set."""
DEFAULT_SIZE = 224
"""The side of the network's input for images in files, in pixels, unless another is asked for."""
DEFAULT_HOLDOUT = 0.1
"""The share held out for evaluation if none is set, where evaluation needs one."""
Options = TypeVar("Options", bound=BaseModel)


def _image_size(value: Any) -> Size:
    """Return the size of a network's input in its one form, as `parse_size`."""
    size = parse_size(value)
    if not 4 <= min(height_width(size)) <= max(height_width(size)) <= 4096:
        raise ValueError("must have 4 to 4096 pixels a side")
    return size


ImageSize = Annotated[Size, BeforeValidator(_image_size)]
"""The size of a network's input."""


def current_path(path: str) -> str:
    """Return the present path of a setting that may be given by its name in older versions."""
    section, dot, name = path.partition(".")
    return section + dot + OLD_NAMES.get(section, {}).get(name, name)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TaskConfig(BaseModel):
    """A task's name and options; every key but ``name`` is an option of that task."""

    model_config = ConfigDict(extra="allow")
    _options: BaseModel | None = None

    name: str = Field(description="name of a task, as `ssl-zoo tasks` lists them")

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any], options: BaseModel) -> TaskConfig:
        """Return the section of a task with the values of its options, and the validated options."""
        config = cls(name=name, **values)
        config._options = options
        return config

    def options(self, model: type[Options]) -> Options:
        """Return the options as an instance of `model`, the task's `Options`.

        Raises:
            ValidationError: options that were set by hand are wrong.
        """
        if isinstance(self._options, model):
            return self._options
        return model(**self.option_values())

    def option_values(self) -> dict[str, Any]:
        """Return the options by name, as in ``config.yaml``."""
        return dict(self.model_extra or {})

    def __eq__(self, other: object) -> bool:
        # Whether options are validated already makes no difference.
        return isinstance(other, TaskConfig) and self.model_dump() == other.model_dump()


class DataConfig(_Section):
    """The source of the samples."""

    source: str | Annotated[list[str], Field(min_length=1)] = Field(
        "digits",
        description="name of a data set, timm:NAME or hf:NAME; or a folder, a glob, a list of files "
        "(.txt, .csv, .tsv, .parquet), or several of these",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of the source")
    root: str | None = Field(None, description="folder for downloaded data sets")
    image_size: ImageSize | None = Field(
        None,
        description="side of an image network's input in pixels, or height and width, as [32, 64] or "
        "32x64; none: the source's default",
    )
    default_size: ImageSize = Field(
        DEFAULT_SIZE,
        description="that size for images in files, if image_size is not set; default for pretrained "
        "weights: that of the images they were trained on",
    )
    canvas: Literal["auto", "square"] | Annotated[int, Field(ge=4, le=16384)] = Field(
        "auto",
        description="shorter side, in pixels, at which whole images are kept for training, which sees "
        "random windows of them, of the input's aspect; auto: up to 3.5 times the input, as memory "
        "allows; square: the central part alone, at 8/7 of the input",
    )
    tile: int | None = Field(
        None,
        ge=4,
        le=65536,
        description="shorter side, in pixels of the file, of the tiles into which large images are cut, "
        "of the input's aspect, each of them a sample; none: an image is a sample",
    )
    channels: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="channels of the images; 4: an alpha channel is a channel, not transparency; none: "
        "those that the images have",
    )
    pages: Literal["first", "channels", "samples"] = Field(
        "first",
        description="channels: the pages of a TIFF or DICOM file are the channels of one image; "
        "samples: each page is a sample, also of an animation and along the first axis of an array",
    )
    range: tuple[float, float] | Literal["window"] | None = Field(
        None,
        description="values that are the intensities 0 and 1, one range for all images; window: that of "
        "DICOM files; none: 0 and 255 for 8 bits, otherwise measured",
    )
    range_percentiles: tuple[float, float] = Field(
        (0.0, 100.0), description="percentiles of the values, from which that range is measured"
    )
    widen: bool | None = Field(
        None,
        description="multiply values of 8 bits by 257, so that white is that of 16 bits; none: where "
        "images of both are mixed and range is not set",
    )
    labels: Literal["auto", "none"] = Field(
        "auto", description="none: leave labels out, as where sub-folders are not classes"
    )
    holdout: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of each class held out for evaluation if the source has no test split; none: "
        "a tenth of labelled data, and nothing of data without labels",
    )
    groups: str | None = Field(
        None,
        description="samples to hold out together: folder, or a regular expression that finds the group "
        "in a file's name, such as '(patient\\d+)'",
    )
    workers: int | None = Field(
        None, ge=1, le=256, description="decoding threads; none: one for each CPU core of the process"
    )
    resident: Literal["auto", "always", "never"] = Field(
        "auto", description="keep decoded samples in memory on the device (auto: if they fit)"
    )
    cache: str | None = Field(None, description="folder for decoded images, used by this and later runs")

    @field_validator("range", "range_percentiles")
    @classmethod
    def _rises(cls, limits: tuple[float, float] | str | None) -> tuple[float, float] | str | None:
        if isinstance(limits, tuple) and not limits[0] < limits[1]:
            raise ValueError("give the low value, then the high one, such as [0, 4095]")
        return limits

    @field_validator("range_percentiles")
    @classmethod
    def _percentiles(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] < 0 or limits[1] > 100:
            raise ValueError("percentiles are between 0 and 100, such as [0.1, 99.9]")
        return limits

    @field_validator("source")
    @classmethod
    def _one_source(cls, value: str | list[str]) -> str | list[str]:
        return plain_source(value)

    @property
    def sources(self) -> list[str]:
        """The source, or each of several."""
        return [self.source] if isinstance(self.source, str) else self.source

    @property
    def divides_files(self) -> bool:
        """True if an image file has several samples, its pages or tiles, which are held out together."""
        return self.tile is not None or self.pages == "samples"

    @property
    def source_text(self) -> str:
        """The source as a text, several with commas between them."""
        return ", ".join(self.sources)

    @property
    def source_name(self) -> str:
        """A short name of the source, as `ssl_zoo.config.source_names.source_name` gives it."""
        return source_name(self.source)

    def share_to_hold_out(self, needed: bool) -> float:
        """Return the share of samples to hold out of a source without a test split, in [0, 1).

        Args:
            needed: whether evaluation needs samples that were not trained on, as accuracies do.
        """
        if self.holdout is not None:
            return self.holdout
        return DEFAULT_HOLDOUT if needed or self.groups is not None else 0.0


class BackboneConfig(_Section):
    """The network to train: a preset, a timm model, or a backbone of a plugin."""

    name: str = Field(
        DEFAULT_BACKBONE,
        description="resnet10_narrow, vit4_narrow or vit4_narrow_gap, any timm model, or a backbone "
        "that a plugin registers",
    )
    pretrained: bool = Field(False, description="start from timm's pretrained weights")
    weights: str | None = Field(
        None, description="a run, its backbone.safetensors, or another tool's checkpoint to start from"
    )
    weights_prefix: str | None = Field(
        None, description="what precedes the network's own names in that file; none: it is found"
    )
    strict: bool = Field(
        True, description="refuse weights that do not cover the network, or that it has no place for"
    )
    stem: Literal["auto", "small", "original"] = Field(
        "auto",
        description="small: 3×3 stem without early pooling, and of vit4_narrow patches of 4 pixels; "
        "auto: small up to 64 pixels",
    )
    stem_stride: Literal[1, 2] = Field(
        1, description="stride of the small stem's convolution; default for resnet10_narrow: 2"
    )
    stem_size: int | None = Field(
        None,
        ge=1,
        description="image side by which stem=auto chooses; none: the longer side of the images",
    )
    mean: tuple[float, ...] | None = Field(
        None,
        description="mean of each channel by which images are normalised, for intensities from 0 to 1; "
        "none: that with which the weights were trained, without weights the data's",
    )
    std: tuple[float, ...] | None = Field(None, description="deviation of each channel, likewise")
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        None,
        description="how evaluation resizes images to the input; none: as for the weights in training, "
        "without weights bilinear",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of timm.create_model"
    )

    @model_validator(mode="after")
    def _normalisation(self) -> BackboneConfig:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std belong together; give both, a number for each channel")
        if self.std is not None and not (self.std and min(self.std) > 0):
            raise ValueError("std must be above 0 for each channel")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> BackboneConfig:
        if self.pretrained and self.weights is not None:
            raise ValueError("weights cannot be combined with pretrained; set one")
        return self

    @model_validator(mode="after")
    def _apply_preset(self) -> BackboneConfig:
        preset = PRESETS.get(self.name)
        if preset is not None:
            if self.pretrained:
                raise ValueError(
                    f"{self.name} has no pretrained weights; choose another network with --backbone"
                )
            if "stem_stride" not in self.model_fields_set:
                self.__dict__["stem_stride"] = (
                    preset.stem_stride
                )  # does not count as a field that is set
        return self

    def small(self, side: int) -> bool:
        """Return whether the stem is to be small for images whose longer side has so many pixels."""
        return self.stem == "small" or (
            self.stem == "auto" and (side if self.stem_size is None else self.stem_size) <= SMALL_IMAGE
        )

    def resolve(self, side: int | None = None) -> BackboneConfig:
        """Return the same network with a preset's name replaced by timm's, and its options merged in.

        Args:
            side: the longer side of the images, in pixels; None leaves out what depends on it.
        """
        preset = PRESETS.get(self.name)
        if preset is None:
            return self
        small = preset.small if side is not None and self.small(side) else {}
        options = {**preset.options, **small, **self.options}
        return self.model_copy(update={"name": preset.model, "options": options})

    def spelled_out(self) -> BackboneConfig:
        """Return the same network as `resolve`, with the interpolation that stands for none."""
        return self.resolve().model_copy(update={"interpolation": self.interpolation or "bilinear"})

    @property
    def starts_trained(self) -> bool:
        """True if the network starts from trained weights, timm's or those of a file."""
        return self.pretrained or self.weights is not None

    def untrained(self) -> BackboneConfig:
        """Return the same network, which starts from random weights and is fed as such a one."""
        of_weights = dict.fromkeys(("mean", "std", "interpolation")) if self.starts_trained else {}
        return self.model_copy(update={"pretrained": False, "weights": None, **of_weights})


class TrainConfig(_Section):
    """The budget, the optimiser and the use of the machine."""

    epochs: float | None = Field(
        None, gt=0, description="budget in passes over the train split; 100 if no budget is set"
    )
    samples: int | None = Field(None, gt=0, description="budget in samples drawn")
    minutes: float | None = Field(None, gt=0, description="budget in minutes of training")
    batch_size: int = Field(256, ge=2, description="samples in a batch, over all processes")
    accumulate: int = Field(
        1,
        ge=1,
        description="batches per optimiser step; a loss that compares samples does so within a batch",
    )

    optimizer: str = Field("sgd", description="name of a timm optimiser")
    optimizer_options: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the optimiser"
    )
    lr: float = Field(0.06, gt=0, description="learning rate at a batch of 256 samples, see lr_scaling")
    lr_scaling: Literal["linear", "sqrt", "none"] = Field(
        "linear", description="linear: lr · B/256; sqrt: lr · √(B/256); none: lr unchanged"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum, or Adam's first beta")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay, not applied to biases and norms")
    weight_decay_end: float | None = Field(
        None, ge=0, description="weight decay at the end, reached on a cosine; none: it is constant"
    )
    clip_norm: float | None = Field(None, gt=0, description="maximum norm of the gradient")
    schedule: Literal["cosine", "linear", "step", "constant"] = Field(
        "cosine", description="schedule of the learning rate"
    )
    lr_min: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="for schedule=cosine and linear: where the rate ends, as a share of its peak",
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="factor on the rate of the backbone's layers, for each layer towards the input",
    )
    heads_first: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the budget in which heads alone are trained, before a pretrained backbone",
    )
    warmup: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the budget for warm-up; one of n steps begins at 1/n of the learning rate",
    )
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=[0.3, 0.6, 0.8],
        description="for schedule=step: when to lower the rate, as shares of the budget",
    )
    decay: float = Field(
        0.1, gt=0, lt=1, description="for schedule=step: factor on the rate at each milestone"
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="momentum of a moving average of the weights"
    )

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="number format in which the network computes"
    )
    channels_last: bool | Literal["auto"] = Field("auto", description="memory format of convolutions")
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads for computing; none: torch's choice"
    )
    tune: bool = Field(
        True,
        description="find the fastest number of threads before a run, for a long one also its formats",
    )
    deterministic: bool = Field(
        False, description="refuse nondeterministic operations; implies no tuning"
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="apply torch.compile to the task; auto: in a long run, if a trial shows a gain",
    )
    cached_gradients: bool = Field(
        False, description="pass a large batch through the network in parts, each twice, to save memory"
    )
    part_size: int = Field(64, ge=1, description="samples in a part, see cached_gradients")
    grad_checkpointing: bool = Field(
        False, description="recompute the network's activations in the backward pass, to save memory"
    )
    eval_batch_size: int | None = Field(
        None, ge=1, description="samples in a batch of evaluation; none: follows training and memory"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="in several processes: ddp: each has a copy of the network; fsdp: each has a shard "
        "of it, for backbones that do not fit",
    )
    sync_batchnorm: bool = Field(True, description="compute batch statistics over all processes")
    find_unused_parameters: bool | None = Field(
        None,
        description="in several processes, whether each step searches for parameters without a "
        "gradient; none: if a trial at the start finds any",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of all randomness")

    knn_every: float | None = Field(
        None,
        gt=0,
        description="epochs between evaluations during training, kNN and what keep_best names",
    )
    knn_points: int = Field(
        0, ge=0, description="evaluations during training, evenly spread over the run, as for knn_every"
    )
    keep_every: float | None = Field(
        None, gt=0, description="epochs between snapshots of the backbone; none: the last alone is kept"
    )
    keep_best: str | None = Field(
        None,
        description="figure of the evaluations during training by which the best snapshot is kept: knn, "
        "rankme, which needs no labels, or any other; auto: knn, without labels rankme",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after as many evaluations during training without gain in keep_best's figure",
    )
    log_every: int = Field(10, ge=1, description="steps between logged lines")
    observers: list[str] = Field(
        default=[],
        description="observers on request that follow the run, e.g. tensorboard, wandb, mlflow",
    )
    checkpoint_seconds: float = Field(
        60, ge=0, description="seconds between checkpoints; 0: after each step"
    )

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {OLD_NAMES["train"].get(name, name): value for name, value in values.items()}

    @model_validator(mode="after")
    def _one_budget(self) -> TrainConfig:
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise ValueError(f"give one budget, not {' and '.join(budgets)}")
        if not budgets:
            self.__dict__["epochs"] = DEFAULT_EPOCHS  # without counting as set
        for name in ("cached_gradients", "grad_checkpointing"):
            if self.compile is True and getattr(self, name):
                raise ValueError(f"compile cannot be combined with {name}; set one")
        if self.knn_every is not None and self.knn_points:
            raise ValueError("knn_every cannot be combined with knn_points; set one")
        for name in ("keep_best", "patience"):
            if getattr(self, name) is not None and self.knn_every is None and not self.knn_points:
                raise ValueError(
                    f"{name} needs evaluations during training; set knn_every or knn_points"
                )
        return self


class EncoderConfig(_Section):
    """The settings without a task, to evaluate a network without training."""

    data: DataConfig = Field(default_factory=DataConfig)
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)


class RunConfig(EncoderConfig):
    """All settings of a run."""

    task: TaskConfig
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="versions and command of the run; written, never read"
    )


SECTION_MODELS: dict[str, type[BaseModel]] = {
    "task": TaskConfig,
    "data": DataConfig,
    "backbone": BackboneConfig,
    "train": TrainConfig,
}
"""The sections that users set, in the order of ``config.yaml``."""

SECTIONS = (*SECTION_MODELS, "provenance")

SETTING_PATHS = {
    name: f"{section}.{name}" for section, model in SECTION_MODELS.items() for name in model.model_fields
}
"""The dotted path of each field, by its name."""
