"""The run's configuration: one validated model of four sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ssl_zoo.config.presets import DEFAULT_BACKBONE, PRESETS

BUDGETS = ("epochs", "images", "minutes")
"""The fields of which one at most is given."""
DEFAULT_EPOCHS = 100.0
"""The budget where none is given."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TaskConfig(BaseModel):
    """The task's name; every other key is an option of that task, validated by its own `Options`."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="name of a task, as `ssl-zoo tasks` lists them")

    def options(self) -> dict[str, Any]:
        """The task's options as given, not yet validated."""
        return dict(self.model_extra or {})


class DataConfig(_Section):
    """Where the samples come from."""

    source: str = Field("digits", description="a bundled name, a folder, or timm:NAME, hf:NAME")
    root: str | None = Field(None, description="folder in which downloaded data sets are kept")
    image_size: int | None = Field(
        None,
        ge=4,
        le=4096,
        description="side of the network's input in pixels; none: the source's own",
    )
    holdout: float = Field(
        0.1, gt=0, lt=1, description="share kept for evaluation where the source has no test split"
    )
    workers: int = Field(2, ge=1, le=256, description="decoding threads")
    resident: Literal["auto", "always", "never"] = Field(
        "auto", description="keep decoded samples in memory on the device (auto: where they fit)"
    )
    cache: str | None = Field(
        None, description="folder in which decoded images are kept on disk, for this and later runs"
    )


class BackboneConfig(_Section):
    """The network to train: a preset, a timm model, or a backbone of a plugin."""

    name: str = Field(
        DEFAULT_BACKBONE,
        description=f"{', '.join(PRESETS)}, any timm model, or a backbone that a plugin registers",
    )
    pretrained: bool = Field(False, description="start from timm's pretrained weights")
    stem: Literal["auto", "small", "original"] = Field(
        "auto", description="small: 3×3 stem without early pooling; auto: small up to 64 pixels"
    )
    stem_stride: Literal[1, 2] = Field(
        1, description=f"stride of the small stem's convolution; default for {DEFAULT_BACKBONE}: 2"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of timm.create_model"
    )

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

    def resolve(self) -> BackboneConfig:
        """Return the same network with a preset's name replaced by timm's, and its options merged in."""
        preset = PRESETS.get(self.name)
        if preset is None:
            return self
        options = {**preset.options, **self.options}
        return self.model_copy(update={"name": preset.model, "options": options})


class TrainConfig(_Section):
    """The budget, the optimiser and the machine."""

    epochs: float | None = Field(
        None, gt=0, description="budget in passes over the train split; 100 where none is given"
    )
    images: int | None = Field(None, gt=0, description="budget in images drawn")
    minutes: float | None = Field(None, gt=0, description="budget in minutes of training")
    batch_size: int = Field(256, ge=2, description="images in a batch, over all processes")
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")

    optimizer: str = Field("sgd", description="any of timm's optimisers")
    optimizer_options: dict[str, Any] = Field(default_factory=dict, description="its arguments")
    lr: float = Field(0.06, gt=0, description="learning rate at a batch of 256 images, see lr_scaling")
    lr_scaling: Literal["linear", "sqrt", "none"] = Field(
        "linear", description="lr · B/256, lr · √(B/256), or lr as it stands"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum, or Adam's first beta")
    weight_decay: float = Field(1e-4, ge=0, description="not applied to biases and norms")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="of the rate")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the budget with a rising rate")
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=[0.3, 0.6, 0.8], description="for schedule=step: shares of the budget"
    )
    decay: float = Field(0.1, gt=0, lt=1, description="for schedule=step: factor at a milestone")
    ema: float | None = Field(None, gt=0, lt=1, description="average the backbone's weights too")

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="of the network")
    channels_last: bool | Literal["auto"] = Field("auto", description="memory format of convolutions")
    threads: int | None = Field(
        None, ge=1, le=1024, description="of the CPU for computing; none: torch's choice"
    )
    tune: bool = Field(
        True, description="try which precision, format and threads are quickest, where that pays"
    )
    deterministic: bool = Field(
        False, description="refuse what computes differently each time, and choose nothing by the clock"
    )
    compile: bool = Field(False, description="torch.compile the task")
    cached_gradients: bool = Field(
        False, description="pass a large batch through the network in parts, each twice, to save memory"
    )
    part_size: int = Field(64, ge=1, description="samples in such a part")
    sync_batchnorm: bool = Field(True, description="batch statistics over all processes")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
    seed: int = Field(0, ge=0, lt=2**31, description="all randomness follows from it")

    knn_every: float | None = Field(None, gt=0, description="epochs between kNN evaluations")
    knn_points: int = Field(0, ge=0, description="kNN evaluations, evenly spread over the run")
    log_every: int = Field(10, ge=1, description="steps between logged lines")
    observers: list[str] = Field(
        default=[], description="observers on request that are told of the run, e.g. tensorboard, wandb"
    )
    checkpoint_seconds: float = Field(60, ge=0, description="time between checkpoints; 0: each step")

    @model_validator(mode="after")
    def _one_budget(self) -> TrainConfig:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {' and '.join(given)}")
        if not given:
            self.__dict__["epochs"] = DEFAULT_EPOCHS  # without counting as a field that was given
        if self.compile and self.cached_gradients:
            raise ValueError("give compile or cached_gradients: a part's second pass is not compiled")
        if self.knn_every is not None and self.knn_points:
            raise ValueError("give knn_every or knn_points, not both")
        return self


class EncoderConfig(_Section):
    """A network, the data that it sees, and the machine: what is needed to evaluate one as it is."""

    data: DataConfig = Field(default_factory=DataConfig)
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)


class RunConfig(EncoderConfig):
    """Everything that decides a run."""

    task: TaskConfig
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="what a run was made with; written, never read"
    )


SECTIONS = ("task", "data", "backbone", "train", "provenance")


SECTION_MODELS: dict[str, type[BaseModel]] = {
    section: info.annotation
    for section in SECTIONS
    if isinstance((info := RunConfig.model_fields[section]).annotation, type)
    and issubclass(info.annotation, BaseModel)
}


SETTING_PATHS = {
    name: f"{section}.{name}" for section, model in SECTION_MODELS.items() for name in model.model_fields
}
