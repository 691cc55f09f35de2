"""What is done to a loaded model once, before an engine runs it: onto its device, into fewer bits, into the device's order."""

import torch

from serving.layers.linear import pack
from serving.quantize.model import quantize
from serving.weights import LoadedModel


def prepare(loaded: LoadedModel, *, device: str = "cpu", scheme: str = "") -> None:
    """Change the loaded model in place. Afterwards it can't be moved or changed in dtype any more.

    device   where it is to run, such as "cpu" or "cuda".
    scheme   of serving/quantize for its weights; "" leaves them as they are.

    Raises ValueError for a scheme that there is none of, or that the weights don't fit, and where there is no such device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device '{device}': torch sees no GPU; check the driver with nvidia-smi, or use 'cpu'"
        )
    loaded.model.to(device)
    if scheme:
        quantize(loaded.model, scheme, stored=loaded.grouped)
    pack(loaded.model)
