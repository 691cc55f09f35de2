"""A call's end, where the engine does not do its part."""

import asyncio

from serving.engine.request import SamplingParams
from serving.server.answers import COMPLETION
from serving.server.calls import Desk
from tests.serving.server.fakes import FakeEngine, ListRecorder


class _DeafEngine(FakeEngine):
    """Never answers, and cannot be told to stop it."""

    def cancel(self, request_id: str) -> None: ...


def test_a_call_that_the_engine_never_lets_go_of_is_recorded_all_the_same() -> None:
    recorder = ListRecorder()

    async def run() -> None:
        desk = Desk(_DeafEngine(), "m", recorder.record)
        desk.open(COMPLETION, {}).submit([[97]], [SamplingParams(max_tokens=1)])
        desk.open(COMPLETION, {})
        await desk.drain(0.01)
        await desk.drain(0.01)

    asyncio.run(run())
    assert sorted(call.error_type for call in recorder.calls) == ["cancelled", "engine_lost"]
