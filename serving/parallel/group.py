"""How ranks find each other, and which device is whose."""

import os
import socket
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group

from serving.models.share import Share

_PATIENCE = timedelta(minutes=5)  # for a rank that lives and does not come to a product


def check_devices(device: str, ranks: int) -> None:
    """Raises ValueError where there are fewer devices than ranks, or one is named."""
    if device == "cpu":
        return
    if device != "cuda":
        raise ValueError(
            f"device '{device}' with tensor_parallel_size={ranks}: ranks take the GPUs from the first one on; "
            "use 'cuda', and choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    found = torch.cuda.device_count()
    if found < ranks:
        raise ValueError(
            f"tensor_parallel_size={ranks}: torch sees {found} GPUs; each rank needs one"
        )


def device_of(device: str, share: Share) -> str:
    """A rank's own."""
    return f"cuda:{share.rank}" if device == "cuda" else device


def join_group(folder: Path, share: Share, device: str) -> None:
    """Meet the other ranks, and wait until all are there. Nobody from outside of the machine can come: they meet in a
    folder of ours, and talk over its loopback interface, or from GPU to GPU."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, _loopback())
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.set_device(share.rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=(folder / "store").as_uri(),
        rank=share.rank,
        world_size=share.ranks,
        timeout=_PATIENCE,
        device_id=torch.device("cuda", share.rank) if on_gpu else None,
    )


def leave_group(device: str) -> None:
    """Also where other ranks are gone: so GPUs, whose group is taken down together or not at all, let go of it."""
    if device == "cuda":
        _abort_process_group()
    else:
        dist.destroy_process_group()


def _loopback() -> str:
    """lo, on some systems lo0."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
