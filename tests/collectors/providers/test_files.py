"""Bills of clouds as files: FOCUS and AWS' Cost and Usage Report."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from datetime import date
from decimal import Decimal

import pytest

from collectors.providers.files import BadFile, Contents, read

FOCUS = (
    "BilledCost,BillingCurrency,ChargePeriodStart,ServiceName,ProviderName,BillingAccountId,"
    "SubAccountId,ChargeDescription,ConsumedQuantity,ConsumedUnit,ChargeCategory"
)
AZURE = "0.25,EUR,2026-11-03T05:00:00Z,Azure OpenAI,Microsoft,acct,sub-1,gpt-4o-0806 Inp glbl Tokens,100,1K Tokens,Usage"  # fmt: skip
LEGACY = (
    "lineItem/UsageStartDate,lineItem/UnblendedCost,lineItem/ProductCode,lineItem/UsageType,"
    "lineItem/CurrencyCode,lineItem/LineItemType,lineItem/UsageAccountId,bill/PayerAccountId,"
    "lineItem/UsageAmount,pricing/unit,product/ProductName"
)
BEDROCK = "2026-11-03T05:00:00Z,0.0015,AmazonBedrock,USE1-Claude4.6Sonnet-input-tokens,USD,Usage,111,999,0.5,1K tokens,Amazon Bedrock"  # fmt: skip


def rows(*lines: str) -> Contents:
    return read([io.BytesIO("\n".join(lines).encode())])


def test_a_row_of_focus_is_a_line_of_a_bill() -> None:
    contents = rows(FOCUS, AZURE)
    [bill] = contents.bills
    assert (contents.format, contents.rows) == ("FOCUS", 1)
    assert (bill.provider, bill.account, bill.first, bill.last) == (
        "azure.ai.openai", "acct", date(2026, 11, 3), date(2026, 11, 3),
    )  # fmt: skip
    [line] = bill.lines
    assert (line.project, line.model, line.meter) == ("sub-1", "gpt-4o-0806", "input_tokens")
    assert (line.quantity, line.amount, line.currency) == (100_000, Decimal("0.25"), "EUR")


def test_both_spellings_of_aws_are_read() -> None:
    spelled = (
        LEGACY.replace("lineItem/LineItemType", "line_item_line_item_type")
        .replace("lineItem/U", "line_item_u")
        .replace("lineItem/P", "line_item_p")
        .replace("sageS", "sage_s").replace("tartD", "tart_d").replace("sageT", "sage_t")
        .replace("blendedC", "blended_c").replace("ductC", "duct_c").replace("sageA", "sage_a")
    )  # fmt: skip
    for header in (LEGACY, spelled):
        contents = rows(header, BEDROCK)
        [bill] = contents.bills
        [line] = bill.lines
        assert (contents.format, bill.provider, bill.account) == ("CUR", "aws.bedrock", "999")
        assert (line.project, line.model, line.meter) == ("111", "claude4.6sonnet", "input_tokens")
        assert (line.quantity, line.amount) == (500, Decimal("0.0015"))


def test_rows_of_one_kind_are_added_up() -> None:
    [bill] = rows(FOCUS, AZURE, AZURE, AZURE.replace("03T05", "04T23")).bills
    assert [(line.day.day, line.amount, line.quantity) for line in bill.lines] == [
        (3, Decimal("0.50"), 200_000), (4, Decimal("0.25"), 100_000),
    ]  # fmt: skip


def test_parts_of_a_bill_are_read_together_gzipped_or_not() -> None:
    whole = f"{FOCUS}\n{AZURE}\n".encode()
    contents = read([io.BytesIO(whole), io.BytesIO(gzip.compress(whole))])
    assert [line.amount for bill in contents.bills for line in bill.lines] == [Decimal("0.50")]
    assert contents.rows == 2


def test_services_that_run_no_models_are_counted_and_left_out() -> None:
    other = BEDROCK.replace("AmazonBedrock", "AmazonEC2").replace(
        "Amazon Bedrock", "Elastic Compute"
    )
    contents = rows(LEGACY, BEDROCK, other, other)
    assert contents.left_out == {"Elastic Compute": 2}
    assert sum(len(bill.lines) for bill in contents.bills) == 1


@pytest.mark.parametrize("kind", ["Tax", "Credit", "Fee"])
def test_what_is_no_use_is_for_no_meter(kind: str) -> None:
    [bill] = rows(LEGACY, BEDROCK.replace(",Usage,", f",{kind},")).bills
    [line] = bill.lines
    assert (line.model, line.meter, line.quantity) == ("", "", None)
    assert line.text.startswith(kind)


def test_bad_rows_are_named_and_then_nothing_is_taken() -> None:
    with pytest.raises(BadFile, match="4 of 5 rows can't be read, so nothing was taken") as caught:
        rows(
            FOCUS,
            AZURE,
            AZURE.replace("0.25", "a lot"),
            AZURE.replace("2026-11-03T05:00:00Z", "yesterday"),
            AZURE.replace("EUR", "€"),
            f"{AZURE},more",
        )
    assert caught.value.rows == (
        "row 3: 'a lot': expected an amount, such as 12.34",
        "row 4: time 'yesterday': expected one such as 2026-11-01T00:00:00Z",
        "row 5: currency '€': expected three letters, such as USD",
        "row 6: expected 11 cells, as the header has, found 12",
    )
    assert caught.value.bad_rows == 4


def test_no_more_than_twenty_rows_are_named() -> None:
    with pytest.raises(BadFile, match="300 of 300") as caught:
        rows(FOCUS, *[AZURE.replace("0.25", "x")] * 300)
    assert len(caught.value.rows) == 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected the header"),
        (b"a,b\n1,2\n", "expected the header .* found 'a,b'"),
        (b"BilledCost,ServiceName\n", "a FOCUS file without the columns billing_currency"),
        (f"{FOCUS}\n".encode() + b"\xff\xfe", "UTF-8"),
        (f'{FOCUS}\n"unended'.encode(), "no CSV"),
        (f"{FOCUS}\n{AZURE}\n".encode().replace(b"acct", b"ac\0ct"), "1 of 1 rows"),
        (gzip.compress(f"{FOCUS}\n{AZURE}\n".encode())[:-9], "damaged"),
        (b"x" * 2_000_000, "a line of more than"),
    ],
)
def test_what_is_no_such_file_is_explained(content: bytes, said: str) -> None:
    with pytest.raises(BadFile, match=said):
        read([io.BytesIO(content)])


def test_parts_of_two_kinds_are_refused() -> None:
    parts = [f"{FOCUS}\n{AZURE}\n", f"{LEGACY}\n{BEDROCK}\n"]
    with pytest.raises(BadFile, match="FOCUS and CUR"):
        read([io.BytesIO(part.encode()) for part in parts])


def test_a_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(f"{FOCUS}\n".encode() + b"\n" * 50_000_000)
    with pytest.raises(BadFile, match="too large"):
        read([io.BytesIO(bomb)], most_bytes=1_000_000)


def test_a_long_file_takes_no_more_memory_than_a_short_one() -> None:
    def peak(count: int) -> int:
        packed = gzip.compress(f"{FOCUS}\n".encode() + f"{AZURE}\n".encode() * count)
        tracemalloc.start()
        try:
            assert read([io.BytesIO(packed)]).rows == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is imported and compiled once
    assert peak(20_000) < peak(200) + 300_000


def test_a_model_of_a_batch_is_of_the_tier_batch() -> None:
    [bill] = rows(FOCUS, AZURE.replace("Inp glbl Tokens", "Batch Outp Tokens")).bills
    [line] = bill.lines
    assert (line.meter, line.service_tier) == ("output_tokens", "batch")
