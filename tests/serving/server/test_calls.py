"""A call's end, where the engine does not do its part."""

import asyncio

import openai
import pytest

from serving.engine.request import SamplingParams
from serving.server.admission import Door
from serving.server.app import build_app
from serving.server.calls import Call, Desk, Turn, Wanted
from tests.serving.server.asking import chat
from tests.serving.server.fakes import SERVED, FakeEngine, ListRecorder
from tests.serving.server.serving_here import running


class DeafEngine(FakeEngine):
    """Never answers, and cannot be told to stop it."""

    def cancel(self, request_id: str) -> None: ...


def _open(desk: Desk) -> Call:
    return desk.open("text_completion", "cmpl-", {})


def test_a_call_that_the_engine_never_lets_go_of_is_recorded_all_the_same() -> None:
    recorder = ListRecorder()

    async def run() -> None:
        engine = DeafEngine()
        desk = Desk(engine, "m", recorder.record, Door(engine.stats))
        wanted = Wanted(0, [97], SamplingParams(max_tokens=1))
        await _open(desk).submit([wanted], Turn())
        _open(desk)
        await desk.drain(0.01)
        await desk.drain(0.01)

    asyncio.run(run())
    assert sorted(call.error_type for call in recorder.calls) == ["cancelled", "engine_lost"]


def test_a_server_that_ends_records_what_its_engine_still_holds() -> None:
    engine, recorder = DeafEngine(), ListRecorder()
    engine.start()
    engine.hold()
    with (
        running(build_app(SERVED, engine, recorder, settle_seconds=0.05), 1) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        chat(client, timeout=0.2)
    assert [call.error_type for call in recorder.calls] == ["engine_lost"]
