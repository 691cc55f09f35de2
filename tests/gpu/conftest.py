"""The device, and a tiny model on it. Also where these tests run by themselves, without the conftest above."""

import copy
from dataclasses import replace

import pytest
import torch

from serving.weights import LoadedModel
from tests.serving.models.tiny_fixtures import tiny as tiny_cpu
from tests.serving.models.tiny_fixtures import tiny_folder, tiny_reference

__all__ = ["tiny_cpu", "tiny_folder", "tiny_reference"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")


@pytest.fixture(scope="session")
def tiny(tiny_cpu: LoadedModel) -> LoadedModel:
    return on_the_gpu(tiny_cpu)


def on_the_gpu(loaded: LoadedModel) -> LoadedModel:
    """A copy."""
    return replace(loaded, model=copy.deepcopy(loaded.model).to("cuda"))
