from __future__ import annotations

import html
import re
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import Organization
from costwatch.attribution.models import Entry
from tests.web.test_pages import text_of


def test_paging_shows_every_call_once(furnished: Organization, owner_client: Client) -> None:
    seen: list[UUID] = []
    asked: dict[str, object] = {}
    while True:
        context = owner_client.get(reverse("calls"), asked).context
        seen += [row.call.call_id for row in context["rows"]]
        if not context["more"]:
            break
        asked = dict(parse_qs(urlsplit("?" + context["more"]).query))
    calls = set(Entry.objects.filter(organization=furnished).values_list("call_id", flat=True))
    assert len(seen) == len(set(seen))
    assert set(seen) == calls


def test_filters_leave_what_they_say(furnished: Organization, owner_client: Client) -> None:
    platform = furnished.teams.get(slug="platform")
    asked = {"team": platform.pk, "model": "Llama-3.1-8B-Instruct", "feature": "research agent"}
    rows = owner_client.get(reverse("calls"), asked).context["rows"]
    assert rows
    assert {(row.call.team, row.call.response_model) for row in rows} == {
        ("Agents", "Llama-3.1-8B-Instruct")
    }


def test_dates_in_the_wrong_order_are_explained(owner_client: Client) -> None:
    answer = owner_client.get(reverse("calls"), {"start": "2026-11-09", "end": "2026-11-01"})
    assert "1 November 2026 is before 9 November 2026" in answer.content.decode()


def test_a_cursor_that_nobody_gave_is_explained(owner_client: Client) -> None:
    answer = owner_client.get(reverse("calls"), {"cursor": "x"})
    assert answer.status_code == 400
    assert "expected the next_cursor of a page" in answer.content.decode()


def test_one_call_shows_who_saw_it_who_pays_and_each_line_of_its_cost(
    furnished: Organization, owner_client: Client
) -> None:
    entry = Entry.objects.filter(
        organization=furnished, offering__device_type__startswith="NVIDIA", sign=1
    )[0]
    answer = owner_client.get(reverse("call", args=[entry.call_id]))
    shown = text_of(answer.content.decode())
    assert [one["vantage"] for one in answer.context["observations"]] == ["client", "server"]
    for words in ("Because of team tag", "$2.49 per device-hour", "Queue — 4.10 ms", "measured"):
        assert words in shown
    cost = answer.context["cost"]
    assert sum(line.amount for line in cost.lines) == cost.amount


def test_a_call_of_which_nobody_said_the_tokens_shows_them_as_unknown(
    furnished: Organization, owner_client: Client
) -> None:
    entry = Entry.objects.filter(organization=furnished, usage_known=False)[0]
    shown = text_of(owner_client.get(reverse("call", args=[entry.call_id])).content.decode())
    assert "Output unknown" in shown
    assert "Cost unknown" in shown
    assert "timeout" in shown


def test_the_page_of_what_nobody_pays_leads_to_its_calls(
    furnished: Organization, owner_client: Client
) -> None:
    page = owner_client.get(reverse("sources-unattributed"))
    [link] = re.findall(r'href="([^"]*payer=[^"]*)"', page.content.decode())
    rows = owner_client.get(html.unescape(link)).context["rows"]
    assert {row.call.team for row in rows} == {None}
    assert len(rows) == page.context["total"].calls
