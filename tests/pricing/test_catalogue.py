import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from genai_prices import Usage as PackageUsage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.observation import Usage
from costwatch.accounts.models import Organization
from costwatch.attribution.models import Entry
from costwatch.domain.money import total
from costwatch.domain.pricing import Ranged, UnitPrice, at
from costwatch.pricing.catalogue import ListPrice, import_catalogue, list_prices
from costwatch.pricing.cost import cost_of_calls
from costwatch.pricing.matching import catalogued, names_of, tier_of
from costwatch.pricing.models import Meter, Price
from tests.factories import NOON, observation
from tests.pricing.usage import send

LISTED = list(list_prices())


def price_of(provider: str, model: str, meter: str, moment: datetime, tier: str = "") -> Decimal:
    ranges = [
        Ranged(p.valid_from, p.valid_until, p.unit_price)
        for p in LISTED
        if p.sku == (provider, model, meter, tier)
    ]
    found = at(ranges, moment)
    assert found is not None
    return found


def test_ranges_of_a_sku_never_overlap() -> None:
    by_sku: dict[tuple[str, ...], list[ListPrice]] = {}
    for price in LISTED:
        by_sku.setdefault(price.sku, []).append(price)
    for prices in by_sku.values():
        for before, after in itertools.pairwise(prices):
            assert before.valid_until is not None
            assert after.valid_from is not None
            assert before.valid_until <= after.valid_from


def test_a_price_that_changed_keeps_its_past() -> None:
    dated = [p for p in LISTED if p.valid_from is not None and not p.service_tier]
    assert dated
    for price in dated[:50]:
        assert price.valid_from is not None
        before = price_of(*price.sku[:3], price.valid_from - timedelta(hours=1))
        assert before != price.unit_price


_LISTED_MODELS = {price.sku[:2] for price in LISTED}
_models = [
    (provider.id, model)
    for provider in get_snapshot().providers
    for model in provider.models
    if (provider.id, model.id) in _LISTED_MODELS
]


@settings(deadline=None)
@given(
    st.sampled_from(_models),
    st.integers(0, 20_000),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
    st.integers(0, 10_000),
    st.dates(datetime(2023, 1, 1).date(), datetime(2026, 11, 20).date()),  # noqa: DTZ001
)
def test_our_rows_cost_what_the_package_says(
    listed: tuple[str, object], fresh: int, read: int, written: int, out: int, day: object
) -> None:
    provider, model = listed
    moment = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=5)  # type: ignore[arg-type]
    prices: ModelPrice = model.get_prices(moment)  # type: ignore[attr-defined]
    quantities = {
        Meter.INPUT_TOKENS: fresh if prices.input_mtok is not None else 0,
        Meter.CACHE_READ_INPUT_TOKENS: read if prices.input_mtok is not None else 0,
        Meter.CACHE_WRITE_INPUT_TOKENS: written if prices.input_mtok is not None else 0,
        Meter.OUTPUT_TOKENS: out if prices.output_mtok is not None else 0,
    }
    plain = ModelPrice(
        **{
            key: getattr(value, "base", value)
            for key in ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok")
            if (value := getattr(prices, key)) is not None
        }
    )
    said = plain.calc_price(
        PackageUsage(
            input_tokens=sum(list(quantities.values())[:3]),
            cache_read_tokens=quantities[Meter.CACHE_READ_INPUT_TOKENS],
            cache_write_tokens=quantities[Meter.CACHE_WRITE_INPUT_TOKENS],
            output_tokens=quantities[Meter.OUTPUT_TOKENS],
        )
    )["total_price"]
    ours = total(
        UnitPrice(
            price_of(provider, model.id, meter, moment),  # type: ignore[attr-defined]
            1_000_000,
            "USD",
        )
        .cost(quantity)
        .amount
        for meter, quantity in quantities.items()
        if quantity
    )
    # The package's floats carry noise in their 17th digit, which our rows do not.
    assert abs(ours - said) < Decimal("1e-9")


def test_a_batch_costs_half_and_the_standard_price_stays() -> None:
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    standard = price_of("openai", "gpt-5", Meter.OUTPUT_TOKENS, moment)
    assert price_of("openai", "gpt-5", Meter.OUTPUT_TOKENS, moment, "batch") * 2 == standard


def test_a_tier_has_no_price_before_the_package_knows_it() -> None:
    batch = [p for p in LISTED if p.sku == ("openai", "gpt-5", "output_tokens", "batch")]
    assert [p.valid_from for p in batch] == [datetime(2026, 10, 14, tzinfo=UTC)]


@pytest.mark.django_db
def test_importing_twice_changes_nothing_and_a_tampered_price_is_put_right() -> None:
    first = import_catalogue()
    rows = set(Price.objects.values_list("id", "unit_price"))
    assert first.added == first.prices == len(rows) > 5000
    again = import_catalogue()
    assert (again.added, again.removed) == (0, 0)
    assert set(Price.objects.values_list("id", "unit_price")) == rows
    tampered = Price.objects.filter(model="gpt-4o", meter=Meter.OUTPUT_TOKENS).first()
    assert tampered is not None
    Price.objects.filter(pk=tampered.pk).update(unit_price=1)
    assert import_catalogue().added == 1
    assert Price.objects.filter(model="gpt-4o", unit_price=1).count() == 0


@pytest.mark.django_db
def test_a_call_to_openai_costs_its_list_price(organization: Organization) -> None:
    import_catalogue()
    send(
        organization,
        observation(usage=Usage(input_tokens=900, cache_read_input_tokens=100, output_tokens=20)),
        observation(provider="vllm", request_model="gpt-4o", response_model="gpt-4o"),
        observation(provider="", request_model="gpt-4o", response_model="gpt-4o"),
    )
    entries = list(Entry.objects.select_related("offering"))
    found = cost_of_calls(organization, entries)
    amounts = {e.offering.provider: found[e.call_id].amount for e in entries}
    # 2.50, 1.25 and 10 dollars per million.
    assert amounts == {"openai": Decimal("0.002575"), "vllm": None, "": None}
    assert entries[0].started_at == NOON


def test_models_are_found_by_the_names_that_telemetry_gives_them() -> None:
    assert catalogued("openai", "gpt-4o-2024-08-06") == ("openai", "gpt-4o")
    assert catalogued("azure.ai.openai", "gpt-4o") == ("openai", "gpt-4o")
    assert catalogued("anthropic", "claude-sonnet-4-5-20250929") == (
        "anthropic",
        "claude-sonnet-4-5",
    )
    assert catalogued("x_ai", "grok-3") == ("x-ai", "grok-3")
    assert catalogued("openai", "house-model") is None
    assert catalogued("vllm", "gpt-4o") is None


def test_the_model_that_answered_comes_before_the_one_asked_for() -> None:
    names = names_of("OpenAI", "gpt-4o-2024-08-06", "my-deployment")
    assert names == (
        ("openai", "gpt-4o-2024-08-06"),
        ("openai", "my-deployment"),
        ("openai", "gpt-4o"),
    )


def test_ordinary_service_has_many_names() -> None:
    assert [tier_of(t) for t in ("", "default", "Standard", "auto")] == [""] * 4
    assert tier_of("Flex") == "flex"
