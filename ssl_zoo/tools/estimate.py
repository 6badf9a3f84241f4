"""``ssl-zoo estimate``: what a long run would take on a cluster, and what would give first.

It is arithmetic on figures that the user may replace by measured ones; nothing is trained or read. The
constants and where they come from are in docs/scale.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssl_zoo.config.errors import SettingError, first_error
from ssl_zoo.text import did_you_mean

T = TypeVar("T", "Job", "Cluster")

PATH_BYTES = 500
"""A path as an object of Python's in each process that lists a folder, with its text."""
INDEX_BYTES = 66
"""An entry of an index: a path of 50 characters, where it ends, and its class; mapped once in a node."""
LISTING_S = 10e-6
"""Listing a file, or looking at it, on a local disk."""
OPENING_S = 1e-4
"""Opening one of many small files at random, on an SSD."""
CACHED_BYTES_PER_PIXEL = 3 * (256 / 224) ** 2
"""A row of the cache: three channels of 8/7 of the input's side."""
FORWARD_SPEED = 3
"""The speed of a forward pass alone, relative to that of training."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Job(_Settings):
    """A run."""

    samples: int = Field(gt=0, description="images")
    epochs: float = Field(100, gt=0, description="passes over them")
    source: Literal["folder", "index", "shards", "cache"] = Field("folder", description="where they are")
    batch_size: int = Field(4096, gt=0, description="images in a step, over all GPUs")
    views: int = Field(2, gt=0, description="views of an image")
    views_per_s: float = Field(2500, gt=0, description="views that a GPU trains in a second")
    parameters: int = Field(28_000_000, gt=0, description="trained parameters")
    width: int = Field(2048, gt=0, description="features of an image")
    side: int = Field(224, gt=0, description="side of the input, in pixels")
    labelled: int = Field(0, ge=0, description="labelled images that evaluation learns from")
    file_kb: float = Field(110, gt=0, description="size of an image's file, in 10³ bytes")
    decode_ms: float = Field(5, ge=0, description="time in which a core decodes an image")
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="train.parallel")


class Cluster(_Settings):
    """Machines."""

    nodes: int = Field(1, gt=0, description="machines")
    gpus: int = Field(8, gt=0, description="GPUs in each")
    cores: int = Field(64, gt=0, description="CPU cores in each")
    memory_gb: float = Field(512, gt=0, description="memory of each")
    gpu_memory_gb: float = Field(80, gt=0, description="memory of each GPU")
    disk_gb_s: float = Field(2, gt=0, description="GB a second that each reads images with")
    network_gb_s: float = Field(12.5, gt=0, description="GB a second that each sends to the others")


def parse(values: Mapping[str, str]) -> tuple[Job, Cluster]:
    """Return a run and machines from settings of either, as texts by name.

    Raises:
        SettingError: there is no such setting, or its value is wrong.
    """
    known = [*Job.model_fields, *Cluster.model_fields]
    if unknown := [name for name in values if name not in known]:
        raise SettingError(
            unknown[0], f"there is no such figure.{did_you_mean(unknown[0], known)} Known are: "
            + ", ".join(known)
        )  # fmt: skip

    def validated(model: type[T]) -> T:
        given = {name: value for name, value in values.items() if name in model.model_fields}
        try:
            return model.model_validate(given)
        except ValidationError as error:
            raise SettingError(*first_error(error, given, list(model.model_fields))) from error

    return validated(Job), validated(Cluster)


@dataclass(frozen=True)
class Need:
    """The need of a run for one resource.

    Attributes:
        part: the thing.
        need: how much is needed, in `unit`.
        have: how much there is; None where there is no limit.
        unit: the unit of both, such as "GB in a node".
    """

    part: str
    need: float
    have: float | None
    unit: str

    @property
    def share(self) -> float:
        """The need, relative to what is available; 0 without a limit."""
        return self.need / self.have if self.have else 0.0


@dataclass(frozen=True)
class Estimate:
    """The time and the resources that a run takes.

    Attributes:
        hours: of training, with what slows it down most.
        computing_hours: of training, if nothing else takes time.
        evaluation_hours: of one row of results.
        start_minutes: until the first step.
        steps: optimiser steps.
        slowing: what makes the run slower if there is too little of it.
        needs: what ends it if there is too little of it.
    """

    hours: float
    computing_hours: float
    evaluation_hours: float
    start_minutes: float
    steps: int
    slowing: tuple[Need, ...]
    needs: tuple[Need, ...]

    @property
    def verdict(self) -> str:
        """The first limit, in a sentence."""
        ends, slows = (max(needs, key=lambda need: need.share) for needs in (self.needs, self.slowing))
        if ends.share > 1:
            return f"{ends.part} is the bottleneck: it needs {ends.share:.1f} times what there is."
        if slows.share > 1:
            return f"{slows.part} is the bottleneck: the run takes {slows.share:.1f} times as long."
        return f"computing takes the time; next is {slows.part}, of which {slows.share:.0%} is used."


def estimate(job: Job, cluster: Cluster) -> Estimate:
    """Estimate what a run would take on machines.

    Args:
        job: the run.
        cluster: the machines.

    Returns:
        The estimate; rates are those at which the GPUs would compute if nothing else were slower.
    """
    n = cluster.nodes * cluster.gpus
    images_per_s = job.views_per_s * n / job.views
    here = images_per_s / cluster.nodes  # in a node
    row = CACHED_BYTES_PER_PIXEL * job.side**2
    file, decode_s = 1e3 * job.file_kb, 1e-3 * job.decode_ms
    cached, listed = job.source == "cache", job.source in ("folder", "cache")
    weights, held = 4.0 * job.parameters, n if job.parallel == "fsdp" else 1
    # A ring sends what it sums twice, but for one share; FSDP gathers the parameters twice instead of
    # once, and sums the gradient.
    sent = (3 if job.parallel == "fsdp" else 2) * weights * (n - 1) / n if cluster.nodes > 1 else 0.0
    entry = PATH_BYTES * cluster.gpus if listed else INDEX_BYTES
    read = row if cached else file
    opened = here if job.source in ("folder", "index") else 0
    gigabytes = 1e-9
    slowing = [
        Need("decoding", 0 if cached else here * decode_s, cluster.cores, "cores of a node"),
        Need("reading", gigabytes * here * read, cluster.disk_gb_s, "GB/s in a node"),
        Need(
            "the network", gigabytes * sent * images_per_s / job.batch_size, cluster.network_gb_s,
            "GB/s out of a node",
        ),
        Need("opening files", opened, 1 / OPENING_S, "a second in a node"),
    ]  # fmt: skip
    needs = [
        Need("memory for lists", gigabytes * entry * job.samples, cluster.memory_gb, "GB in a node"),
        # With the gradient and Adam's moments.
        Need("memory for weights", gigabytes * 4 * weights / held, cluster.gpu_memory_gb, "GB of a GPU"),
        Need(
            "memory for the bank of the kNN", gigabytes * 8 * job.width * job.labelled / n,
            cluster.gpu_memory_gb, "GB of a GPU",
        ),
        Need("space", 1e-12 * job.samples * (file + cached * row), None, "TB of disk"),
    ]  # fmt: skip
    hours = job.samples * job.epochs / images_per_s / 3600
    forward = FORWARD_SPEED * job.views_per_s * n
    if decode_s and not cached:
        forward = min(forward, cluster.cores * cluster.nodes / decode_s)
    return Estimate(
        hours=hours * max(1.0, *(need.share for need in slowing)),
        computing_hours=hours,
        evaluation_hours=job.labelled / forward / 3600,
        start_minutes=listed * job.samples * LISTING_S * (1 + cached) / 60,
        steps=int(job.samples // job.batch_size * job.epochs),
        slowing=tuple(slowing),
        needs=tuple(needs),
    )
