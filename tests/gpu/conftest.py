"""The device, and a tiny model on it. Also where these tests run by themselves, without the conftest above."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from serving.weights import LoadedModel, load
from tests.serving.models.tiny import save_tiny_llama


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny") / "tiny-llama"


@pytest.fixture(scope="session")
def tiny_reference(tiny_folder: Path) -> LlamaForCausalLM:
    """transformers' own, on the CPU."""
    return save_tiny_llama(tiny_folder)


@pytest.fixture(scope="session")
def tiny_cpu(tiny_folder: Path, tiny_reference: LlamaForCausalLM) -> LoadedModel:
    return load(str(tiny_folder), dtype=torch.float32, cache_dir=None)


@pytest.fixture(scope="session")
def tiny(tiny_cpu: LoadedModel) -> LoadedModel:
    return on_the_gpu(tiny_cpu)


def on_the_gpu(loaded: LoadedModel) -> LoadedModel:
    """A copy."""
    return replace(loaded, model=copy.deepcopy(loaded.model).to("cuda"))
