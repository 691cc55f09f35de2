"""An engine without a model, and what goes with it. test_fakes.py holds it to what the real engine does.

The fake answers with the letters after the prompt's last one, one a step: "abc" is answered "defg…". A byte is a token.
Half of a prompt that was answered before is in its cache.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serving.accounting.work_model import ModelErrors, WorkModelStats
from serving.engine.errands import Charge, Done, Errand
from serving.engine.request import (
    CompilerBusy,
    Constraint,
    ConstraintKind,
    DeviceClock,
    EngineOverloaded,
    Finished,
    FinishReason,
    Progress,
    Request,
    RequestRefused,
    TokenLogprob,
)
from serving.server.runtime import Served
from serving.server.spans import CallRecord
from serving.server.telemetry import Counts
from serving.server.tools import Tools
from serving.tools.reader import CallPart

CONTEXT_TOKENS = 200
_NO_END = 10**9
Result = TypeVar("Result")
END_OF_ANSWER = "."  # a prompt with it is answered "xyz" and then the end


class ByteTokenizer:
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode(errors="replace")

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        if messages[0]["role"] == "assistant":
            raise ValueError("the conversation must not begin with the assistant")
        return self.encode("\n".join(map(_line, messages)))


def _line(message: Mapping[str, Any]) -> str:
    calls = [json.dumps(each["function"]) for each in message.get("tool_calls", ())]
    return " ".join([message["content"], *calls])


class FakeToolUse:
    """The tools' names stand before the messages. A call is written "@name{arguments}", text before it is text."""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Tools) -> list[int]:
        names = " ".join(each.name for each in tools.offered) or "no tools"
        return list(f"{names}\n".encode()) + ByteTokenizer().encode_chat(messages)

    def constraint(self, tools: Tools, text: Constraint | None = None) -> Constraint | None:
        if text is not None and text.kind is ConstraintKind.REGEX:
            raise RequestRefused("an answer is calls or JSON, and no regex; send one of them")
        names = " ".join(each.name for each in tools.callable)
        if tools.must_call:
            return Constraint(ConstraintKind.STRUCTURAL_TAG, names)
        return text and Constraint(ConstraintKind.STRUCTURAL_TAG, f"{names} or {text.kind}")

    def reader(self, tools: Tools, text: Constraint | None = None) -> "FakeCallReader":
        return FakeCallReader()


class FakeCallReader:
    def __init__(self) -> None:
        self._name: str | None = None  # of the call that is being written
        self._calls = -1

    def push(self, text: str) -> tuple[str, list[CallPart]]:
        """Letter by letter; a name is told when it is all there."""
        said, calls = "", []
        for letter in text:
            if letter == "@":
                self._name, self._calls = "", self._calls + 1
            elif self._name is None:
                if self._calls < 0:
                    said += letter
                else:
                    calls.append(CallPart(self._calls, arguments=letter))
            elif letter == "{":
                call_id = f"call_{self._calls}"
                calls.append(CallPart(self._calls, call_id, self._name, "{"))
                self._name = None
            else:
                self._name += letter
        return said, calls

    def finish(self) -> tuple[str, list[CallPart]]:
        """A name that never came to its end is text."""
        return (f"@{self._name}" if self._name else "", [])


SERVED = Served(
    name="fake-model",
    tokenizer=ByteTokenizer(),
    context_tokens=CONTEXT_TOKENS,
    vocabulary_tokens=256,
    tool_use=FakeToolUse(),
)


_WORK_MODEL = WorkModelStats(7, True, ModelErrors(0.02, 0.1, -0.01))


@dataclass(frozen=True)
class FakeStats:
    running: int
    waiting: int
    kv_blocks: int = 100
    kv_blocks_used: int = 25
    preemptions: int = 3
    steps: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    work_model: WorkModelStats = _WORK_MODEL
    targets_kept: Mapping[tuple[str, str, bool], int] = field(
        default_factory=lambda: {
            ("interactive", "first_token", met): 4 - met for met in (True, False)
        }
    )
    failure: str = ""


@dataclass(eq=False)
class _Work:
    request: Request
    on_progress: Callable[[Progress], None]
    answer: str = ""
    shown: int = 0
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    cached_tokens: int = 0
    device_ns: int = 0


@dataclass
class FakeEngine:
    """hold() and let_go() are there so that a test says what happens when.

    says       what it answers, letter by letter, before it ends; empty: the next letters of the alphabet
    compiled   constraints are compiled, and requests with one taken, once this is set
    """

    max_waiting: int = 100
    says: str = ""
    fails_on: str = "\0"  # a prompt with this text makes the engine fail

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.compiled = threading.Event()
        self.compiled.set()
        self.compiling = 0  # since it began
        self._steps_allowed = _NO_END
        self._to_cancel: set[str] = set()
        self._lock = threading.Condition()
        self._work: list[_Work] = []
        self._errands: list[Errand[Any]] = []
        self._is_stopped = False
        self._attributed_ns = 0
        self._counted: Counter[str] = Counter()
        self._seen: set[tuple[int, ...]] = set()
        self._thread = threading.Thread(target=self._run, name="fake-engine")

    def start(self) -> None:
        self._started_unix_ns, self._started_ns = time.time_ns(), time.monotonic_ns()
        self._thread.start()

    def submit(self, request: Request, on_progress: Callable[[Progress], None]) -> None:
        if bytes(request.prompt_token_ids) == b"unbearable":
            raise RequestRefused("this prompt is unbearable; send another")
        if request.sampling.constraint is not None:
            self._compile(request.sampling.constraint.text)
        with self._lock:
            if len(self._work) >= self.max_waiting:
                raise EngineOverloaded("too many requests are waiting; try again later")
            self.requests.append(request)
            self._work.append(_Work(request, on_progress))
            self._lock.notify()

    def _compile(self, text: str) -> None:
        self.compiling += 1
        self.compiled.wait(20)
        if text == "too many":
            raise CompilerBusy("8 new constraints are being compiled; try again later")
        if text == "[":
            raise RequestRefused("the regex '[' is no regex: it never closes its bracket")

    def stats(self) -> FakeStats:
        with self._lock:
            waiting = sum(each.scheduled_ns is None for each in self._work)
            return FakeStats(len(self._work) - waiting, waiting, **self._counted)

    def cancel(self, request_id: str) -> None:
        with self._lock:
            self._to_cancel.add(request_id)
            self._lock.notify()

    def between_steps(self, work: Callable[[], Result]) -> "Future[Done[Result]]":
        errand = Errand(work)
        with self._lock:
            if self._is_stopped:
                raise EngineOverloaded("the engine is stopping; try again later")
            self._errands.append(errand)
            self._lock.notify()
        return errand.done

    def hold(self, after_steps: int = 0) -> None:
        """Take requests and cancel them, and compute no more than this."""
        with self._lock:
            self._steps_allowed = after_steps

    def let_go(self) -> None:
        with self._lock:
            self._steps_allowed = _NO_END
            self._lock.notify()

    @property
    def open(self) -> int:
        """Requests that it has not finished."""
        with self._lock:
            return len(self._work)

    def clock(self) -> DeviceClock:
        with self._lock:
            wall_ns = time.monotonic_ns() - self._started_ns
            idle_ns = wall_ns - self._attributed_ns
            return DeviceClock(self._started_unix_ns, wall_ns, self._attributed_ns, 0, idle_ns)

    def clocks(self) -> list[DeviceClock]:
        return [self.clock()]

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            self._lock.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._is_stopped:
            with self._lock:
                self._lock.wait_for(self._has_something_to_do)
                self._let_leave(self._to_cancel)
                if self._work and self._steps_allowed:
                    self._steps_allowed -= 1
                    self._step()
            self._do_an_errand()
        with self._lock:
            self._let_leave({each.request.request_id for each in self._work})
            for errand in self._errands:
                errand.done.set_exception(EngineOverloaded("the engine is stopping"))

    def _do_an_errand(self) -> None:
        if not self._errands or self._is_stopped:
            return
        errand = self._errands.pop(0)
        began_ns = time.monotonic_ns()
        outcome = errand.attempt()
        with self._lock:
            device_ns = time.monotonic_ns() - began_ns
            self._attributed_ns += device_ns
        errand.done.set_result(Done(Charge(device_ns, None), outcome))

    def _has_something_to_do(self) -> bool:
        has_work = bool(self._errands) or bool(self._work and self._steps_allowed)
        return self._is_stopped or bool(self._to_cancel) or has_work

    def _let_leave(self, request_ids: set[str]) -> None:
        for work in [each for each in self._work if each.request.request_id in request_ids]:
            self._finish(work, FinishReason.CANCELLED, "")
        self._to_cancel = set()

    def _step(self) -> None:
        began_ns = time.monotonic_ns()
        batch = tuple(self._work)
        self._counted["steps"] += 1
        for work in batch:
            if work.scheduled_ns is None:
                self._let_in(work, began_ns)
            work.answer += self._next_letter(work)
            work.first_token_ns = work.first_token_ns or time.monotonic_ns()
        busy_ns = time.monotonic_ns() - began_ns
        self._attributed_ns += busy_ns
        for place, work in enumerate(batch):
            work.device_ns += busy_ns // len(batch) + (place < busy_ns % len(batch))
            self._tell(work)

    def _let_in(self, work: _Work, now_ns: int) -> None:
        """It reads the whole prompt at once."""
        prompt = tuple(work.request.prompt_token_ids)
        work.scheduled_ns = now_ns
        work.cached_tokens = len(prompt) // 2 if prompt in self._seen else 0
        for name in ("prefix_queried_tokens", "prompt_tokens"):
            self._counted[name] += len(prompt)
        for name in ("prefix_hit_tokens", "cached_prompt_tokens"):
            self._counted[name] += work.cached_tokens

    def _next_letter(self, work: _Work) -> str:
        prompt = bytes(work.request.prompt_token_ids).decode()
        if self.says:
            return (self.says + "\n")[len(work.answer)]
        if END_OF_ANSWER in prompt:
            return "xyz\n"[min(len(work.answer), 3)]
        last = (prompt + work.answer)[-1]
        return chr((ord(last) - ord("a") + 1) % 26 + ord("a"))

    def _tell(self, work: _Work) -> None:
        how = work.request.sampling
        if self.fails_on in bytes(work.request.prompt_token_ids).decode():
            self._finish(work, FinishReason.ERROR, "the fake was told to fail")
        elif work.answer.endswith("\n") and not how.ignore_eos:
            self._finish(work, FinishReason.STOP, work.answer[work.shown : -1])
        elif any(stop in work.answer for stop in how.stop):
            end = min(work.answer.index(stop) for stop in how.stop if stop in work.answer)
            self._finish(work, FinishReason.STOP, work.answer[work.shown : end])
        elif len(work.answer) == how.max_tokens:
            self._finish(work, FinishReason.LENGTH, work.answer[work.shown :])
        else:
            self._show(work)

    def _show(self, work: _Work) -> None:
        # what may be the beginning of a stop text is held back
        held = max((len(stop) - 1 for stop in work.request.sampling.stop), default=0)
        upto = max(len(work.answer) - held, work.shown)
        text, work.shown = work.answer[work.shown : upto], upto
        token_ids = (ord(work.answer[-1]),)
        self._counted["generated_tokens"] += 1
        work.on_progress(Progress(work.request.request_id, token_ids, text, _logprobs(work)))

    def _finish(self, work: _Work, reason: FinishReason, text: str) -> None:
        self._work.remove(work)
        prompt = tuple(work.request.prompt_token_ids)
        finished = Finished(
            reason=reason,
            prompt_tokens=len(prompt),
            output_tokens=len(work.answer),
            arrived_ns=work.request.arrived_ns,
            scheduled_ns=work.scheduled_ns,
            first_token_ns=work.first_token_ns,
            finished_ns=time.monotonic_ns(),
            device_ns=work.device_ns,
            device_ns_marginal=work.device_ns // 2,
            device_ns_alone=work.device_ns * 2,
            prefix_repeated_tokens=0,
            request_repeated=prompt in self._seen,
            cached_tokens=work.cached_tokens,
            error="the fake was told to fail" if reason is FinishReason.ERROR else "",
        )
        self._seen.add(prompt)
        came = reason in (FinishReason.STOP, FinishReason.LENGTH)
        token_ids = (ord(work.answer[-1]),) if came else ()
        self._counted["generated_tokens"] += len(token_ids)
        logprobs = _logprobs(work) if came else ()
        work.on_progress(Progress(work.request.request_id, token_ids, text, logprobs, finished))


def _logprobs(work: _Work) -> tuple[TokenLogprob, ...]:
    """The chosen token, and the letters after it, each half as probable as the one before."""
    wanted = work.request.sampling.logprobs
    if wanted is None:
        return ()
    token_id = ord(work.answer[-1])
    top = tuple((token_id + n, -0.5 - n) for n in range(wanted))
    return (TokenLogprob(token_id, -0.5, top),)


class FakeEmbedder:
    """A text's vector is how long it is, and its first token. go is there for tests to hold a batch back."""

    name, dimensions, max_tokens = "fake-embedder", 2, 10

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def embed(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        self.go.wait(20)
        self.batches.append(len(batch))
        if any(bytes(each) == b"boom" for each in batch):
            raise RuntimeError("the fake was told to fail")
        if any(max(each) > 255 for each in batch):
            raise ValueError("text 0 has token ids beyond 0 … 255")
        return [[float(len(each)), each[0] / 256] for each in batch]


class ListRecorder:
    """Keeps the records of calls that are over."""

    def __init__(self) -> None:
        self.calls: list[CallRecord] = []

    def record(self, call: CallRecord) -> None:
        self.calls.append(call)

    def counts(self) -> Counts:
        return Counts(len(self.calls), 0, 0)
