"""The page of providers' bills beside what was metered."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
import time_machine
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import Membership, Organization, User
from costwatch.domain.reconciliation import Cause
from costwatch.pricing.models import Meter
from costwatch.reports.bill_models import (
    BillFetch,
    ProviderAccount,
    ProviderBill,
    ProviderProject,
)
from costwatch.web.views.reconciliation import CAUSES
from tests.collectors.providers.test_files import AZURE, BEDROCK, FOCUS
from tests.factories import MembershipFactory
from tests.pricing.usage import key_of, offering, source, token_price, used
from tests.reports.billing import billed, line
from tests.web.conftest import client_of
from tests.web.test_pages import text_of

HOUR = datetime(2026, 11, 3, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _in_november() -> Iterator[None]:
    with time_machine.travel(datetime(2026, 11, 20, tzinfo=UTC)):
        yield


@pytest.fixture
def shop(organization: Organization) -> Organization:
    """A million tokens metered at 10 dollars; four million, and a tool, billed."""
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    used(source(organization), offering(organization), HOUR, output_tokens=1_000_000)
    tool = line("0.30", text="web search tool calls", model="", meter="")
    billed(organization, line("40", 4_000_000, project="proj_a"), tool)
    return organization


def finance_of(organization: Organization) -> Client:
    role = Membership.Role.FINANCE
    return client_of(MembershipFactory(organization=organization, role=role).user)


def page(client: Client, **asked: str) -> str:
    answer = client.get(reverse("statements-reconciliation"), asked)
    assert answer.status_code == 200
    return text_of(answer.content.decode())


def test_the_difference_stands_with_its_causes_and_the_coverage(
    shop: Organization, member: User
) -> None:
    text = page(client_of(member))
    for said in ("Billed $40.30", "Metered $10.00", "Difference $30.30", "Coverage 25 %"):
        assert said in text.replace("\u00a0", " ")
    assert "not metered billed, and no telemetry said so $30.30" in text
    assert "no model named openai" in text


def test_a_model_is_shown_day_by_day(shop: Organization, member: User) -> None:
    next_day = date(2026, 11, 4)
    billed(shop, line("7", 700_000, day=next_day), days=[next_day])
    text = page(client_of(member), provider="openai", project="", model="gpt-4o")
    assert "3 Nov 2026" in text
    assert "4 Nov 2026" in text
    assert "Billed $47.00" in text  # of this model alone
    answer = client_of(member).get(reverse("statements-reconciliation"), {"provider": "nobody"})
    assert answer.status_code == 404


def test_without_a_bill_it_says_where_bills_come_from(
    organization: Organization, member: User
) -> None:
    used(source(organization), offering(organization), HOUR, output_tokens=1_000_000)
    text = page(client_of(member))
    assert "No bill of November 2026" in text
    assert "costwatch connect_provider openai" in text
    # It has no price, and unknown is not free.
    assert (
        "Metered on days without a bill, so compared with nothing: openai unknown (1 day)" in text
    )


def test_what_has_no_price_is_unknown_and_not_free(
    organization: Organization, member: User
) -> None:
    used(source(organization), offering(organization), HOUR, output_tokens=1_000_000)
    billed(organization, line("40", 1_000_000))
    text = page(client_of(member))
    assert "Metered unknown" in text
    assert "no price metered, and no price is known $40.00" in text


def test_the_last_fetch_says_what_became_of_it_and_no_secret(
    shop: Organization, member: User
) -> None:
    account = ProviderAccount.objects.create(
        organization=shop, provider="openai", name="main", key_variable="SECRET_VARIABLE"
    )
    BillFetch.objects.create(
        account=account,
        planned_for=date(2026, 11, 20),
        first_day=date(2026, 11, 6),
        last_day=date(2026, 11, 19),
        state=BillFetch.State.FAILED,
        ended_at=datetime(2026, 11, 20, tzinfo=UTC),
        last_error="OpenAI refused the key (401: no); it takes an admin key",
    )
    text = page(client_of(member))
    assert "OpenAI refused the key (401: no); it takes an admin key" in text
    assert "SECRET_VARIABLE" not in text


def test_what_has_no_exchange_rate_is_said(shop: Organization, member: User) -> None:
    billed(shop, line("8", 9, currency="EUR"), account="eu")
    assert "€8.00 were billed on days without an exchange rate from EUR to USD" in page(
        client_of(member)
    )


def test_finance_takes_a_file(organization: Organization) -> None:
    finance, url = finance_of(organization), reverse("statements-reconciliation-upload")
    assert finance.get(url).status_code == 200
    other = AZURE.replace("Azure OpenAI", "Storage")
    good = SimpleUploadedFile("azure.csv", f"{FOCUS}\n{AZURE}\n{other}\n".encode())
    answer = finance.post(url, {"parts": [good]}, follow=True)
    text = text_of(answer.content.decode())
    assert "Taken from 2 rows: azure.ai.openai: 1 lines of 1 days" in text
    assert "Left out, since they run no models: Storage (1)" in text
    assert ProviderBill.objects.get().source == "azure.csv"


def test_bad_rows_of_a_file_are_named_on_the_page(organization: Organization) -> None:
    finance, url = finance_of(organization), reverse("statements-reconciliation-upload")
    bad = SimpleUploadedFile("b.csv", f"{FOCUS}\n{AZURE.replace('0.25', '<b>')}\n".encode())
    answer = finance.post(url, {"parts": [bad]})
    assert answer.status_code == 400
    assert "row 2: &#x27;&lt;b&gt;&#x27;: expected an amount" in answer.content.decode()
    assert finance.post(url, {}).status_code == 400
    empty = SimpleUploadedFile("c.csv", b"")
    assert finance.post(url, {"parts": [empty]}).status_code == 400
    assert finance.post(url, {"parts": [SimpleUploadedFile("d.csv", BEDROCK.encode())]}).status_code == 400  # fmt: skip
    assert not ProviderBill.objects.exists()


def test_finance_fetches_and_links(shop: Organization) -> None:
    finance = finance_of(shop)
    ProviderAccount.objects.create(
        organization=shop, provider="openai", name="main", key_variable="X"
    )
    answer = finance.post(reverse("statements-reconciliation-fetch"), follow=True)
    assert "Bills are fetched within a minute or two" in text_of(answer.content.decode())
    assert BillFetch.objects.get().state == "pending"
    sent = {"provider": "openai", "project": "proj_a", "key": key_of(shop).pk}
    answer = finance.post(reverse("statements-reconciliation-project"), sent, follow=True)
    assert "is compared with proj_a now" in text_of(answer.content.decode())
    assert ProviderProject.objects.get().project == "proj_a"
    answer = finance.post(reverse("statements-reconciliation-project"), {"key": "0"}, follow=True)
    assert "Not saved" in text_of(answer.content.decode())


def test_members_see_no_buttons(shop: Organization, member: User) -> None:
    text = page(client_of(member))
    assert "Take a bill from a file" not in text
    assert "Link" not in text
    for name in ("fetch", "upload", "project"):
        answer = client_of(member).post(reverse(f"statements-reconciliation-{name}"))
        assert answer.status_code == 403


def test_a_stranger_sees_nothing_of_it(shop: Organization, stranger: User) -> None:
    text = page(client_of(stranger))
    assert "No bill of November 2026" in text
    assert "proj_a" not in text
    sent = {"provider": "openai", "project": "proj_a", "key": key_of(shop).pk}
    client_of(stranger).post(reverse("statements-reconciliation-project"), sent)
    assert not ProviderProject.objects.exists()


def test_every_cause_has_a_name() -> None:
    # What was billed without an exchange rate has a line of its own.
    assert set(CAUSES) == set(Cause) - {Cause.CURRENCY}
