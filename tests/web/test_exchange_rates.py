"""The pages of exchange rates: what is missing is said, and nothing is saved unseen."""

from __future__ import annotations

import html
import re
from decimal import Decimal

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from costwatch.accounts.models import Membership, Organization
from costwatch.attribution.models import Entry
from costwatch.pricing.models import ExchangeRate, Meter
from costwatch.pricing.prices import PriceRange, set_price
from costwatch.pricing.rates import Sku
from tests.factories import NOON, MembershipFactory, OrganizationFactory
from tests.pricing.test_repricing import per_million
from tests.pricing.usage import exchange_rates
from tests.web.conftest import client_of

LOAD = "/prices/exchange-rates/load/"
DAY = f"{NOON:%Y-%m-%d}"
LINES = "date,base,quote,rate\n2026-11-15,EUR,USD,1.0842\n"


@pytest.fixture
def finance_client(organization: Organization) -> Client:
    return client_of(
        MembershipFactory(organization=organization, role=Membership.Role.FINANCE).user
    )


@pytest.fixture
def in_euros(furnished: Organization) -> Organization:
    """Reports in dollars; what gpt-4o writes costs 10 euros a million tokens."""
    for meter in (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS):
        sku = Sku("openai", "gpt-4o-2024-08-06", meter)
        set_price(furnished, sku, per_million("10", "EUR"), PriceRange(), source="tests")
    return furnished


def text(client: Client, path: str, status: int = 200, **asked: str) -> str:
    answer = client.get(path, asked)
    assert answer.status_code == status
    return html.unescape(answer.content.decode())


def upload(client: Client, content: bytes | str, **also: str) -> tuple[int, str]:
    data = content.encode() if isinstance(content, str) else content
    file = SimpleUploadedFile("rates.csv", data, "text/csv")
    answer = client.post(LOAD, {"file": file, **also})
    return answer.status_code, html.unescape(answer.content.decode())


def test_a_price_in_another_currency_says_which_rates_it_lacks(
    in_euros: Organization, finance_client: Client, member_client: Client
) -> None:
    page = text(finance_client, "/prices/")
    assert page.index("Without an exchange rate") < page.index("EUR → USD") < page.index("With a price")  # fmt: skip
    assert LOAD in page
    assert LOAD not in text(member_client, "/prices/")
    rates = text(member_client, "/prices/exchange-rates/")
    assert "What prices need" in rates
    assert "Load rates" not in rates
    assert "no exchange rate" in text(member_client, "/sources/ingest/")


def test_a_file_is_shown_before_it_is_saved_and_gives_both_amounts(
    in_euros: Organization, finance_client: Client
) -> None:
    status, shown = upload(finance_client, LINES)
    assert status == 200
    assert "2026-11-15,EUR,USD,1.0842" in shown
    assert "Would cost" in shown
    assert not ExchangeRate.objects.exists(), "nothing is saved unseen"
    [digest] = re.findall(r'name="previewed" value="(\w+)"', shown)
    saved = finance_client.post(LOAD, {"text": LINES, "previewed": digest})
    assert saved.status_code == 302
    rate = ExchangeRate.objects.get()
    assert (rate.rate, rate.source, rate.organization) == (
        Decimal("1.0842"),
        "Exchange rates page",
        in_euros,
    )
    page = text(finance_client, "/prices/")
    assert "Without an exchange rate" not in page
    assert "€10.00" in page
    listed = text(finance_client, "/prices/exchange-rates/")
    assert "1 new, 0 corrected, 0 unchanged" in listed or "1.0842" in listed
    call = Entry.objects.filter(offering__response_model__startswith="gpt-4o-2").first()
    assert call is not None
    assert "× 1.0842" in text(finance_client, f"/calls/{call.call_id}/")


def test_lines_that_were_changed_after_the_preview_are_shown_again(
    in_euros: Organization, finance_client: Client
) -> None:
    _, shown = upload(finance_client, LINES)
    [digest] = re.findall(r'name="previewed" value="(\w+)"', shown)
    again = finance_client.post(LOAD, {"text": LINES.replace("84", "85"), "previewed": digest})
    assert again.status_code == 200
    assert digest not in again.content.decode()
    assert not ExchangeRate.objects.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "file is empty"),
        ("Date,JPY\n2026-11-20,163\n", "expected columns such as EUR/USD"),
        ("date,base,rate\n2026-11-20,EUR,1,1\n2026-11-21,EUR,x\nx,EUR,1\n", "line 4: date 'x'"),
        (b"\xff\xfe", "UTF-8"),
        ("x" * (4 * 1024 * 1024 + 1), "expected up to 4,194,304"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_and_nothing_saved(
    organization: Organization, finance_client: Client, content: bytes | str, said: str
) -> None:
    status, shown = upload(finance_client, content)
    assert status == 400
    assert said in shown
    assert not ExchangeRate.objects.exists()


def test_neither_file_nor_lines_is_explained(
    organization: Organization, finance_client: Client
) -> None:
    answer = finance_client.post(LOAD, {})
    assert answer.status_code == 400
    assert "expected the columns" in answer.content.decode()


def test_members_see_rates_of_their_own_organization_and_load_none(
    organization: Organization, member_client: Client
) -> None:
    exchange_rates(OrganizationFactory(), "EUR", {NOON.date(): "7.7777"})
    exchange_rates(organization, "EUR", {NOON.date(): "1.0842"})
    page = text(member_client, "/prices/exchange-rates/", month="2026-11")
    assert "1.0842" in page
    assert "7.7777" not in page
    text(member_client, LOAD, status=403)
    assert upload(member_client, LINES)[0] == 403


def test_a_price_may_be_in_any_currency(furnished: Organization, finance_client: Client) -> None:
    ranker = {"provider": "in-house", "model": "ranker-7b", "meter": "input_tokens"}
    shown = text(finance_client, "/prices/set/", **ranker, amount="2", currency="eur")
    [digest] = re.findall(r'name="previewed" value="(\w+)"', shown)
    asked = {**ranker, "amount": "2", "currency": "EUR", "previewed": digest}
    assert finance_client.post("/prices/set/", asked).status_code == 302
    assert "2 EUR per 1,000,000 tokens" in text(finance_client, "/prices/")
    wrong = finance_client.post("/prices/set/", {**asked, "currency": "E1R"})
    assert wrong.status_code == 400
    assert "three letters" in wrong.content.decode()


def test_a_device_may_be_paid_in_any_currency(
    furnished: Organization, finance_client: Client
) -> None:
    asked = {
        "device_type": "GB300",
        "commitment": "on_demand",
        "hourly_price": "3",
        "currency": "EUR",
    }
    shown = finance_client.post("/capacity/price/", asked).content.decode()
    assert "An hour costs <strong>€3.00</strong>" in shown
    [digest] = re.findall(r'name="previewed" value="(\w+)"', shown)
    assert finance_client.post("/capacity/price/", {**asked, "previewed": digest}).status_code == 302  # fmt: skip
