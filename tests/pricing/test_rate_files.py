"""Files of exchange rates: read whole or not at all, with every bad line named, and never turned around."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from costwatch.accounts.models import Organization
from costwatch.pricing.exchange_rates import DayRate
from costwatch.pricing.models import ExchangeRate
from costwatch.pricing.rate_files import BadFile, as_text, rates_in

EURO = Organization(name="Acme", currency="EUR")
DOLLAR = Organization(name="Acme", currency="USD")
YEN = Organization(name="Acme", currency="JPY")
FRIDAY, MONDAY = date(2026, 11, 20), date(2026, 11, 23)
# As the European Central Bank writes it, with its comma at the end.
BANK = "Date,USD,JPY,BGN,\n2026-11-23,1.0842,163.21,1.9558,\n2026-11-20,1.0801,N/A,1.9558,\n"


def read(organization: Organization, text: str) -> list[tuple[date, str, Decimal]]:
    return [(rate.date, rate.base, rate.rate) for rate in rates_in(organization, text)]


def refused(organization: Organization, text: str) -> list[str]:
    with pytest.raises(BadFile) as caught:
        rates_in(organization, text)
    return [str(line) for line in caught.value.lines]


def test_a_line_is_a_rate() -> None:
    expected = [(MONDAY, "USD", Decimal("0.9217")), (FRIDAY, "GBP", Decimal("1.15"))]
    lines = "2026-11-23,USD,EUR,0.9217\n\n2026-11-20, gbp ,eur, 1.15\n"
    assert read(EURO, f"date,base,quote,rate\n{lines}") == expected
    assert read(EURO, f"\ufeffDate, Base ,Quote,RATE,note\r\n{lines}") == expected
    assert read(EURO, "rate,date,base\n0.9217,2026-11-23,USD\n1.15,2026-11-20,GBP") == expected


def test_a_column_is_a_pair() -> None:
    text = "Date,USD/EUR,GBP/EUR\n2026-11-23,0.9217,1.15\n2026-11-20,,N/A\n"
    assert read(EURO, text) == [
        (MONDAY, "USD", Decimal("0.9217")),
        (MONDAY, "GBP", Decimal("1.15")),
    ]


def test_of_the_banks_file_the_organizations_own_column_is_read() -> None:
    assert read(DOLLAR, BANK) == [
        (MONDAY, "EUR", Decimal("1.0842")),
        (FRIDAY, "EUR", Decimal("1.0801")),
    ]
    assert read(YEN, BANK) == [(MONDAY, "EUR", Decimal("163.21"))]


def test_the_banks_file_is_not_turned_around_for_one_that_reports_in_euros() -> None:
    [said] = refused(EURO, BANK)
    assert said.startswith("line 1: these columns say what one EUR is in other currencies")
    assert "expected columns such as USD/EUR, or date,base,quote,rate" in said
    [said] = refused(Organization(currency="CHF"), BANK)
    assert "what one unit of a price's currency is in CHF" in said


def test_every_bad_line_is_named() -> None:
    text = (
        "date,base,quote,rate\n2026-11-20,USD,EUR,0.9217\n2026-11-31,USD,EUR,0.92\n2026-11-23,USD,EUR,abc\n"
        '2026-11-23,USD,GBP,0.8\n2026-11-23,EUR,EUR,1\n2026-11-20,USD,EUR,0.93\n2026-11-24,USD\n2026-11-25,USD,EUR,"0,92"\n'
    )
    assert refused(EURO, text) == [
        "line 3: date '2026-11-31': expected a day, such as 2026-11-23",
        "line 4: rate 'abc': expected a decimal number, such as 0.9217",
        "line 5: quote 'GBP': expected EUR, in which 'Acme' reports; rates are not turned around, so upload what one "
        "unit of the price's currency is in it",
        "line 6: base 'EUR': 'Acme' reports in it, so it is 1 and needs no rate; expected the currency of a price",
        "line 7: 2026-11-20 USD is in line 2 already",
        "line 8: rate '': expected a decimal number, such as 0.9217",
        "line 9: rate '0,92': expected a decimal number, such as 0.9217",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "\n", "hello", "date,base,quote,rate", "date\n2026-11-20", "Date,USD/EUR\n2026-11-20,N/A"],
)
def test_a_file_without_rates_says_what_one_looks_like(text: str) -> None:
    [said] = refused(EURO, text)
    assert said.startswith("line 1: ")
    assert "expected" in said


def test_a_file_has_bounds() -> None:
    many = "date,base,rate\n" + "2026-11-20,USD,1\n" * 10_001
    assert refused(EURO, many) == ["line 10002: expected up to 10,000 lines of rates at once"]
    wrong = "date,base,rate\n" + "x,USD,1\n" * 150
    with pytest.raises(BadFile, match="and 50 more"):
        rates_in(EURO, wrong)
    [said] = refused(EURO, f"date,base,rate\n2026-11-20,USD,{'9' * 5000}\n")
    assert len(said) < 200
    assert refused(EURO, "date,base,rate\n" + "x" * 200_000)


@given(
    st.lists(
        st.builds(
            DayRate,
            st.dates(date(2000, 1, 1), date(2200, 12, 31)),
            st.sampled_from(["USD", "GBP", "JPY"]),
            st.decimals("0.000000000001", 10**9, places=12),
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda rate: (rate.date, rate.base),
    )
)
def test_what_is_written_is_read_again(rates: list[DayRate]) -> None:
    assert rates_in(EURO, as_text(EURO, rates)) == rates


@given(st.text(max_size=200))
def test_any_text_is_rates_or_explained(text: str) -> None:
    for header in ("", "date,base,rate\n", "Date,USD/EUR\n"):
        try:
            found = rates_in(EURO, header + text)
        except BadFile:
            continue
        assert found


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, "--organization", "Acme", stdout=out)
    return out.getvalue().strip()


def test_rates_are_loaded_and_set_from_the_command_line(
    organization: Organization, tmp_path: Path
) -> None:
    path = tmp_path / "bank.csv"
    path.write_text(BANK)
    assert run("load_exchange_rates", str(path)) == "2 new, 0 corrected, 0 unchanged"
    assert run("load_exchange_rates", str(path)) == "0 new, 0 corrected, 2 unchanged"
    assert run("set_exchange_rate", "2026-11-23", "eur", "1.09") == "2026-11-23: 1 EUR = 1.09 USD"
    rows = ExchangeRate.objects.order_by("date").values_list("date", "base", "rate", "source")
    assert list(rows) == [
        (FRIDAY, "EUR", Decimal("1.0801"), "bank.csv"),
        (MONDAY, "EUR", Decimal("1.09"), "command line"),
    ]


def test_a_wrong_command_says_what_is_wrong(organization: Organization, tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    with pytest.raises(CommandError, match="No such file"):
        run("load_exchange_rates", str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match="utf-8"):
        run("load_exchange_rates", str(path))
    path.write_text("date,base,rate\n2026-11-20,EUR,1.1\nx,EUR,1\n2026-11-21,EUR,x\n")
    with pytest.raises(CommandError, match=r"(?s)line 3: date .*\nline 4: rate "):
        run("load_exchange_rates", str(path))
    for wrong in (("2026-11-23", "USD", "1"), ("today", "EUR", "1"), ("2026-11-23", "EUR", "a")):
        with pytest.raises(CommandError, match="expected"):
            run("set_exchange_rate", *wrong)
    assert not ExchangeRate.objects.exists()
