"""What providers billed beside what was metered, by the API; and the bills themselves."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.core.files.uploadedfile import SimpleUploadedFile

from costwatch.accounts.models import AuditEvent, Organization, User
from costwatch.pricing.models import Meter
from costwatch.reports import bills
from costwatch.reports.bill_models import (
    BillFetch,
    ProviderAccount,
    ProviderBill,
    ProviderProject,
)
from tests.api.conftest import Reader, reader_for
from tests.collectors.providers.test_files import AZURE, FOCUS
from tests.factories import OrganizationFactory, ingest_key
from tests.pricing.usage import key_of, offering, source, token_price, used
from tests.reports.billing import DAY, SETTLED, billed, line

HOUR = datetime(2026, 11, 3, 9, tzinfo=UTC)
NOVEMBER = {"start": "2026-11-01", "end": "2026-12-01"}


@pytest.fixture(autouse=True)
def _in_november() -> Iterator[None]:
    with time_machine.travel(datetime(2026, 11, 20, tzinfo=UTC)):
        yield


@pytest.fixture
def shop(organization: Organization) -> Organization:
    """A million tokens metered at 10 dollars, four million billed."""
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    used(source(organization), offering(organization), HOUR, output_tokens=1_000_000)
    billed(organization, line("40", 4_000_000, project="proj_a"))
    return organization


def test_a_difference_has_causes_that_sum_to_it(shop: Organization, reader: Reader) -> None:
    said = reader.get("reconciliation", **NOVEMBER)
    [row] = said["results"]
    assert row == {
        "day": "2026-11-03",
        "provider": "openai",
        "project": "",
        "model": "gpt-4o",
        "billed": "40",
        "metered": "10",
        "variance": "30",
        "causes": {"not_metered": "30"},
        "coverage_percent": "25.00",
        "not_compared": {},
        "is_final": True,
    }
    assert said["total"]["variance"] == "30"
    assert (said["currency"], said["without_bill"]) == ("USD", [])
    assert datetime.fromisoformat(said["fetched_at"]) == SETTLED


def test_it_is_grouped_as_asked_and_of_the_days_asked(shop: Organization, reader: Reader) -> None:
    billed(shop, line("2", 200_000, day=DAY + timedelta(days=1)), days=[DAY + timedelta(days=1)])
    rows = reader.get("reconciliation", group_by="provider", **NOVEMBER)["results"]
    assert [(row["day"], row["billed"]) for row in rows] == [(None, "42")]
    one_day = reader.get("reconciliation", start="2026-11-04", end="2026-11-05")
    assert one_day["total"]["billed"] == "2"
    assert reader.get("reconciliation")["total"]["billed"] == "42"  # this month
    assert reader.get("reconciliation", start="2026-10-01")["results"] == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"start": "soon"}, "expected a day of UTC"),
        ({"start": "2026-11-03T00:00:00Z"}, "expected a day of UTC"),
        ({"start": "2026-11-03", "end": "2026-11-03"}, "expected the first day, then the last"),
        ({"start": "2026-01-01", "end": "2026-11-03"}, "expected at most 100 days"),
        ({"start": "0001-01-01"}, "expected a year from 2000 to 2200"),
        ({"start": "2000-01-01", "end": "2000-01-01"}, "expected a"),
        ({"group_by": "team"}, "expected some of day, provider, project, model"),
    ],
)
def test_what_is_no_day_is_explained(
    organization: Organization, reader: Reader, asked: dict[str, str], said: str
) -> None:
    [[found]] = reader.refused("reconciliation", **asked).values()
    assert said in found


def test_the_lines_of_bills_are_paged(shop: Organization, reader: Reader) -> None:
    billed(shop, line("1", text="a"), line("2", text="b"), account="research")
    first = reader.get("provider-bills", limit=2, **NOVEMBER)
    last = reader.get("provider-bills", limit=2, page=first["next_page"], **NOVEMBER)
    assert (first["count"], last["next_page"]) == (3, None)
    found = [*first["results"], *last["results"]]
    assert [(row["account"], row["amount"]) for row in found] == [
        ("main", "40"), ("research", "1"), ("research", "2"),
    ]  # fmt: skip
    assert (found[0]["quantity"], found[1]["quantity"]) == ("4000000", None)
    assert reader.get("provider-bills", page=9, **NOVEMBER)["results"] == []


def upload(reader: Reader, *parts: bytes) -> tuple[int, Any]:
    files = [SimpleUploadedFile(f"azure-{n}.csv", part) for n, part in enumerate(parts)]
    answer = reader.client.post("/api/v1/provider-bills", {"files": files})
    return answer.status_code, answer.json()


def test_a_file_is_taken_once_however_often_it_comes(
    organization: Organization, finance: Reader
) -> None:
    for replaced in (0, 1):
        status, said = upload(finance, f"{FOCUS}\n{AZURE}\n".encode())
        assert status == 201
        assert said == {
            "format": "FOCUS",
            "rows": 1,
            "bills": [
                {"provider": "azure.ai.openai", "account": "acct", "days": 1, "lines": 1, "replaced": replaced}
            ],
            "left_out": {},
        }  # fmt: skip
    assert ProviderBill.objects.count() == 1
    assert ProviderBill.objects.get().source == "azure-0.csv"


def test_bad_rows_of_a_file_are_named_and_nothing_is_taken(
    organization: Organization, finance: Reader
) -> None:
    bad = f"{FOCUS}\n{AZURE}\n{AZURE.replace('0.25', 'much')}\n".encode()
    status, said = upload(finance, gzip.compress(bad))
    assert (status, said["files"][1]) == (400, "row 3: 'much': expected an amount, such as 12.34")
    assert upload(finance)[0] == 400
    assert upload(finance, *[bad] * 21)[0] == 400
    assert not ProviderBill.objects.exists()


def test_a_file_is_not_unpacked_without_end(
    organization: Organization, finance: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bills, "MOST_UNPACKED_BYTES", 100_000)
    bomb = gzip.compress(f"{FOCUS}\n".encode() + b"\n" * 1_000_000)
    status, said = upload(finance, bomb)
    assert (status, said["files"]) == (
        400, ["the file is too large; expected a month's bill at most"],
    )  # fmt: skip
    monkeypatch.setattr(bills, "MOST_SENT_BYTES", 10)
    assert "expected up to 10" in upload(finance, bomb)[1]["files"][0]


def account_of(organization: Organization) -> ProviderAccount:
    return ProviderAccount.objects.create(
        organization=organization, provider="openai", name="main", key_variable="OPENAI_ADMIN_KEY"
    )


def test_bills_are_fetched_again_when_finance_asks(
    organization: Organization, finance: Reader
) -> None:
    account_of(organization)
    status, said = finance.send("post", "bill-fetches", {"provider": "openai", "days": 3})
    assert status == 202
    assert (said["state"], said["first_day"], said["last_day"]) == (
        "pending", "2026-11-17", "2026-11-19",
    )  # fmt: skip
    assert finance.get("bill-fetches")["results"] == [said]
    assert "OPENAI_ADMIN_KEY" not in str(said)
    for bad in ({"provider": "nobody"}, {"provider": "openai", "days": 0}, {}):
        assert finance.send("post", "bill-fetches", bad)[0] == 400


def test_a_key_is_linked_to_a_project_and_to_none_again(
    shop: Organization, finance: Reader
) -> None:
    key = key_of(shop)
    [project] = finance.get("provider-projects", **NOVEMBER)["results"]
    assert project == {"provider": "openai", "project": "proj_a", "billed": {"USD": "40"}, "keys": []}  # fmt: skip
    asked = {"provider": "openai", "project": "proj_a", "key": key.pk}
    assert finance.send("post", "provider-projects", asked) == (201, asked)
    [row] = finance.get("reconciliation", **NOVEMBER)["results"]
    assert (row["project"], row["metered"]) == ("proj_a", "10")
    assert finance.send("post", "provider-projects", {**asked, "project": ""})[0] == 201
    assert not ProviderProject.objects.exists()
    assert AuditEvent.objects.filter(action="project.linked").count() == 2


def test_members_read_and_change_nothing(shop: Organization, reader: Reader) -> None:
    account_of(shop)
    assert upload(reader, f"{FOCUS}\n{AZURE}\n".encode())[0] == 403
    assert reader.send("post", "bill-fetches", {"provider": "openai"})[0] == 403
    asked = {"provider": "openai", "project": "proj_a", "key": key_of(shop).pk}
    assert reader.send("post", "provider-projects", asked)[0] == 403
    assert (BillFetch.objects.count(), ProviderProject.objects.count()) == (0, 0)
    assert ProviderBill.objects.get().provider == "openai"


def test_a_stranger_sees_and_changes_nothing_of_it(shop: Organization, stranger: User) -> None:
    account_of(shop)
    elsewhere = Organization.objects.get(name="Elsewhere")
    theirs = reader_for(stranger, elsewhere)
    assert theirs.get("reconciliation", **NOVEMBER)["results"] == []
    assert theirs.get("provider-bills", **NOVEMBER)["count"] == 0
    assert theirs.get("provider-projects", **NOVEMBER)["results"] == []
    assert theirs.get("bill-fetches")["results"] == []
    assert theirs.send("post", "bill-fetches", {"provider": "openai"})[0] == 400
    asked = {"provider": "openai", "project": "proj_a", "key": key_of(shop).pk}
    assert theirs.send("post", "provider-projects", asked)[0] == 400
    # What they take themselves is theirs.
    assert upload(theirs, f"{FOCUS}\n{AZURE}\n".encode())[0] == 201
    assert ProviderBill.objects.get(organization=elsewhere).provider == "azure.ai.openai"
    assert ProviderBill.objects.get(organization=shop).provider == "openai"


def test_amounts_have_every_digit(organization: Organization, reader: Reader) -> None:
    exact = Decimal("0.00000000000000000001")
    billed(organization, line(str(exact)))
    assert reader.get("reconciliation", **NOVEMBER)["total"]["billed"] == f"{exact:f}"


def test_a_key_of_another_organization_is_no_choice(shop: Organization, finance: Reader) -> None:
    other = ingest_key(OrganizationFactory())
    asked = {"provider": "openai", "project": "proj_a", "key": other.pk}
    status, said = finance.send("post", "provider-projects", asked)
    assert (status, list(said)) == (400, ["key"])
