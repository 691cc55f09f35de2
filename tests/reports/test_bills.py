"""Bills are kept day by day; what comes again counts once."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.providers.files import BadFile
from collectors.providers.lines import BillLine
from costwatch.accounts.models import AuditEvent, Organization, User
from costwatch.domain import money
from costwatch.reports import bills
from costwatch.reports.bill_models import ProviderBill, ProviderBillLine
from tests.collectors.providers.test_files import AZURE, BEDROCK, FOCUS, LEGACY
from tests.factories import OrganizationFactory
from tests.reports.billing import DAY, SETTLED, billed, line


def rows(organization: Organization) -> list[tuple[Any, ...]]:
    found = ProviderBillLine.objects.filter(bill__organization=organization)
    return list(found.order_by("bill__day", "pk").values_list("bill__day", "text", "amount"))


def test_a_bill_that_is_fetched_twice_counts_once(organization: Organization) -> None:
    for _ in range(2):
        kept = billed(organization, line("10", 100), line("0.30", text="web search tool calls"))
    assert (kept.days, kept.lines, kept.replaced) == (1, 2, 1)
    assert [amount for *_, amount in rows(organization)] == [Decimal(10), Decimal("0.30")]


def test_what_a_provider_corrected_takes_the_place_of_what_was_there(
    organization: Organization,
) -> None:
    next_day = DAY + timedelta(days=1)
    billed(organization, line("10"), line("7", day=next_day), days=[DAY, next_day])
    billed(organization, line("9", text="gpt-4o, output"))
    assert rows(organization) == [
        (DAY, "gpt-4o, output", Decimal(9)),
        (next_day, "gpt-4o-2024-08-06, output", Decimal(7)),
    ]


def test_a_day_without_lines_has_a_bill_too(organization: Organization) -> None:
    billed(organization, line("10"))
    billed(organization)
    assert rows(organization) == []
    assert ProviderBill.objects.get(organization=organization).day == DAY


def test_accounts_of_one_provider_stand_beside_each_other(organization: Organization) -> None:
    billed(organization, line("10"), account="main")
    billed(organization, line("5"), account="research")
    assert [amount for *_, amount in rows(organization)] == [Decimal(10), Decimal(5)]


def test_organizations_have_their_own_bills(organization: Organization) -> None:
    other = OrganizationFactory()
    billed(organization, line("10"))
    billed(other, line("3"))
    assert [amount for *_, amount in rows(organization)] == [Decimal(10)]
    assert [amount for *_, amount in rows(other)] == [Decimal(3)]


class Laws(TestCase):
    """hypothesis.extra.django rolls each example back."""

    lines = st.lists(
        st.builds(
            lambda day, project, text, amount: line(
                amount, day=DAY + timedelta(days=day), project=project, text=text
            ),
            st.integers(0, 2),
            st.sampled_from(["", "p"]),
            st.sampled_from(["a", "b"]),
            st.decimals(-9, 9, places=12).map(str),
        ),
        max_size=12,
    )

    @settings(max_examples=25, deadline=None)
    @given(lines, st.integers(1, 3))
    def test_what_is_kept_is_what_came_however_often(
        self, lines: list[BillLine], times: int
    ) -> None:
        organization = OrganizationFactory()
        for _ in range(times):
            billed(organization, *lines, days=[DAY + timedelta(days=n) for n in range(3)])
        assert money.total(amount for *_, amount in rows(organization)) == money.total(
            one.amount for one in lines
        )


def taken(organization: Organization, *parts: str, **how: Any) -> bills.Taken:
    files = [io.BytesIO(part.encode()) for part in parts]
    return bills.take_files(organization, files, source="bill.csv", now=SETTLED, **how)


def test_a_file_is_the_bill_of_all_days_from_its_first_to_its_last(
    organization: Organization, owner: User
) -> None:
    later = AZURE.replace("2026-11-03", "2026-11-05")
    found = taken(organization, f"{FOCUS}\n{AZURE}\n{later}\n", actor=owner)
    [kept] = found.bills
    assert (found.format, found.rows, kept.provider, kept.days) == (
        "FOCUS",
        2,
        "azure.ai.openai",
        3,
    )
    assert ProviderBill.objects.filter(organization=organization).count() == 3
    [event] = AuditEvent.objects.filter(action="bill.uploaded")
    assert (event.actor, event.target, event.details["lines"]) == (owner, "bill.csv", 2)


def test_a_file_that_is_uploaded_twice_counts_once(organization: Organization) -> None:
    for _ in range(2):
        taken(organization, f"{LEGACY}\n{BEDROCK}\n")
    assert [amount for *_, amount in rows(organization)] == [Decimal("0.0015")]


def test_of_a_file_with_a_bad_row_nothing_is_kept(organization: Organization) -> None:
    with pytest.raises(BadFile, match="1 of 2 rows"):
        taken(organization, f"{FOCUS}\n{AZURE}\n{AZURE.replace('0.25', 'x')}\n")
    assert not ProviderBill.objects.exists()
    assert not AuditEvent.objects.exists()


def test_a_file_of_more_than_a_years_days_is_refused(organization: Organization) -> None:
    with pytest.raises(bills.TooLong, match="from 2020-11-03 to 2026-11-03"):
        taken(organization, f"{FOCUS}\n{AZURE}\n{AZURE.replace('2026', '2020')}\n")
    assert not ProviderBill.objects.exists()


def test_a_model_that_the_catalogue_does_not_know_keeps_its_text_alone(
    organization: Organization,
) -> None:
    known = AZURE.replace("gpt-4o-0806 Inp glbl Tokens", "gpt-4o Input Tokens")
    taken(organization, f"{FOCUS}\n{AZURE}\n{known}\n")
    found = ProviderBillLine.objects.order_by("text").values_list("text", "model")
    assert list(found) == [("gpt-4o Input Tokens", "gpt-4o"), ("gpt-4o-0806 Inp glbl Tokens", "")]


def test_the_time_of_a_bill_is_when_it_last_came(organization: Organization) -> None:
    billed(organization, line("10"), now=datetime(2026, 11, 4, 5, tzinfo=UTC))
    billed(organization, line("10"))
    assert ProviderBill.objects.get().fetched_at == SETTLED
    assert ProviderBill.objects.get().day == date(2026, 11, 3)
