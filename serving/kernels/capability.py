"""What a GPU must be able to do, said before a kernel's compiler says it in words of its own."""

import torch

_FP8 = (8, 9)


def check_fp8(device: torch.device) -> None:
    """Raise ValueError for a GPU that does not know float8_e4m3fn."""
    if device.type == "cuda":
        refuse_before_fp8(
            torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        )


def refuse_before_fp8(name: str, capability: tuple[int, int]) -> None:
    if capability < _FP8:
        found, wanted = (".".join(map(str, pair)) for pair in (capability, _FP8))
        raise ValueError(
            f"'{name}' has compute capability {found}; fp8, of weights and of the KV cache, needs {wanted} "
            "(Ada, Hopper) or later: use int8"
        )
