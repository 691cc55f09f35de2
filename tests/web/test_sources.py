from __future__ import annotations

from typing import Any

import time_machine
from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import AuditEvent, IngestKey, Organization
from costwatch.attribution.ingest import take
from costwatch.attribution.models import AssignmentRule
from costwatch.attribution.rollups import add_batches
from costwatch.pricing.cost import total
from costwatch.web.templatetags.units import money_text
from costwatch.web.views.sources import SOURCES_AT_ONCE
from tests.factories import NOON, TeamFactory, body, ingest_key, observation
from tests.web.test_pages import _this_month, text_of


def test_the_page_of_sources_adds_up_and_says_who_pays_and_why(
    furnished: Organization, owner_client: Client
) -> None:
    answer = owner_client.get(reverse("sources"))
    month = total(furnished, _this_month(furnished))
    assert answer.context["total"].cost == month.cost
    shown = text_of(answer.content.decode())
    assert f"{money_text(month.cost)} without {month.unpriced_calls} unpriced" in shown
    assert "feature support chat" in shown
    assert "Chat assistant team tag" in shown
    assert "unattributed no rule matches" in shown


def test_sources_are_found_by_any_part_of_their_tags_and_by_having_no_payer(
    furnished: Organization, owner_client: Client
) -> None:
    def found(**asked: str) -> list[str]:
        rows = owner_client.get(reverse("sources"), asked).context["rows"]
        return [one.source.feature for one, _ in rows]

    assert found(search="UPPORT ch") == ["support chat"]
    assert found(search="nothing like it") == []
    assert found(payer="unattributed") == [""]


def test_thousands_of_sources_come_in_pages(
    organization: Organization, owner_client: Client
) -> None:
    key = ingest_key(organization)
    many = SOURCES_AT_ONCE + 20
    with time_machine.travel(NOON):
        take(key, body(*(observation(feature=f"feature {n}") for n in range(many))))
        add_batches(organization.pk)
        pages = [
            owner_client.get(reverse("sources"), {"page": n, "search": "feature"}) for n in (1, 2)
        ]
    features = [one.source.feature for page in pages for one, _ in page.context["rows"]]
    assert len(pages[0].context["rows"]) == SOURCES_AT_ONCE
    assert sorted(features) == sorted(f"feature {n}" for n in range(many))
    assert "?search=feature&amp;page=2" in pages[0].content.decode()


def test_tags_with_too_many_values_are_warned_of_where_sources_are_listed(
    organization: Organization, owner_client: Client, settings: Any
) -> None:
    settings.MAX_TAG_VALUES = 2
    key = ingest_key(organization)
    with time_machine.travel(NOON):
        take(key, body(*(observation(feature=f"id-{n}") for n in range(5))))
        add_batches(organization.pk)
        answer = owner_client.get(reverse("sources"))
    shown = text_of(answer.content.decode())
    assert f"3 spans sent with {key} had too many different values of feature" in shown
    assert "feature other" in shown


def test_the_unattributed_page_empties_with_the_rule_that_it_offers(
    furnished: Organization, owner_client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    url = reverse("sources-unattributed")
    [gap] = owner_client.get(url).context["gaps"]
    assert gap.unpaid.sum.cost == owner_client.get(url).context["total"].cost > 0
    create = reverse("sources-rule-create")
    form = owner_client.get(f"{create}?{gap.rule}").context["form"]
    asked = {field.html_name: field.value() for field in form if field.value() is not None}
    asked |= {"team": furnished.teams.get(slug="search").pk, "back": "unattributed"}
    shown = owner_client.post(create, asked)
    moved = {one.from_team: one.sum for one in shown.context["preview"].moved}
    assert moved == {None: gap.unpaid.sum}, "nobody who pays already is moved"
    with django_capture_on_commit_callbacks(execute=True):
        saved = owner_client.post(create, {**asked, "previewed": shown.context["digest"]})
    assert saved.headers["Location"] == url
    assert "Somebody pays for everything" in owner_client.get(url).content.decode()
    assert "Unattributed" not in [
        line.label for line in owner_client.get(reverse("overview")).context["teams"]
    ]


def test_what_says_nothing_of_itself_gets_a_rule_by_its_key(
    organization: Organization, owner_client: Client
) -> None:
    key = ingest_key(organization)
    with time_machine.travel(NOON):
        take(key, body(observation(service_name="")))
        add_batches(organization.pk)
        [gap] = owner_client.get(reverse("sources-unattributed")).context["gaps"]
        form = owner_client.get(f"{reverse('sources-rule-create')}?{gap.rule}").context["form"]
    asked = {name: form[name].value() for name in ("service_name", "team_tag", "feature", "key")}
    assert asked == {"service_name": '""', "team_tag": '""', "feature": None, "key": str(key.pk)}


def test_members_see_the_sources_and_are_offered_no_rule(
    furnished: Organization, member_client: Client
) -> None:
    AssignmentRule.objects.create(
        organization=furnished, team=furnished.teams.get(slug="search"), feature="x"
    )
    for name in ("sources", "sources-unattributed", "sources-rules"):
        page = member_client.get(reverse(name)).content.decode()
        assert "Make a rule" not in page
        assert reverse("sources-rule-create") not in page


def test_ingest_health_says_of_each_key_what_came_and_what_was_refused(
    furnished: Organization, owner_client: Client
) -> None:
    key = IngestKey.objects.get(organization=furnished)
    seen = observation(contradiction="more cached than input tokens")
    take(key, body(seen))
    take(key, body(seen))
    answer = owner_client.get(reverse("sources-ingest"))
    [row] = answer.context["rows"]
    assert (row.contradictions, row.health.duplicates) == (1, 1)
    shown = text_of(answer.content.decode())
    assert "contradicts itself more cached than input tokens 1" in shown
    assert "ranker-7b in-house unknown model input tokens, output tokens" in shown


def test_a_key_is_changed_by_its_owner_and_what_it_sent_follows_its_team(
    organization: Organization, owner_client: Client
) -> None:
    key = ingest_key(organization)
    team = TeamFactory(organization=organization, name="Search")
    url = reverse("settings-change-key", args=[key.pk])
    asked = {"name": "shop", "team": team.pk, "requests_per_second": "20", "max_body_bytes": ""}
    asked["bytes_per_second"] = "5000000"
    assert owner_client.post(url, asked).status_code == 302
    key.refresh_from_db()
    limits = (key.requests_per_second, key.bytes_per_second, key.max_body_bytes)
    assert (key.name, key.team, limits) == ("shop", team, (20, 5_000_000, None))
    settings = text_of(owner_client.get(reverse("settings")).content.decode())
    assert "20 requests/s 4.8 MB/s" in settings
    assert AuditEvent.objects.get().details == {
        "name": "shop",
        "team": "search",
        "requests_per_second": 20,
        "bytes_per_second": 5_000_000,
    }
    refused = owner_client.post(url, {**asked, "requests_per_second": "0"})
    assert refused.status_code == 400
    assert "greater than or equal to 1" in str(
        refused.context["form"].errors["requests_per_second"]
    )
