from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.recommendations.models import Recommendation
from tests.web.test_pages import text_of


def advice(organization: Organization, **fields: Any) -> Recommendation:
    known: dict[str, Any] = {
        "kind": "prefix_cache",
        "layer": "serving",
        "title": "Turn the prefix cache on",
        "advice": "Prompts begin alike.",
        "verdict": "pays",
        "saving_low": Decimal("1.20"),
        "saving_high": Decimal("3.40"),
        "currency": "USD",
        "latency_effect": "shorter time to first token",
        "quality_state": "exact",
        "effort": "switch",
        "reversible": True,
        "evidence": {
            "calls": 394,
            "device_ns_marginal": 790 * 10**9,
            "prefix_repeated_share": "0.5800",
            "cost": "0.91",
            "pays_from_calls_per_month": 1400,
            "sources": [{"source_id": 1, "source": "gateway", "input_tokens": 12}],
        },
    }
    return Recommendation.objects.create(organization=organization, **known | fields)


def test_advice_says_all_that_a_decision_needs(
    organization: Organization, owner_client: Client
) -> None:
    advice(organization)
    shown = text_of(owner_client.get(reverse("recommendations")).content.decode())
    for words in (
        "$1.20 to $3.40 a month",
        "Serving",
        "the same answers, by construction",
        "shorter time to first token",
        "a setting , can be undone",
        "prefix repeated share 58 %",
        "device time marginal 790 s",
        "gateway (12 input tokens)",
    ):
        assert words.replace(" ,", ",") in shown.replace(" ,", ","), words


def test_what_does_not_pay_yet_says_from_where_it_does(
    organization: Organization, owner_client: Client
) -> None:
    advice(organization, verdict="not_yet", quality_state="not_measured", reversible=False)
    shown = text_of(owner_client.get(reverse("recommendations")).content.decode())
    assert "Do nothing yet" in shown
    assert "It pays from about 1,400 such calls a month" in shown
    assert "not measured yet" in shown
    assert "can't be undone" in shown.replace("&#x27;", "'")


@pytest.mark.parametrize(("status", "action"), [("", "dismissed"), ("open", "reopened")])
def test_advice_is_dismissed_and_brought_back(
    organization: Organization, owner_client: Client, status: str, action: str
) -> None:
    row = advice(organization, status="open" if action == "dismissed" else "dismissed")
    owner_client.post(reverse("recommendation-status", args=[row.pk]), {"status": status})
    row.refresh_from_db()
    assert row.status == ("dismissed" if action == "dismissed" else "open")
    assert AuditEvent.objects.get().action == f"recommendation.{action}"
