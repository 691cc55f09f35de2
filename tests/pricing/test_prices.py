from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.domain.pricing import PriceState
from costwatch.pricing.models import Meter, Price
from costwatch.pricing.prices import PriceRange, hour_named
from tests.pricing.usage import HOUR, token_price


def timeline(organization: Organization) -> list[tuple[object, object, Decimal]]:
    rows = Price.objects.filter(book__organization=organization).order_by("valid_from")
    found = [(p.valid_from, p.valid_until, p.unit_price) for p in rows]
    return sorted(found, key=lambda row: (row[0] is not None, row[0]))


def test_a_price_without_an_end_holds_until_the_next_one(organization: Organization) -> None:
    tomorrow = HOUR + timedelta(days=1)
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    token_price(organization, Meter.OUTPUT_TOKENS, "3", start=tomorrow)
    token_price(organization, Meter.OUTPUT_TOKENS, "2", start=HOUR)
    assert timeline(organization) == [(None, HOUR, 1), (HOUR, tomorrow, 2), (tomorrow, None, 3)]


def test_a_price_for_some_hours_leaves_those_around_it(organization: Organization) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    end = HOUR + timedelta(hours=2)
    token_price(organization, Meter.OUTPUT_TOKENS, "9", start=HOUR, end=end)
    assert timeline(organization) == [(None, HOUR, 1), (HOUR, end, 9), (end, None, 1)]


def test_a_corrected_price_takes_the_place_of_the_wrong_one(organization: Organization) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "100", start=HOUR)
    token_price(organization, Meter.OUTPUT_TOKENS, "1", start=HOUR)
    assert timeline(organization) == [(HOUR, None, 1)]
    wrong, right = AuditEvent.objects.order_by("id")
    assert wrong.details["before"] == []
    assert right.details["before"] == ["openai/gpt-4o output_tokens: 100 USD per 1,000,000 tokens"]
    assert right.action == "price.set"


def test_two_prices_for_one_hour_cannot_be_stored(organization: Organization) -> None:
    price = token_price(organization, Meter.OUTPUT_TOKENS, "1")
    price.pk, price.valid_from = None, HOUR
    with pytest.raises(IntegrityError, match="price_no_overlap"), transaction.atomic():
        price.save(force_insert=True)


@pytest.mark.parametrize(
    ("wrong", "constraint"),
    [
        ({"valid_from": HOUR + timedelta(minutes=1)}, "price_from_hour"),
        ({"valid_until": HOUR + timedelta(seconds=1)}, "price_until_hour"),
        ({"unit_price": Decimal(-1)}, "price_not_negative"),
        ({"unit_quantity": 0}, "price_quantity"),
        ({"meter": "requests"}, "price_meter"),
        ({"device_type": "cpu"}, "price_sku"),
        ({"model": ""}, "price_sku"),
    ],
)
def test_the_database_keeps_what_is_no_price_out(
    organization: Organization, wrong: dict, constraint: str
) -> None:
    price = token_price(organization, Meter.OUTPUT_TOKENS, "1")
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Price.objects.filter(pk=price.pk).update(**wrong)


def test_a_price_begins_at_a_whole_hour() -> None:
    with pytest.raises(ValueError, match="whole hour"):
        PriceRange(HOUR + timedelta(minutes=30))
    with pytest.raises(ValueError, match="whole hour"):
        hour_named("2026-11-23T09:30")
    with pytest.raises(ValueError, match="date or an hour"):
        hour_named("tomorrow")
    assert hour_named("2026-11-23") == datetime(2026, 11, 23, tzinfo=UTC)
    assert hour_named("2026-11-23T10:00+01:00") == datetime(2026, 11, 23, 9, tzinfo=UTC)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("set_price", "--organization", "Acme", *arguments, stdout=out)
    return out.getvalue().strip()


def test_a_price_is_set_from_the_command_line(organization: Organization) -> None:
    said = run(
        *("openai/gpt-9", "--meter", "output_tokens", "--per-million", "1.20"),
        *("--from", "2026-11-23"),
    )
    assert said == "openai/gpt-9 output_tokens: 1.2 USD per 1,000,000 tokens"
    assert timeline(organization) == [(datetime(2026, 11, 23, tzinfo=UTC), None, Decimal("1.2"))]
    assert run("--device", "cpu", "--per-hour", "0.05") == "cpu device_ns: 0.05 USD per device-hour"
    free = run("openai/gift", "--meter", "input_tokens", "--per-million", "0")
    assert free == "openai/gift input_tokens: 0 USD per 1,000,000 tokens"
    assert Price.objects.get(model="gift").state is PriceState.FREE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["openai/gpt-9", "--meter", "words", "--per-million", "1"],
            "expected one of input_tokens",
        ),
        (["gpt-9", "--meter", "input_tokens", "--per-million", "1"], "PROVIDER/MODEL"),
        (["openai/gpt-9", "--meter", "input_tokens", "--per-hour", "1"], "--per-million alone"),
        (["--device", "cpu", "--per-million", "1"], "--per-hour alone"),
        (["--device", "cpu", "--per-hour", "a lot"], "decimal number"),
        (["--device", "cpu", "--per-hour", "-1"], "not negative"),
        (["--device", "cpu", "--per-hour", "1", "--from", "soon"], "such as 2026-11-23"),
        (["--device", "cpu", "--per-hour", "1", "--currency", "EURO"], "three letters"),
    ],
)
def test_a_wrong_command_says_what_to_type(
    organization: Organization, arguments: list[str], said: str
) -> None:
    with pytest.raises(CommandError, match=said):
        run(*arguments)
    assert not Price.objects.exists()
