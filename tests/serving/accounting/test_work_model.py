"""Whose work a step's time was."""

from dataclasses import fields
from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.accounting.work_model import (
    PLAIN,
    Coefficients,
    ModelErrors,
    Work,
    WorkModel,
    attribute,
    fit,
    share_step,
)

H100 = Coefficients(6_800_000.0, 1_500.0, 10_900.0, 48.9, 9.0)
counts = st.integers(0, 10_000)
works = st.builds(Work, counts, counts, counts, counts)
some_works = st.dictionaries(st.text(max_size=3), works, min_size=1, max_size=8)
nanoseconds = st.floats(0, 1e8)
coefficients = st.builds(Coefficients, *[nanoseconds] * 5)


@given(
    st.integers(0, 10**12),
    st.dictionaries(st.text(max_size=3), st.integers(0, 10**15), min_size=1).filter(
        lambda weights: any(weights.values())
    ),
)
def test_shares_sum_to_the_step_to_the_last_nanosecond(
    step_ns: int, weights: dict[str, int]
) -> None:
    shares = share_step(step_ns, weights)
    assert sum(shares.values()) == step_ns
    assert shares.keys() == weights.keys()
    assert min(shares.values()) >= 0


@given(st.integers(0, 10**12), st.lists(st.integers(1, 10**9), min_size=1, max_size=9))
def test_no_share_is_a_whole_nanosecond_off(step_ns: int, weights: list[int]) -> None:
    shares = share_step(step_ns, dict(zip("abcdefghi", weights, strict=False)))
    for share, weight in zip(shares.values(), weights, strict=True):
        assert abs(share * sum(weights) - step_ns * weight) < sum(weights)


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": 3, "b": -1}])
def test_a_step_without_work_is_not_shared_by_a_guess(weights: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected none negative and one positive"):
        share_step(100, weights)


@given(st.integers(0, 10**12), some_works, coefficients)
def test_every_step_is_charged_whole_whatever_the_model_believes(
    step_ns: int, works: dict[str, Work], coefficients: Coefficients
) -> None:
    shares = attribute(step_ns, works, coefficients)
    assert sum(share.device_ns for share in shares.values()) == step_ns
    for share in shares.values():
        assert 0 <= share.marginal_ns <= share.device_ns <= share.alone_ns


def test_the_longer_prompt_pays_more_of_a_shared_step() -> None:
    step = {"long": Work(300, 0, 45_150), "short": Work(20, 0, 210)}
    for coefficients in (PLAIN, H100):
        shares = attribute(10_000_000, step, coefficients)
        assert shares["long"].device_ns > shares["short"].device_ns


def test_the_longer_context_pays_more_for_its_next_token() -> None:
    shares = attribute(8_000_000, {"long": Work(0, 1, 8_000), "short": Work(0, 1, 100)}, H100)
    assert shares["long"].device_ns > shares["short"].device_ns


def test_who_is_alone_pays_all_and_saved_nothing() -> None:
    share = attribute(7_654_321, {"only": Work(0, 1, 500)}, H100)["only"]
    assert share.device_ns == share.alone_ns == 7_654_321
    assert share.marginal_ns < share.device_ns


def test_work_that_the_model_thinks_free_is_shared_evenly() -> None:
    shares = attribute(11, {"a": Work(0, 0, 5), "b": Work(0, 0, 1)}, PLAIN)
    assert sorted(share.device_ns for share in shares.values()) == [5, 6]


@settings(deadline=None)
@given(st.lists(works, min_size=1, max_size=6), coefficients)
def test_a_share_is_what_a_request_adds_averaged_over_all_orders(
    works: list[Work], coefficients: Coefficients
) -> None:
    """Brute-force Shapley value of v(S) = fixed + what S adds, v(nobody) = 0."""
    own = [coefficients.own_ns(work) for work in works]
    value = [0.0] * len(works)
    for order in permutations(range(len(works))):
        for place, player in enumerate(order):
            value[player] += own[player] + (coefficients.fixed_ns if place == 0 else 0.0)
    shapley = [total / factorial(len(works)) for total in value]
    step_ns = round(coefficients.fixed_ns + sum(own))
    shares = attribute(
        step_ns, {str(i): work for i, work in enumerate(works)}, coefficients
    ).values()
    for share, expected in zip(shares, shapley, strict=True):
        assert share.device_ns == pytest.approx(expected, rel=1e-9, abs=2 + step_ns * 1e-9)


def _steps(count: int, seed: int) -> list[list[Work]]:
    """Mixed steps as a server sees them: some prompts, several answers."""
    random = np.random.default_rng(seed)
    steps = []
    for _ in range(count):
        decodes = [
            Work(0, 1, int(random.integers(16, 4_000))) for _ in range(random.integers(1, 9))
        ]
        prefill = int(random.integers(0, 3)) * int(random.integers(8, 256))
        steps.append([*decodes, Work(prefill, 0, 0, prefill * prefill // 2)])
    return steps


def _noisy_ns(works: list[Work], truth: Coefficients, noise: float) -> int:
    return round((truth.fixed_ns + sum(map(truth.own_ns, works))) * noise)


def test_the_model_finds_what_steps_cost_through_noise_and_stalls() -> None:
    random = np.random.default_rng(1)
    model = WorkModel()
    for works in _steps(640, seed=2):
        stall = random.uniform(1.5, 4.0) if random.random() < 0.25 else 1.0  # others had the core
        model.observe(_noisy_ns(works, H100, stall * random.normal(1.0, 0.02)), works)
    assert model.fitted
    found, truth = model.coefficients, H100
    assert found.fixed_ns == pytest.approx(truth.fixed_ns, rel=0.05)
    assert found.prefill_token_ns == pytest.approx(truth.prefill_token_ns, rel=0.2)
    assert found.context_token_ns == pytest.approx(truth.context_token_ns, rel=0.15)


def test_one_kind_of_step_alone_leaves_the_plain_shares() -> None:
    model = WorkModel()
    for _ in range(200):
        model.observe(1_000_000, [Work(0, 1, 100)])
    assert not model.fitted
    assert model.coefficients == PLAIN


def test_the_warm_up_is_remembered_when_only_answers_follow() -> None:
    model = WorkModel()
    for works in _steps(32, seed=3):
        model.observe(_noisy_ns(works, H100, 1.0), works, anchor=True)
    for _ in range(2_500):
        model.observe(_noisy_ns([Work(0, 1, 100)], H100, 1.0), [Work(0, 1, 100)])
    assert model.coefficients.prefill_token_ns == pytest.approx(H100.prefill_token_ns, rel=0.05)


def test_a_step_too_short_for_the_clock_teaches_nothing() -> None:
    model = WorkModel()
    for works in _steps(100, seed=4):
        model.observe(0, works)
    assert not model.fitted


@given(st.integers(0, 2**32))
def test_no_coefficient_is_ever_negative(seed: int) -> None:
    random = np.random.default_rng(seed)
    features = random.integers(0, 500, size=(40, 5)).astype(float)
    features[:, 0] = 1.0
    found = fit(features, random.uniform(1, 1e9, size=40))
    values = (
        found.fixed_ns,
        found.prefill_token_ns,
        found.decode_token_ns,
        found.context_token_ns,
        found.prefill_context_token_ns,
    )
    assert min(values) >= 0
    assert max(values) > 0


def _watched(model: WorkModel, steps: int, truth: Coefficients, seed: int) -> None:
    for works in _steps(steps, seed):
        model.observe(_noisy_ns(works, truth, 1.0), works)


def test_each_fit_has_a_version_and_shares_say_which() -> None:
    model = WorkModel()
    assert model.method == "tokens"
    _watched(model, 64, H100, seed=5)
    assert model.method == "work_model/1"
    _watched(model, 64, H100, seed=6)
    assert model.method == "work_model/2"


def test_errors_are_those_of_steps_that_the_model_had_not_seen() -> None:
    model = WorkModel()
    assert model.errors() == ModelErrors(None, None, None)
    _watched(model, 200, H100, seed=7)
    errors = model.errors()
    assert errors.median == pytest.approx(0.0, abs=1e-6)
    slower = Coefficients(*(2 * getattr(H100, each.name) for each in fields(H100)))
    _watched(model, 40, slower, seed=8)
    assert model.errors().p95 == pytest.approx(0.5, abs=0.01)


def test_drift_says_whether_steps_have_become_slower_or_faster() -> None:
    for factor, drift in ((2.0, -0.5), (0.5, 1.0)):
        model = WorkModel()
        _watched(model, 520, H100, seed=7)
        assert model.errors().drift == pytest.approx(0.0, abs=1e-6)
        other = Coefficients(*(factor * getattr(H100, each.name) for each in fields(H100)))
        _watched(model, 300, other, seed=8)
        assert model.errors().drift == pytest.approx(drift, abs=0.01)


def test_a_model_that_is_far_off_is_not_used_until_it_is_better(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, random = WorkModel(), np.random.default_rng(9)
    _watched(model, 64, H100, seed=9)
    for works in _steps(1_024, seed=10):
        model.observe(int(10 ** random.uniform(4, 9)), works)  # times that follow from nothing
    assert model.method == "tokens"
    assert "shares go by tokens" in caplog.text
    _watched(model, 3_072, H100, seed=11)
    assert model.method.startswith("work_model/")
