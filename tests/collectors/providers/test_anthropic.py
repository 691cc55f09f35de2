"""Anthropic's cost and usage reports, from a server that answers as Anthropic documents."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from collectors.providers import anthropic
from collectors.providers.lines import BillLine
from collectors.providers.reports import Api, CannotFetch
from tests.collectors.providers.reporting import ANTHROPIC_KEY, Fault, Provider

COSTS = "/v1/organizations/cost_report"
USAGE = "/v1/organizations/usage_report/messages"
FIRST, LAST = date(2026, 11, 1), date(2026, 11, 20)


def api(provider: Provider, key: str = ANTHROPIC_KEY) -> Api:
    return anthropic.api(key, provider.url, sleep=lambda _: None)


def cost(**said: Any) -> dict[str, Any]:
    return {
        "amount": "123.78912",
        "context_window": "0-200k",
        "cost_type": "tokens",
        "currency": "USD",
        "description": "Claude Sonnet 4.5 Usage - Input Tokens",
        "inference_geo": "global",
        "model": "claude-sonnet-4-5-20250929",
        "service_tier": "standard",
        "token_type": "uncached_input_tokens",
        "workspace_id": "wrkspc_shop",
        **said,
    }


def usage(**said: Any) -> dict[str, Any]:
    return {
        "uncached_input_tokens": 1500,
        "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
        "cache_read_input_tokens": 200,
        "output_tokens": 700,
        "server_tool_use": {"web_search_requests": 10},
        "api_key_id": None,
        "context_window": "0-200k",
        "model": "claude-sonnet-4-5-20250929",
        "service_tier": "standard",
        "workspace_id": "wrkspc_shop",
        **said,
    }


def test_cents_become_dollars_without_losing_a_digit(provider: Provider) -> None:
    provider.has(COSTS, FIRST, cost())
    [line] = anthropic.bill(api(provider), FIRST, LAST)
    assert line == BillLine(
        provider="anthropic",
        day=FIRST,
        project="wrkspc_shop",
        text="Claude Sonnet 4.5 Usage - Input Tokens",
        model="claude-sonnet-4-5-20250929",
        meter="input_tokens",
        service_tier="",
        quantity=None,
        amount=Decimal("1.2378912"),
        currency="USD",
    )


@pytest.mark.parametrize(
    ("said", "meter", "tier"),
    [
        ({"token_type": "output_tokens", "service_tier": "batch"}, "output_tokens", "batch"),
        ({"token_type": "cache_read_input_tokens"}, "cache_read_input_tokens", ""),
        ({"token_type": "cache_creation.ephemeral_5m_input_tokens"}, "cache_write_input_tokens", ""),
        ({"token_type": "cache_creation.ephemeral_1h_input_tokens"}, "cache_write_input_tokens", "1 hour"),
        ({"context_window": "200k-1M", "inference_geo": "us"}, "input_tokens", "long context, us"),
        ({"cost_type": "web_search", "token_type": None, "model": None, "service_tier": None}, "", ""),
    ],
)  # fmt: skip
def test_what_changes_the_price_of_tokens_is_a_tier(
    provider: Provider, said: dict[str, Any], meter: str, tier: str
) -> None:
    provider.has(COSTS, FIRST, cost(**said))
    [line] = anthropic.bill(api(provider), FIRST, LAST)
    assert (line.meter, line.service_tier) == (meter, tier)


def test_the_usage_report_says_how_much_was_used(provider: Provider) -> None:
    kinds = (
        *("uncached_input_tokens", "cache_read_input_tokens"),
        *("cache_creation.ephemeral_5m_input_tokens", "cache_creation.ephemeral_1h_input_tokens"),
        "output_tokens",
    )
    provider.has(COSTS, FIRST, *(cost(token_type=kind, description=kind) for kind in kinds))
    provider.has(USAGE, FIRST, usage(), usage(service_tier="batch", uncached_input_tokens=9))
    lines = anthropic.bill(api(provider), FIRST, LAST)
    assert [line.quantity for line in lines] == [1500, 200, 500, 1000, 700]


def test_a_count_that_two_lines_would_share_is_given_to_none(provider: Provider) -> None:
    provider.has(COSTS, FIRST, cost(), cost(inference_geo="us"))
    provider.has(USAGE, FIRST, usage())
    assert [line.quantity for line in anthropic.bill(api(provider), FIRST, LAST)] == [None, None]


def test_all_pages_are_read(provider: Provider) -> None:
    provider.most_buckets = 3
    for n in range(20):
        provider.has(COSTS, date(2026, 11, 1 + n), cost(workspace_id=None, cost_type="session_usage", token_type=None))  # fmt: skip
    lines = anthropic.bill(api(provider), FIRST, LAST)
    assert [line.day.day for line in lines] == list(range(1, 21))
    assert {line.project for line in lines} == {""}
    assert len(provider.asked) == 7


def test_overload_is_waited_for(provider: Provider) -> None:
    provider.faults = [Fault(529, {"type": "error", "error": {"message": "Overloaded"}})]
    provider.has(COSTS, FIRST, cost())
    assert len(anthropic.bill(api(provider), FIRST, LAST)) == 1


def test_a_bad_key_is_told_apart(provider: Provider) -> None:
    with pytest.raises(
        CannotFetch, match=r"refused the key .* it takes an admin key \(sk-ant-admin"
    ):
        anthropic.bill(api(provider, key="sk-ant-api03-x"), FIRST, LAST)


@pytest.mark.parametrize(
    ("bucket", "said"),
    [
        ({"starting_at": "2026-11-01T05:00:00Z", "results": []}, "the beginning of a day of UTC"),
        ({"starting_at": "soon", "results": []}, "Invalid isoformat"),
        ({"starting_at": "2026-11-01T00:00:00Z"}, "KeyError: 'results'"),
        ({"starting_at": "2026-11-01T00:00:00Z", "results": [cost(currency="JPY")]}, "expected USD"),
        ({"starting_at": "2026-11-01T00:00:00Z", "results": [cost(amount=None)]}, "expected an amount"),
        ({"starting_at": "2026-11-01T00:00:00Z", "results": [cost(amount="NaN")]}, "expected an amount"),
    ],
)  # fmt: skip
def test_an_answer_that_nobody_documented_is_refused(
    provider: Provider, bucket: dict[str, Any], said: str
) -> None:
    provider.faults = [Fault(200, {"data": [bucket], "has_more": False})]
    with pytest.raises(CannotFetch, match=said):
        anthropic.bill(api(provider), FIRST, LAST)
