"""Native code: compiled once, by whatever compiler there is, and left out where there is none."""

import logging
from pathlib import Path

import pytest
import torch

from serving.kernels import native


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(native.NotCompiled, match="install one, such as: apt-get install gcc"):
        native.compiled(tmp_path, compilers=["no-such-compiler"])


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(native.NotCompiled, match="said:"):
        native.compiled(tmp_path, compilers=["false"])
    assert list(tmp_path.iterdir()) == []


def test_what_was_compiled_once_is_taken_again_without_a_compiler(tmp_path: Path) -> None:
    if native.library() is None:
        pytest.skip("there is no native code on this machine")
    file = native.compiled(tmp_path)
    assert native.compiled(tmp_path, compilers=["no-such-compiler"]) == file
    assert list(tmp_path.iterdir()) == [file]


def test_native_code_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COSTWATCH_NATIVE", "no")
    with caplog.at_level(logging.INFO):
        assert native.library.__wrapped__() is None
    assert "COSTWATCH_NATIVE=no" in caplog.text


def test_native_code_shares_the_threads_of_torch() -> None:
    """Two OpenMP libraries in one process would keep two pools of threads that wait for work busily."""
    if native.library() is None or not Path("/proc/self/maps").exists():
        pytest.skip("there is no native code on this machine, or no list of what is loaded")
    torch.set_num_threads(1)
    lines = Path("/proc/self/maps").read_text().splitlines()
    loaded = {line.split()[-1] for line in lines if "libgomp" in line.rsplit("/", 1)[-1]}
    assert len(loaded) <= 1
