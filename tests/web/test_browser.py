"""Pages in a real browser: what the policy blocks and what does not fit shows only there."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.utils import timezone
from playwright.sync_api import Page
from pytest_django.live_server_helper import LiveServer

from costwatch.accounts.models import IngestKey, Membership, Organization
from costwatch.attribution import content
from costwatch.attribution.models import AssignmentRule, Entry
from costwatch.budgets.models import Budget
from costwatch.reports.bill_models import ProviderAccount
from tests.attribution.test_content import PROMPT, said_at, send
from tests.browser import chromium
from tests.factories import NOON, MembershipFactory
from tests.pricing.usage import offering, source, used
from tests.reports.billing import billed, line
from tests.reports.closing import OCTOBER, closed
from tests.web.test_recommendations import advice

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PASSWORD = "correct horse battery staple"
SIZES = (1440, 390)


@pytest.fixture
def paths(furnished: Organization) -> list[str]:
    """One of every kind of page, for an owner whose address is owner@example.org."""
    MembershipFactory(
        organization=furnished, role=Membership.Role.OWNER, user__email="owner@example.org"
    )
    Budget.objects.create(
        organization=furnished, name="Everything", amount=Decimal("0.5"), currency="USD"
    )
    advice(furnished)
    rule = AssignmentRule.objects.create(
        organization=furnished, team=furnished.teams.get(slug="search"), feature="support*"
    )
    key = IngestKey.objects.get(organization=furnished)
    used(source(furnished, rule.team), offering(furnished), OCTOBER, output_tokens=10**9)
    closed(furnished, "2026-10", NOON)
    used(source(furnished, rule.team), offering(furnished), OCTOBER, output_tokens=2 * 10**9)
    text = "priority | gpt-4o-2024-08-06, output, long context"
    billed(
        furnished,
        line("12.34", 9_000_000, day=NOON.date(), project="proj_" + "x" * 40, text=text),
        days=[NOON.date()],
    )
    ProviderAccount.objects.create(
        organization=furnished, provider="openai", name="main", key_variable="X"
    )
    entry = Entry.objects.filter(organization=furnished, offering__device_type__startswith="N")[0]
    content.set_retention(furnished.pk, 30)
    send(key, said_at(timezone.now(), {**PROMPT, "gen_ai.completion": "wordwithoutend" * 200}))
    told = Entry.objects.filter(organization=furnished).latest("started_at")
    return [
        "/",
        f"/teams/{furnished.teams.get(slug='platform').pk}/",
        "/calls/",
        f"/calls/{entry.call_id}/",
        f"/calls/{told.call_id}/",
        "/budgets/",
        "/budgets/new/",
        "/recommendations/",
        "/statements/",
        "/statements/month/",
        "/statements/month/?month=2026-10",
        f"/statements/team/?month=2026-10&team={furnished.teams.get(slug='search').pk}",
        "/statements/team/?team=unattributed",
        "/statements/move/?month=2026-10&to=open",
        "/statements/reconciliation/",
        "/statements/reconciliation/?provider=openai&project=&model=gpt-4o",
        "/statements/reconciliation/file/",
        "/settings/",
        "/settings/content/",
        f"/settings/keys/{key.pk}/",
        "/sources/",
        "/sources/unattributed/",
        "/sources/rules/",
        "/sources/rules/new/",
        f"/sources/rules/{rule.pk}/",
        f"/sources/rules/{rule.pk}/move/",
        f"/sources/rules/{rule.pk}/delete/",
        "/sources/ingest/",
    ]


def log_in(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_label("E-mail address").fill("owner@example.org")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Acme").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_breaks_no_rule_of_the_policy(
    live_server: LiveServer, paths: list[str], scheme: str
) -> None:
    complaints: list[str] = []
    too_wide: list[str] = []
    with chromium() as browser:
        for width in SIZES:
            page = browser.new_page(
                viewport={"width": width, "height": 900},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page.on(
                "console", lambda m: m.type in {"error", "warning"} and complaints.append(m.text)
            )
            page.on("pageerror", lambda error: complaints.append(str(error)))
            log_in(page, live_server.url)
            for path in paths:
                page.goto(live_server.url + path)
                for chart in page.locator("[data-figure]").all():
                    chart.locator(".main-svg").first.wait_for()
                page.evaluate(
                    "document.querySelectorAll('details').forEach(one => one.open = true)"
                )
                if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                    too_wide.append(f"{path} at {width}")
    assert complaints == []
    assert too_wide == []


def test_the_commands_to_copy_fit_a_telephone(
    live_server: LiveServer, organization: Organization
) -> None:
    MembershipFactory(
        organization=organization, role=Membership.Role.OWNER, user__email="owner@example.org"
    )
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 900})
        log_in(page, live_server.url)
        assert page.locator("pre").count() == 1
        assert not page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        page.goto(f"{live_server.url}/settings/")
        page.locator("#id_name").fill("shop")
        page.get_by_role("button", name="Create key").click()
        page.get_by_text("Copy the key now").wait_for()
        assert not page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


def test_the_overview_refreshes_itself_and_keeps_the_drawn_chart(
    live_server: LiveServer, paths: list[str]
) -> None:
    with chromium() as browser:
        page = browser.new_page()
        log_in(page, live_server.url)
        page.locator("#chart-trend .main-svg").first.wait_for()
        page.evaluate("document.querySelector('#chart-trend .main-svg').dataset.kept = 'yes'")
        page.evaluate("document.querySelector('#teams').textContent = 'Old news'")
        with page.expect_response(lambda answer: "part=live" in answer.url):
            pass
        page.get_by_role("heading", name="Teams").wait_for()
        assert page.locator("#chart-trend [data-kept=yes]").count() == 1


def test_the_colours_of_a_chart_follow_the_reader(
    live_server: LiveServer, paths: list[str]
) -> None:
    def colour(page: Page) -> str:
        return str(
            page.evaluate(
                "getComputedStyle(document.querySelector('#chart-trend .point path')).fill"
            )
        )

    with chromium() as browser:
        page = browser.new_page(color_scheme="light")
        log_in(page, live_server.url)
        page.locator("#chart-trend .point path").first.wait_for(state="attached")
        light = colour(page)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(
            "light => getComputedStyle(document.querySelector('#chart-trend .point path')).fill != light",
            arg=light,
        )
        assert colour(page) != light


def test_earlier_calls_are_added_below_and_a_new_key_is_shown(
    live_server: LiveServer, paths: list[str]
) -> None:
    with chromium() as browser:
        page = browser.new_page()
        log_in(page, live_server.url)
        page.get_by_role("link", name="Calls", exact=True).click()
        page.get_by_role("heading", name="Calls").wait_for()
        first = page.locator("#rows tr").count()
        page.get_by_text("Show earlier calls").click()
        page.wait_for_function(
            "count => document.querySelectorAll('#rows tr').length > count", arg=first
        )
        page.get_by_role("link", name="Settings").click()
        page.locator("#id_name").fill("shop")
        page.get_by_role("button", name="Create key").click()
        page.get_by_text("Copy the key now").wait_for()
