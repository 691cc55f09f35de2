"""Where a model is to run."""

import pytest
import torch

from serving.engine.prepare import device_for

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@needs_no_gpu
def test_without_a_gpu_the_cpu_is_meant_unless_a_gpu_was_asked_for() -> None:
    assert device_for("auto") == "cpu"
    with pytest.raises(ValueError, match="device 'cuda:1': torch sees no GPU"):
        device_for("cuda:1")


def test_a_name_that_is_no_devices_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'gpu': expected cpu, cuda"):
        device_for("gpu")
