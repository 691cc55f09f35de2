from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch

from serving.server.app import build_app
from tests.serving.server.fakes import SERVED, FakeEngine, ListRecorder
from tests.serving.server.serving_here import Receiver, RunningServer, running
from tests.serving.server.tiny_model import write_tiny_model


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def recorder() -> ListRecorder:
    return ListRecorder()


@pytest.fixture
def server(engine: FakeEngine, recorder: ListRecorder) -> Iterator[RunningServer]:
    with running(build_app(SERVED, engine, recorder)) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_model(tmp_path_factory.mktemp("tiny-model"))
