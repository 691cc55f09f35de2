"""Which cores compute."""

import os
import threading
from pathlib import Path

import pytest
import torch

from serving.kernels import native
from serving.kernels.cores import pin

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system can't pin threads"
)


def _cores_by_thread() -> dict[int, frozenset[int]]:
    tasks = (int(task.name) for task in Path("/proc/self/task").iterdir())
    return {task: frozenset(os.sched_getaffinity(task)) for task in tasks}


def _in_a_thread_of_its_own(cores: list[int]) -> dict[int, frozenset[int]]:
    """The cores of the threads that are new while one computes that was pinned."""
    found = {}

    def compute() -> None:
        before = _cores_by_thread().keys() - {threading.get_native_id()}
        pin(cores)
        torch.ones(512, 512) @ torch.ones(512, 512)
        found.update({task: on for task, on in _cores_by_thread().items() if task not in before})

    worker = threading.Thread(target=compute)
    worker.start()
    worker.join()
    return found


def test_a_pinned_thread_stays_on_its_core_and_others_may_go_anywhere() -> None:
    free = os.sched_getaffinity(0)
    first = min(free)
    found = _in_a_thread_of_its_own([first])
    assert set(found.values()) == {frozenset({first})}
    assert os.sched_getaffinity(0) == free


def test_each_thread_that_computes_has_a_core_of_its_own() -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2 or native.library() is None:
        pytest.skip("one core, or no native code")
    found = _in_a_thread_of_its_own(cores)
    assert sorted(found.values(), key=min) == [frozenset({core}) for core in cores]
