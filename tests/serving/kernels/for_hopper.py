"""Compile every kernel for an H100, on a machine without one: writes a JSON line a kernel. test_triton.py runs this.

Triton asks its driver for the device and launches; the driver here names a device and launches nothing. So this sees what
a GPU's compiler refuses: layouts, types, more shared memory than there is.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from serving.kernels import triton_decode, triton_fused, triton_linear
from serving.layers.attention import LayerCache

_BF16 = torch.bfloat16
_CACHE_DTYPES = (_BF16, torch.int8, torch.float8_e4m3fn)
_TO_FP8 = ".e4m3x2.f32"
_CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class NoDevice:
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int = 0) -> int:
        return 0


def compile_instead_of_launch() -> None:
    run = JITFunction.run

    def compiled(self: Any, *args: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, warmup=True, **kwargs)
        kernel = kernel.result() if hasattr(kernel, "result") else kernel
        said = {
            "name": self.__name__,
            "shared_bytes": kernel.metadata.shared,
            "spilled_bytes": spilled_bytes(kernel.asm["cubin"]),
            "has_wgmma": "wgmma" in kernel.asm["ptx"],
            "to_fp8": [
                line.split()[0] for line in kernel.asm["ptx"].splitlines() if _TO_FP8 in line
            ],
        }
        sys.stdout.write(f"{json.dumps(said)}\n")
        return kernel

    JITFunction.run = compiled


def spilled_bytes(cubin: bytes) -> int:
    """What a thread keeps in memory because its registers are full."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_CUOBJDUMP, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(said.partition(" STACK:")[2].split()[0])


def launch_all() -> None:
    for dtype in _CACHE_DTYPES:
        for head_dim in (64, 128):
            _decode(_cache(dtype, head_dim), head_dim)
    _decode(_cache(_BF16, 256), 256)
    _decode(_cache(_BF16, 128, kv_heads=1), 128)
    for outputs, inputs in ((4096, 4096), (28672, 4096), (1024, 3072), (1000, 576)):
        for rows in (1, triton_linear.FEW_ROWS):
            _products(torch.zeros(rows, inputs, dtype=_BF16), outputs)
    for size in (576, 4096, 8192):
        rows = torch.zeros(2, size, dtype=_BF16)
        triton_fused.add_rms_norm(rows, rows, rows[0], 1e-5)
        triton_fused.add_rms_norm(rows, None, rows[0], 1e-5)
        triton_fused.silu_mul(rows)
    triton_fused.norm_heads(torch.zeros(2, 16, 128, dtype=_BF16)[:, :8], rows[0, :128], 1e-6)


def _cache(dtype: torch.dtype, head_dim: int, kv_heads: int = 8) -> LayerCache:
    blocks = torch.zeros(3, 16, kv_heads, head_dim).to(dtype)
    scales = torch.zeros(3, 16, kv_heads) if dtype == torch.int8 else None
    return LayerCache(blocks, blocks, scales, scales)


def _decode(cache: LayerCache, head_dim: int) -> None:
    heads = torch.zeros(2, 32, head_dim, dtype=_BF16)
    tables, contexts = torch.zeros(2, 600, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    triton_decode.paged_decode(heads, cache, tables, contexts)
    angles = torch.zeros(2, 1, head_dim, dtype=_BF16)
    slots = torch.zeros(2, dtype=torch.int64)
    part = heads[:, : cache.keys.shape[2]]
    triton_fused.rotate_and_cache(heads, part, part, (angles, angles), cache, slots)
    triton_fused.rotate_and_cache(heads, part, part, None, cache, slots)


def _products(rows: torch.Tensor, outputs: int) -> None:
    inputs = rows.shape[1]
    scales, codes = torch.zeros(outputs), torch.zeros(outputs, inputs)
    triton_linear.plain_linear(rows, codes.to(_BF16), scales.to(_BF16))
    triton_linear.int8_linear(rows, codes.to(torch.int8), scales)
    triton_linear.fp8_linear(rows, codes.to(torch.float8_e4m3fn), scales)
    groups = torch.zeros(outputs, inputs // triton_linear.GROUP_INPUTS, dtype=torch.float16)
    packed = torch.zeros(outputs, inputs // 2, dtype=torch.uint8)
    triton_linear.int4_linear(rows, packed, groups, groups)


if __name__ == "__main__":
    torch.set_num_threads(1)
    driver.set_active(NoDevice())
    compile_instead_of_launch()
    launch_all()
