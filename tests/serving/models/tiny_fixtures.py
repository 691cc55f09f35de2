"""A tiny model as fixtures, for the conftests of those who share it: on a CPU and on a GPU."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from serving.weights import LoadedModel, load
from tests.serving.models.tiny import save_tiny_llama


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny") / "tiny-llama"


@pytest.fixture(scope="session")
def tiny_reference(tiny_folder: Path) -> LlamaForCausalLM:
    """transformers' own, on the CPU."""
    torch.set_num_threads(1)
    return save_tiny_llama(tiny_folder)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path, tiny_reference: LlamaForCausalLM) -> LoadedModel:
    return load(str(tiny_folder), dtype=torch.float32, cache_dir=None)
