"""Which GPUs compute, by the names that the driver and everything else on the machine know them by."""

import os
from collections.abc import Mapping

import torch

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def gpu_ids(device: torch.device, devices: int) -> list[str]:
    """Of the GPUs that compute, from this one on. None on a CPU."""
    if device.type != "cuda":
        return []
    first = device.index or 0
    return [gpu_id(index) for index in range(first, first + devices)]


def gpu_id(index: int) -> str:
    """index: CUDA's. The driver counts GPUs otherwise, and those that this process may not see, too."""
    properties = torch.cuda.get_device_properties(index)
    return name_of(properties.name, str(properties.uuid), os.environ)


def name_of(product: str, uuid: str, environment: Mapping[str, str]) -> str:
    """NVML's name of a GPU, or of a part of one (MIG).

    product   as CUDA has it; a part's says so: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
    uuid      CUDA's; of a part it is the GPU's with some versions of CUDA, which the environment then knows better.
    """
    if " MIG " not in product:
        return f"GPU-{uuid}"
    named = (environment.get(variable, "").split(",")[0] for variable in _VISIBLE)
    return next((name for name in named if name.startswith("MIG-")), f"MIG-{uuid}")


__all__ = ["gpu_id", "gpu_ids", "name_of"]
