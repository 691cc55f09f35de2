"""The GPU's kernels without a GPU: interpreted beside their references, and compiled for an H100.

Both in processes of their own: whether Triton interprets is settled for a process when it is first imported.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from serving.kernels import triton_jit

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CHECKS = HERE / "interpreted" / "check_kernels.py"
SHARED_BYTES = 99 * 1024  # of one program, on the smallest GPUs since 2020; an H100 has 227 KiB

has_triton = platform.system() == "Linux" and platform.machine() == "x86_64"
only_with_triton = pytest.mark.skipif(
    not has_triton, reason="Triton is built for Linux on x86-64 only"
)


def run_python(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.slow
@only_with_triton
def test_kernels_say_in_the_interpreter_what_their_references_say() -> None:
    ini = f"--config-file={CHECKS.parent / 'pytest.ini'}"
    # The conftests above are Django's, which these checks do not need.
    alone = f"--confcutdir={CHECKS.parent}"
    done = run_python(["-m", "pytest", ini, alone, str(CHECKS)], TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@only_with_triton
def test_every_kernel_fits_an_h100(tmp_path: Path) -> None:
    arguments = ["-W", "ignore", "-m", "tests.serving.kernels.for_hopper"]
    done = run_python(arguments, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert {kernel["name"] for kernel in kernels} == {
        "_attend_splits",
        "_merge_splits",
        "_product",
        "_int4_product",
        "_sum_of_parts",
        "_add_rms_norm",
        "_rotate_and_cache",
        "_silu_mul",
    }
    assert max(kernel["shared_bytes"] for kernel in kernels) <= SHARED_BYTES
    assert [kernel for kernel in kernels if kernel["spilled_bytes"]] == []
    # These add up in another order than the instructions for few rows: a row would get other bits beside others.
    assert not any(kernel["has_wgmma"] for kernel in kernels)
    # What fp8 does not hold becomes its largest number, as the layers have it, and no NaN.
    assert {how for kernel in kernels for how in kernel["to_fp8"]} == {
        "cvt.rn.satfinite.e4m3x2.f32"
    }


def test_without_triton_a_launch_says_what_is_missing() -> None:
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from serving.kernels import triton_decode, triton_fused, triton_linear\n"
        "triton_fused.silu_mul(torch.zeros(1, 2))\n"
    )
    done = run_python(["-c", script])
    assert "the kernel '_silu_mul' needs the triton package" in done.stderr


def test_kernels_are_for_gpus_and_the_interpreter() -> None:
    assert triton_jit.usable_on(torch.zeros(1)) == triton_jit.interpreted()
