"""Triton, where it is installed.

Modules with kernels import cleanly without it; who launches a kernel then is told what is missing. With
TRITON_INTERPRET=1 in the environment before Triton's first import, kernels run on a CPU, slowly and exactly.
"""

from collections.abc import Callable, Sequence
from typing import Any

try:
    import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
except ImportError:
    triton = tl = None

from torch import Tensor

Kernel = Callable[..., None]


class TritonMissing(RuntimeError):
    """A kernel was launched on a machine without Triton."""


class _MissingKernel:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, _grid: object) -> Kernel:
        raise TritonMissing(
            f"the kernel '{self._name}' needs the triton package, which CUDA builds of torch bring along; "
            "install it with: pip install triton"
        )


def jit(*, any_value: Sequence[str] = ()) -> Callable[[Kernel], Any]:
    """triton.jit; without Triton, something that says so when it is launched.

    any_value   names of whole numbers that change from launch to launch: one binary serves all of their values.
                Others are compiled for whether they are 1 or divide by 16.
    """

    def compiled(kernel: Kernel) -> Any:
        if triton is None:
            return _MissingKernel(kernel.__name__)
        return triton.jit(kernel, do_not_specialize=list(any_value))

    return compiled


def installed() -> bool:
    return triton is not None


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return triton is not None and bool(triton.knobs.runtime.interpret)


def usable_on(tensor: Tensor) -> bool:
    """Whether kernels can run where this tensor lies."""
    return installed() and (tensor.is_cuda or interpreted())


def cdiv(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


__all__ = [
    "TritonMissing",
    "cdiv",
    "installed",
    "interpreted",
    "jit",
    "next_power_of_2",
    "tl",
    "usable_on",
]
