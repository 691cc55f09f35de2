"""OpenAI's costs and usage, from a server that answers as OpenAI documents."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from collectors.providers import openai
from collectors.providers.lines import BillLine
from collectors.providers.reports import Api, CannotFetch
from tests.collectors.providers.reporting import OPENAI_KEY, Fault, Provider

COSTS = "/v1/organization/costs"
COMPLETIONS = "/v1/organization/usage/completions"
FIRST, LAST = date(2026, 11, 1), date(2026, 11, 20)


def api(provider: Provider, key: str = OPENAI_KEY, **how: Any) -> Api:
    return openai.api(key, provider.url, sleep=lambda _: None, **how)


def cost(line_item: str, value: object, **said: Any) -> dict[str, Any]:
    return {
        "object": "organization.costs.result",
        "amount": {"value": value, "currency": "usd"},
        "line_item": line_item,
        "project_id": "proj_shop",
        **said,
    }


def usage(model: str, **said: Any) -> dict[str, Any]:
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": 1000,
        "input_cached_tokens": 800,
        "output_tokens": 500,
        "num_model_requests": 5,
        "project_id": "proj_shop",
        "model": model,
        "batch": False,
        "service_tier": "default",
        **said,
    }


def only(lines: list[BillLine]) -> BillLine:
    [line] = lines
    return line


def test_a_line_says_its_day_project_model_meter_and_quantity(provider: Provider) -> None:
    provider.has(
        COSTS, FIRST,
        cost("gpt-4o-2024-08-06, cached input", 0.06, quantity=48_000.0, quantity_unit="tokens"),
    )  # fmt: skip
    assert only(openai.bill(api(provider), FIRST, LAST)) == BillLine(
        provider="openai",
        day=FIRST,
        project="proj_shop",
        text="gpt-4o-2024-08-06, cached input",
        model="gpt-4o-2024-08-06",
        meter="cache_read_input_tokens",
        service_tier="",
        quantity=48_000,
        amount=Decimal("0.06"),
        currency="USD",
    )


def test_all_pages_are_read_and_days_are_grouped_by_project_and_line_item(
    provider: Provider,
) -> None:
    provider.most_buckets = 7
    for n in range(20):
        provider.has(COSTS, date(2026, 11, 1 + n), cost("web search tool calls", n))
    lines = openai.bill(api(provider), FIRST, LAST)
    assert [(line.day.day, line.amount) for line in lines] == [(1 + n, n) for n in range(20)]
    assert [asked["group_by[]"] for _, asked in provider.asked] == [["project_id", "line_item"]] * 3


@pytest.mark.parametrize(
    ("line_item", "named"),
    [
        ("gpt-5.5-2026-04-23, input", ("gpt-5.5-2026-04-23", "input_tokens", "")),
        ("gpt-6-astra, input_tokens", ("gpt-6-astra", "input_tokens", "")),
        ("gpt-5.6-sol, cache writes", ("gpt-5.6-sol", "cache_write_input_tokens", "")),
        ("flex | gpt-5-mini, output", ("gpt-5-mini", "output_tokens", "flex")),
        (
            "priority | gpt-5.6-sol, output, long context",
            ("gpt-5.6-sol", "output_tokens", "priority, long context"),
        ),
        ("batch | gpt-4o-mini, input", ("gpt-4o-mini", "input_tokens", "batch")),
        ("gpt-4o-mini, batch input", ("gpt-4o-mini", "input_tokens", "batch")),
        ("ft:gpt-4o-mini-2024-07-18:acme::x, input", ("ft:gpt-4o-mini-2024-07-18:acme::x", "input_tokens", "")),
        ("gpt-image-2.5-sunburst text, cached input", ("gpt-image-2.5-sunburst", "cache_read_input_tokens", "")),
        ("gpt-audio-mini-2025-12-15 audio, input", ("gpt-audio-mini-2025-12-15", "", "")),
        ("whisper-1, audio", ("whisper-1", "", "")),
        ("web search tool calls", ("", "", "")),
        ("", ("", "", "")),
    ],
)  # fmt: skip
def test_a_line_item_names_model_meter_and_tier(
    line_item: str, named: tuple[str, str, str]
) -> None:
    assert openai.named_in(line_item) == named


def test_the_usage_report_says_how_much_where_costs_do_not(provider: Provider) -> None:
    for item in (
        "gpt-4o, input",
        "gpt-4o, cached input",
        "gpt-4o, output",
        "flex | gpt-4o, output",
    ):
        provider.has(COSTS, FIRST, cost(item, "1"))
    provider.has(COMPLETIONS, FIRST, usage("gpt-4o"), usage("gpt-4o", service_tier="flex"))
    assert [line.quantity for line in openai.bill(api(provider), FIRST, LAST)] == [
        200,
        800,
        500,
        500,
    ]


def test_the_usage_report_is_not_asked_where_costs_say_how_much(provider: Provider) -> None:
    provider.has(COSTS, FIRST, cost("gpt-4o, input", 1, quantity=3, quantity_unit="1000_tokens"))
    provider.has(COSTS, FIRST, cost("web search tool calls", 1, quantity=3))
    assert [line.quantity for line in openai.bill(api(provider), FIRST, LAST)] == [3000, None]
    assert {path for path, _ in provider.asked} == {COSTS}


def test_a_quantity_of_an_unknown_unit_is_not_guessed(provider: Provider) -> None:
    provider.has(COSTS, FIRST, cost("gpt-4o, input", 1, quantity=3, quantity_unit="bushels"))
    assert only(openai.bill(api(provider), FIRST, LAST)).quantity is None


def test_what_a_binary_fraction_adds_is_not_money(provider: Provider) -> None:
    provider.has(COSTS, FIRST, cost("tax", 0.1 + 0.2), cost("other", "1.2345"))
    amounts = [line.amount for line in openai.bill(api(provider), FIRST, LAST)]
    assert amounts == [Decimal("0.3"), Decimal("1.2345")]


def test_a_rate_limit_is_waited_for_as_long_as_it_says(provider: Provider) -> None:
    waits: list[float] = []
    provider.faults = [Fault(429, {"error": {"message": "slow down"}}, {"retry-after": "7"})] * 2
    provider.has(COSTS, FIRST, cost("tax", 1))
    patient = openai.api(OPENAI_KEY, provider.url, sleep=waits.append)
    assert only(openai.bill(patient, FIRST, LAST)).amount == 1
    assert waits == [7.0, 7.0]


def test_who_must_wait_longer_than_patience_comes_again_later(provider: Provider) -> None:
    provider.faults = [Fault(429, {"error": {"message": "slow down"}}, {"retry-after": "3600"})]
    with pytest.raises(CannotFetch, match="429: slow down") as caught:
        openai.bill(api(provider), FIRST, LAST)
    assert (caught.value.permanent, caught.value.retry_after_seconds) == (False, 3600.0)


def test_a_provider_that_always_says_at_once_is_not_asked_for_ever(provider: Provider) -> None:
    provider.faults = [Fault(503, b"busy", {"retry-after": "0"})] * 50
    with pytest.raises(CannotFetch, match="503: busy"):
        openai.bill(api(provider, patience_seconds=5), FIRST, LAST)
    assert len(provider.asked) == 11


@pytest.mark.parametrize("fault", [Fault(500, b""), Fault(200, cuts=True)])
def test_what_breaks_once_is_asked_again(provider: Provider, fault: Fault) -> None:
    provider.faults = [fault]
    provider.has(COSTS, FIRST, cost("tax", 1))
    assert only(openai.bill(api(provider), FIRST, LAST)).amount == 1


def test_a_bad_key_is_told_apart_and_never_shown(provider: Provider) -> None:
    with pytest.raises(CannotFetch) as caught:
        openai.bill(api(provider, key="sk-ordinary-1234"), FIRST, LAST)
    assert caught.value.permanent
    assert "refused the key (401: Incorrect API key provided: …)" in str(caught.value)
    assert "sk-admin-…" in str(caught.value)
    assert "sk-ordinary" not in str(caught.value)
    assert len(provider.asked) == 1


@pytest.mark.parametrize("key", ["sk-a\nHost: elsewhere", "sk ä", "schlüssel"])
def test_what_can_be_no_key_is_not_sent(provider: Provider, key: str) -> None:
    with pytest.raises(CannotFetch, match="characters that no key has"):
        api(provider, key=key)


def test_a_provider_that_is_not_there_is_tried_again_later() -> None:
    nobody = openai.api("k", "http://127.0.0.1:1", sleep=lambda _: None, patience_seconds=1)
    with pytest.raises(CannotFetch, match="OpenAI was not reached") as caught:
        openai.bill(nobody, FIRST, LAST)
    assert not caught.value.permanent


def test_a_key_is_not_taken_elsewhere(provider: Provider) -> None:
    provider.faults = [Fault(302, b"", {"location": f"{provider.url}/elsewhere"})]
    with pytest.raises(CannotFetch, match="302"):
        openai.bill(api(provider), FIRST, LAST)
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"<html>", "expected JSON"),
        ([], "expected an object"),
        ({}, "a list of buckets"),
        ({"data": [], "has_more": True, "next_page": None}, "next_page is None"),
        ({"data": [{"start_time": 5, "results": []}]}, "a day of UTC"),
        ({"data": [{"start_time": 86_400, "results": [{"line_item": "x"}]}]}, "KeyError: 'amount'"),
        ({"data": [{"start_time": 86_400, "results": [7]}]}, "TypeError"),
        (
            {"data": [{"start_time": 86_400, "results": [cost("tax", "much")]}]},
            "'much': expected an amount",
        ),
        (
            {"data": [{"start_time": 86_400, "results": [cost("tax", True)]}]},
            "True: expected an amount",
        ),
    ],
)
def test_an_answer_that_nobody_documented_is_refused(
    provider: Provider, answer: object, said: str
) -> None:
    provider.faults = [Fault(200, answer)]
    with pytest.raises(CannotFetch, match="as nobody documented") as caught:
        openai.bill(api(provider), FIRST, LAST)
    assert said in str(caught.value)
    assert caught.value.permanent


def test_a_cursor_that_leads_in_a_circle_is_noticed(provider: Provider) -> None:
    provider.faults = [Fault(200, {"data": [], "has_more": True, "next_page": "a"})] * 3
    with pytest.raises(CannotFetch, match="next_page is 'a'"):
        openai.bill(api(provider), FIRST, LAST)
    assert len(provider.asked) == 2
