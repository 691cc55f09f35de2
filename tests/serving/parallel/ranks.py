"""Models over several processes of this machine."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from serving.engine.prepare import prepare
from serving.models.share import join
from serving.parallel.leader import Leader, leading
from serving.parallel.orders import Task
from serving.weights import LoadedModel, load


@contextlib.contextmanager
def over_ranks(
    folder: Path, ranks: int = 2, *, scheme: str = "", device: str = "cpu"
) -> Iterator[tuple[LoadedModel, Leader]]:
    """This process' part of a folder's model, in fp32, and the hold on the others."""
    with leading(a_task(folder, scheme, device), ranks) as leader:
        loaded = load(
            str(folder), dtype=torch.float32, cache_dir=None, device=device, share=leader.share
        )
        prepare(loaded, scheme=scheme)
        join(loaded.model)
        leader.wait_until_ready()
        yield loaded, leader


def a_task(folder: Path, scheme: str = "", device: str = "cpu") -> Task:
    return Task(
        source=str(folder),
        dtype=torch.float32,
        cache_dir=None,
        device=device,
        scheme=scheme,
        threads=1,
    )
