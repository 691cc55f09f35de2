"""Where a model is to run, and what is done to it there once, before an engine runs it.

device_for   the device that is meant
prepare      a loaded model into fewer bits, and into the device's order
"""

import torch

from serving.layers.linear import pack
from serving.quantize.model import quantize
from serving.weights import LoadedModel


def device_for(wanted: str) -> str:
    """The device that is meant: "auto" is "cuda" where there is a GPU, else "cpu".

    Raises ValueError for a name that is no device's, and for a GPU where torch sees none.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError:
        raise ValueError(f"device '{wanted}': expected cpu, cuda, cuda:1 or auto") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device '{wanted}': torch sees no GPU; check the driver with nvidia-smi, or use 'cpu'"
        )
    return wanted


def prepare(loaded: LoadedModel, *, scheme: str = "") -> None:
    """Change the loaded model in place. Afterwards it can't be moved or changed in dtype any more.

    scheme   of serving/quantize for its weights; "" leaves them as they are.

    Raises ValueError for a scheme that there is none of, or that the weights don't fit.
    """
    if scheme:
        quantize(loaded.model, scheme, stored=loaded.grouped)
    pack(loaded.model)
