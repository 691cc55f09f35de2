"""The parts that decide and count can be read, and tested, without a device."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "engine.loop",
        "engine.scheduler",
        "engine.kv_cache",
        "accounting.work_model",
        "accounting.shadow",
        "engine.text",
    ],
)
def test_what_decides_and_counts_needs_no_torch(module: str) -> None:
    code = f"import sys, serving.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
