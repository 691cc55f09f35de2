"""What a person types to connect providers, fetch bills, take files and see differences."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import time_machine
from django.core.management import CommandError, call_command
from pytest_django import Settings

from costwatch.accounts.models import Organization
from costwatch.pricing.models import Meter
from costwatch.reports.bill_models import ProviderAccount, ProviderBillLine
from tests.collectors.providers.reporting import OPENAI_KEY, Provider, reporting
from tests.collectors.providers.test_files import AZURE, BEDROCK, FOCUS, LEGACY
from tests.collectors.providers.test_openai import COSTS, cost
from tests.pricing.usage import offering, source, token_price, used
from tests.reports.billing import DAY, billed, line

NOW = datetime(2026, 11, 10, 5, 20, tzinfo=UTC)


@pytest.fixture
def provider(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", OPENAI_KEY)
    with reporting() as found, time_machine.travel(NOW, tick=False):
        settings.PROVIDER_URLS = {"openai": found.url}
        yield found


def run(*words: object) -> str:
    out = io.StringIO()
    call_command(*map(str, words), stdout=out, stderr=out)
    return out.getvalue()


def connect(variable: str = "OPENAI_ADMIN_KEY", *more: str) -> str:
    return run("connect_provider", "openai", "--organization", "Acme", "--key-variable", variable, *more)  # fmt: skip


def test_a_provider_is_connected_and_its_bills_fetched(
    organization: Organization, provider: Provider
) -> None:
    provider.has(COSTS, date(2026, 11, 9), cost("gpt-4o, output", 1))
    assert connect() == "connected: openai (main), with the key in OPENAI_ADMIN_KEY\n"
    said = run("fetch_bills", "--organization", "Acme", "--days", 3)
    assert said == "openai (main), 2026-11-07 to 2026-11-09: 1 lines\n"


def test_a_bill_that_cannot_be_had_is_an_error(
    organization: Organization, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect()
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-ordinary")
    with pytest.raises(SystemExit):
        run("fetch_bills", "--organization", "Acme")


def test_a_key_in_the_place_of_its_variables_name_is_refused_and_not_repeated(
    organization: Organization,
) -> None:
    with pytest.raises(CommandError) as caught:
        connect("sk-admin-very-secret")
    assert "expected the name of a variable" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not ProviderAccount.objects.exists()


def test_an_account_is_stopped_and_keeps_its_bills(
    organization: Organization, provider: Provider
) -> None:
    connect()
    assert connect("OPENAI_ADMIN_KEY", "--stop").startswith("stopped")
    with pytest.raises(CommandError, match="no provider is connected to Acme; connect one with"):
        run("fetch_bills", "--organization", "Acme")


def test_parts_of_a_file_are_taken_together(organization: Organization, tmp_path: Path) -> None:
    other = BEDROCK.replace("AmazonBedrock", "AmazonEC2").replace("Amazon Bedrock", "Compute")
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text(f"{LEGACY}\n{BEDROCK}\n{other}\n")
    said = run("import_bill", tmp_path / "1.csv", tmp_path / "2.csv", "--organization", "Acme")
    assert said == (
        "aws.bedrock 999: 1 lines of 1 days, 0 of them anew\n"
        "left out, runs no models: Compute, 2 rows\n"
    )
    assert ProviderBillLine.objects.get().amount * 10_000 == 30


def test_bad_rows_of_a_file_are_named(organization: Organization, tmp_path: Path) -> None:
    (tmp_path / "bill.csv").write_text(f"{FOCUS}\n{AZURE.replace('0.25', 'much')}\n")
    with pytest.raises(CommandError, match="row 2: 'much': expected an amount"):
        run("import_bill", tmp_path / "bill.csv", "--organization", "Acme")
    with pytest.raises(CommandError, match="No such file"):
        run("import_bill", tmp_path / "none.csv", "--organization", "Acme")


def test_differences_are_printed_with_their_causes(organization: Organization) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    hour = datetime(2026, 11, 3, 9, tzinfo=UTC)
    used(source(organization), offering(organization), hour, output_tokens=1_000_000)
    billed(organization, line("40", 4_000_000))
    said = run("reconcile", "--organization", "Acme", "--from", DAY, "--to", DAY).splitlines()
    assert said[0] == (
        "openai gpt-4o: billed 40.000000, metered 10.000000 USD; "
        "difference 30.000000 (not_metered 30.000000); coverage 25.0 %"
    )
    assert said[1].startswith("all: billed 40")
    with pytest.raises(CommandError, match="expected a day of UTC"):
        run("reconcile", "--organization", "Acme", "--from", "soon")
