"""What the leader tells a follower, one after the other, and what a follower says."""

from dataclasses import dataclass
from pathlib import Path

import torch

from serving.engine.paged_model import PagedSizes, Plan
from serving.models.share import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Which model to load, as load() and prepare() take it. device is "cpu" or "cuda": each rank takes its own."""

    source: str
    dtype: torch.dtype
    cache_dir: Path | None
    device: str
    scheme: str
    threads: int


@dataclass(frozen=True, slots=True)
class Begin:
    """The first: what to load, which part of it, and the folder in which ranks meet."""

    task: Task
    share: Share
    folder: Path


@dataclass(frozen=True, slots=True)
class Build:
    """Make a PagedModel of the model."""

    sizes: PagedSizes


@dataclass(frozen=True, slots=True)
class Prepare:
    """Do what PagedModel.prepare does, together."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Run a plan, together. drawn: so many tokens of the step before it come from the leader first."""

    plan: Plan
    drawn: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The last one."""


Order = Begin | Build | Prepare | Compute | Stop

HERE = "here"  # a follower has begun, and goes on to meet the others
READY = "ready"  # it has loaded its part
