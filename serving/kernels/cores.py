"""The cores that a step's threads run on."""

import os
from collections.abc import Sequence

import torch

from serving.kernels import native


def pin(cores: Sequence[int]) -> None:
    """Keep the calling thread on the first core, and each other thread that computes for it on one of the next.

    As many compute from here on as there are cores. Without native code they share the cores.
    """
    torch.set_num_threads(len(cores))
    os.sched_setaffinity(0, cores)
    pin_threads = native.function("pin_threads", "pi")
    if pin_threads is not None:
        numbers = torch.tensor(cores, dtype=torch.int32)
        pin_threads(numbers.data_ptr(), len(cores))
