"""The engine from the outside: answers, threads, faults."""

import copy
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from serving.engine.engine import Engine, EngineConfig
from serving.engine.loop import StepResult
from serving.engine.request import (
    Constraint,
    ConstraintKind,
    EngineOverloaded,
    FinishReason,
    Progress,
    Request,
    RequestRefused,
    SamplingParams,
)
from serving.engine.slices import Slice
from serving.models.decoder import Decoder
from serving.weights import LoadedModel
from tests.serving.engine.asking import (
    Answers,
    an_engine,
    ask,
    greedy,
    reference_answer,
    some_prompts,
)


def a_request(
    request_id: str = "r", prompt: Sequence[int] = (1, 2, 3), **sampling: object
) -> Request:
    params = {"max_tokens": 200, "temperature": 0.0, "ignore_eos": True, **sampling}
    return Request(request_id, prompt, SamplingParams(**params), time.monotonic_ns())  # type: ignore[arg-type]


def test_greedy_answers_are_those_of_transformers_alone_and_together(
    tiny: LoadedModel, tiny_reference: LlamaForCausalLM
) -> None:
    prompts = some_prompts(8)
    right = [reference_answer(tiny_reference, prompt, 24) for prompt in prompts]
    with an_engine(tiny, max_batch_tokens=40, block_tokens=8) as engine:
        alone = [ask(engine, [prompt], [greedy()])[0] for prompt in prompts]
        together = ask(engine, prompts, [greedy()] * len(prompts))
    assert alone == right
    assert together == right


@pytest.mark.parametrize(
    "way",
    [
        {"overlap": True},
        {"overlap": True, "kv_blocks": 16},
        {"prefix_cache": False},
        {"overlap": True, "cuda_graphs": True},
        {"speculate": "ngram:3"},
        {"speculate": "draft:itself:3"},
        {"speculate": "draft:another:3", "kv_blocks": 16},
    ],
    ids=str,
)
def test_an_answer_is_the_same_whatever_way_it_is_computed(
    way: dict, tiny: LoadedModel, tiny_reference: LlamaForCausalLM
) -> None:
    prompts = [*some_prompts(7), [5, 6, 7, 8] * 6, [5, 6, 7, 8] * 7]
    right = [reference_answer(tiny_reference, prompt, 24) for prompt in prompts]
    sampled = SamplingParams(max_tokens=24, seed=3)
    draft_model = tiny.model if "itself" in str(way) else another(tiny)
    with an_engine(tiny, block_tokens=8) as engine:
        drawn = ask(engine, prompts, [sampled] * len(prompts))
    with an_engine(tiny, block_tokens=8, draft_model=draft_model, **way) as engine:
        assert ask(engine, prompts, [greedy()] * len(prompts)) == right
        stats = engine.stats()
        assert ask(engine, prompts, [sampled] * len(prompts)) == drawn
    if "itself" in str(way):
        assert stats.accepted_draft_tokens > 0.8 * stats.draft_tokens > 0
    if "another" in str(way):
        assert 0 <= stats.accepted_draft_tokens < 0.5 * stats.draft_tokens
    assert stats.generated_tokens == sum(map(len, right))


def test_answers_obey_their_constraints_beside_others_that_have_none(
    tiny: LoadedModel, tiny_reference: LlamaForCausalLM
) -> None:
    prompts = some_prompts(4)
    right = [reference_answer(tiny_reference, prompt, 24) for prompt in prompts]
    digits = Constraint(ConstraintKind.REGEX, "[0-9]{3}-[0-9]{2}")
    sampling = [
        replace(greedy(), constraint=digits),
        greedy(),
        replace(greedy(), constraint=digits, temperature=1.0, seed=2),
        greedy(),
    ]
    answers = Answers()
    with an_engine(tiny, overlap=True, speculate="ngram:3") as engine:
        for number, params in enumerate(sampling):
            request = Request(str(number), prompts[number], params, time.monotonic_ns())
            engine.submit(request, answers)
        answers.wait(4)
    assert [answers.tokens(number) for number in "13"] == [right[1], right[3]]
    for number in "02":
        assert re.fullmatch("[0-9]{3}-[0-9]{2}", answers.text(number))
        assert answers.finished(number).reason is FinishReason.STOP


def test_drafts_do_not_lead_a_constrained_answer_astray(tiny: LoadedModel) -> None:
    repeats_itself = Constraint(ConstraintKind.REGEX, "(12){12}")
    answers = Answers()
    with an_engine(tiny, speculate="ngram:3") as engine:
        engine.submit(a_request(constraint=repeats_itself), answers)
        answers.wait(1)
    assert answers.text("r") == "12" * 12
    assert answers.finished("r").reason is FinishReason.STOP


def test_a_constraint_that_is_none_is_refused_with_the_reason(tiny: LoadedModel) -> None:
    with (
        an_engine(tiny) as engine,
        pytest.raises(RequestRefused, match=r"regular expression|regex"),
    ):
        engine.submit(a_request(constraint=Constraint(ConstraintKind.REGEX, "(")), Answers())


def test_penalties_and_log_probabilities_reach_the_sampler(tiny: LoadedModel) -> None:
    answers = Answers()
    with an_engine(tiny, overlap=True) as engine:
        plain = ask(engine, [[5, 6, 7]], [greedy()])[0]
        engine.submit(a_request("p", (5, 6, 7), max_tokens=24, repetition_penalty=1e6), answers)
        engine.submit(a_request("l", (5, 6, 7), max_tokens=24, logprobs=2), answers)
        answers.wait(2)
    penalized = answers.tokens("p")
    assert len({5, 6, 7, *penalized}) == 3 + len(penalized)
    reports = [report for progress in answers.seen["l"] for report in progress.logprobs]
    assert [report.token_id for report in reports] == plain
    assert [report.top[0][0] for report in reports] == plain
    assert all(len(report.top) == 2 and report.logprob <= 0 for report in reports)


@pytest.mark.parametrize("overlap", [False, True])
def test_work_between_steps_takes_turns_with_them_and_changes_no_answer(
    tiny: LoadedModel, tiny_reference: LlamaForCausalLM, overlap: bool
) -> None:
    (prompt,) = some_prompts(1)
    answers, pieces, seen = Answers(), 6, []

    def work() -> str:
        seen.append(len(answers.seen.get("r", ())))
        time.sleep(0.002)
        return threading.current_thread().name

    with an_engine(tiny, overlap=overlap) as engine:
        engine.submit(Request("r", prompt, greedy(), time.monotonic_ns()), answers)
        errands = [engine.between_steps(work) for _ in range(pieces)]
        done = [errand.result(20) for errand in errands]
        answers.wait(1)
        clock = engine.clock()
    assert {each.result() for each in done} == {"engine"}
    assert answers.tokens("r") == reference_answer(tiny_reference, prompt, 24)
    assert seen == sorted(set(seen)), "a step came between any two"
    assert min(each.charge.device_ns for each in done) >= 2_000_000
    charged_ns = answers.finished("r").device_ns + sum(each.charge.device_ns for each in done)
    assert clock.attributed_ns == charged_ns


def test_work_between_steps_that_fails_is_charged_and_harms_nobody(tiny: LoadedModel) -> None:
    with an_engine(tiny) as engine:
        done = engine.between_steps(lambda: 1 // 0).result(20)
        assert len(ask(engine, [[5, 6, 7]], [greedy()])[0]) == 24
    assert done.charge.device_ns > 0
    with pytest.raises(ZeroDivisionError):
        done.result()


def test_work_that_the_engine_has_no_time_for_any_more_is_refused(tiny: LoadedModel) -> None:
    go, began = threading.Event(), threading.Event()
    with an_engine(tiny) as engine:
        first = engine.between_steps(lambda: (began.set(), go.wait(20)))
        left = engine.between_steps(lambda: None)
        began.wait(20)
        stopping = threading.Thread(target=engine.stop)
        stopping.start()
        while not engine._stopping:
            time.sleep(0.001)
        go.set()
        stopping.join(20)
    assert first.result(20).outcome == (None, True)
    with pytest.raises(EngineOverloaded, match="stopping"):
        left.result(20)
    with pytest.raises(EngineOverloaded, match="stopping"):
        engine.between_steps(lambda: None)


def test_without_attribution_nobody_is_charged_and_all_time_is_unattributed(
    tiny: LoadedModel,
) -> None:
    answers = Answers()
    with an_engine(tiny, attribution=False) as engine:
        engine.submit(a_request(max_tokens=3), answers)
        answers.wait(1)
        clock = engine.clock()
    assert answers.finished("r").device_ns == clock.attributed_ns == 0
    assert clock.unattributed_ns > 0


# e4m3 keeps three bits of each number, and a random model's best tokens lie close together
@pytest.mark.parametrize(("dtype", "same_answers"), [("int8", 6), ("fp8", 3)])
def test_a_rounded_cache_holds_more_tokens_and_says_nearly_the_same(
    dtype: str, same_answers: int, tiny: LoadedModel, tiny_reference: LlamaForCausalLM
) -> None:
    prompts = some_prompts(8)
    right = [reference_answer(tiny_reference, prompt, 24) for prompt in prompts]
    sizes = {"kv_blocks": None, "kv_cache_bytes": 100_000}
    with an_engine(tiny, **sizes) as engine:
        room = engine.stats().kv_blocks
    with an_engine(tiny, **sizes, kv_cache_dtype=dtype) as engine:
        assert engine.stats().kv_blocks > 2 * room
        answers = ask(engine, prompts, [greedy()] * len(prompts))
    same = sum(answer[0] == reference[0] for answer, reference in zip(answers, right, strict=True))
    assert same >= same_answers
    assert {len(answer) for answer in answers} <= set(range(1, 25))


def another(loaded: LoadedModel) -> Decoder:
    """A model of the same vocabulary that says something else."""
    torch.manual_seed(5)
    model = copy.deepcopy(loaded.model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_a_preempted_request_gives_the_same_answer(
    tiny: LoadedModel, tiny_reference: LlamaForCausalLM
) -> None:
    prompts = some_prompts(7)
    with an_engine(tiny, kv_blocks=16, block_tokens=8) as engine:
        answers = ask(engine, prompts, [greedy()] * len(prompts))
        assert engine.stats().preemptions > 0
        assert engine.stats().kv_blocks_used == 0
    assert answers == [reference_answer(tiny_reference, prompt, 24) for prompt in prompts]


def test_the_same_seed_gives_the_same_answer_beside_anybody(tiny: LoadedModel) -> None:
    prompts = some_prompts(6)
    dice = SamplingParams(max_tokens=20, temperature=0.9, top_p=0.95, seed=42)
    others = [SamplingParams(max_tokens=15, temperature=1.2, seed=i) for i in range(5)]
    with an_engine(tiny, max_batch_tokens=40) as engine:
        (alone,) = ask(engine, prompts[:1], [dice])
        beside = ask(engine, prompts, [dice, *others])
        (other_seed,) = ask(engine, prompts[:1], [SamplingParams(20, 0.9, 0.95, seed=43)])
    assert beside[0] == alone
    assert other_seed != alone


def test_the_text_is_the_tokens_text(tiny: LoadedModel) -> None:
    with an_engine(tiny) as engine:
        answers = Answers()
        engine.submit(a_request(max_tokens=40), answers)
        answers.wait(1)
    assert answers.text("r") == tiny.tokenizer.decode(answers.tokens("r"))


def test_time_is_conserved_and_the_warm_up_is_nobodys(tiny: LoadedModel) -> None:
    with an_engine(tiny) as engine:
        assert engine.clock().unattributed_ns > 0
        assert engine.clock().attributed_ns == 0
        answers = Answers()
        for number, prompt in enumerate(some_prompts(6)):
            engine.submit(a_request(str(number), prompt, max_tokens=10), answers)
        answers.wait(6)
        clock = engine.clock()
    ends = [answers.finished(str(number)) for number in range(6)]
    assert sum(end.device_ns for end in ends) == clock.attributed_ns
    assert clock.attributed_ns + clock.unattributed_ns + clock.idle_ns == clock.wall_ns
    assert all(end.device_ns_marginal <= end.device_ns <= end.device_ns_alone for end in ends)


def test_a_cancelled_request_ends_and_the_others_go_on(tiny: LoadedModel) -> None:
    with an_engine(tiny) as engine:
        answers = Answers()

        def cancel_at_first_token(progress: Progress) -> None:
            answers(progress)
            if progress.finished is None:
                engine.cancel(progress.request_id)

        engine.submit(a_request("leaves"), cancel_at_first_token)
        engine.submit(a_request("stays", max_tokens=20), answers)
        answers.wait(2)
    assert answers.finished("leaves").reason == FinishReason.CANCELLED
    assert answers.finished("stays").output_tokens == 20


def test_stopping_ends_everybody_who_waits(tiny: LoadedModel) -> None:
    answers = Answers()
    with an_engine(tiny, max_batch_requests=1) as engine:
        for number in range(3):
            engine.submit(a_request(str(number)), answers)
    answers.wait(3)
    assert {answers.finished(str(n)).reason for n in range(3)} == {FinishReason.CANCELLED}
    with pytest.raises(EngineOverloaded, match="stopping"):
        engine.submit(a_request(), answers)
    engine.stop()


def test_a_prompt_that_cannot_fit_is_refused_at_the_door(tiny: LoadedModel) -> None:
    with an_engine(tiny, kv_blocks=4) as engine, pytest.raises(RequestRefused, match="at most 63"):
        engine.submit(a_request(prompt=[1] * 64), Answers())


class Breaks:
    """A runner whose steps fail while `broken` is set, and wait while `gate` is shut."""

    def __init__(self) -> None:
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()

    def attach(self) -> None:
        """Runs anywhere."""

    def launch(self, slices: Sequence[Slice]) -> Callable[[], StepResult]:
        assert self.gate.wait(30)
        if self.broken:
            raise RuntimeError("device lost")
        return lambda: StepResult({part.request_id: [7] for part in slices if part.samples}, 10)


def test_a_failing_step_ends_its_requests_and_the_engine_lives_on(
    tiny: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    runner, answers = Breaks(), Answers()
    with an_engine(tiny, runner) as engine:
        runner.broken = True
        engine.submit(a_request("unlucky"), answers)
        answers.wait(1)
        runner.broken = False
        engine.submit(a_request("later", max_tokens=2), answers)
        answers.wait(1)
        clock = engine.clock()
    unlucky, later = answers.finished("unlucky"), answers.finished("later")
    assert unlucky.reason == FinishReason.ERROR
    assert "device lost" in unlucky.error
    assert later.reason == FinishReason.LENGTH
    assert unlucky.device_ns + later.device_ns == clock.attributed_ns
    assert "a step of 1 requests failed" in caplog.text


def test_a_listener_that_fails_loses_its_own_request_only(
    tiny: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    answers = Answers()

    told: list[Progress] = []

    def fails(progress: Progress) -> None:
        told.append(progress)
        raise OSError("the client hung up")

    with an_engine(tiny, Breaks()) as engine:
        engine.submit(a_request("gone"), fails)
        engine.submit(a_request("here", max_tokens=5), answers)
        answers.wait(1)
    assert answers.finished("here").reason == FinishReason.LENGTH
    assert [progress.finished is not None for progress in told] == [False, True]
    assert "the client hung up" in caplog.text


def test_a_full_engine_says_so_at_once(tiny: LoadedModel) -> None:
    runner, answers = Breaks(), Answers()
    with an_engine(tiny, runner, max_batch_requests=1, max_waiting=1) as engine:
        runner.gate.clear()
        engine.submit(a_request("runs"), answers)
        while engine.stats().waiting:
            time.sleep(0.001)
        engine.submit(a_request("waits"), answers)
        with pytest.raises(EngineOverloaded, match="1 requests are waiting already"):
            engine.submit(a_request("turned away"), answers)
        runner.gate.set()


def test_a_warm_up_that_fails_is_told_at_the_start(tiny: LoadedModel) -> None:
    runner = Breaks()
    runner.broken = True
    engine = Engine(tiny, EngineConfig(kv_blocks=8), runner)
    with pytest.raises(RuntimeError, match="device lost"):
        engine.start()
    engine.stop()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"threads": 0}, "threads=0: expected at least 1"),
        ({"kv_blocks": 0}, "kv_blocks=0"),
        ({"max_batch_tokens": 4, "max_batch_requests": 8}, "every request in a step needs a token"),
    ],
)
def test_sizes_that_make_no_engine_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(**sizes)
