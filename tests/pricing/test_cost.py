from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.observation import Provenance, Usage, Vantage
from costwatch.accounts.models import Organization
from costwatch.accounts.teams import team_subtree
from costwatch.attribution.assignment import reassign
from costwatch.attribution.models import TOKEN_METERS, AssignmentRule, Entry, Offering, UsageHour
from costwatch.domain.money import total
from costwatch.domain.periods import Period, month_of
from costwatch.pricing import cost
from costwatch.pricing.cost import CostRow, Dimension, Filters, cost_of_calls, costs
from costwatch.pricing.models import Meter, PriceBook, Rate
from costwatch.pricing.rates import refresh, refresh_if_new
from tests.factories import NOON, OrganizationFactory, TeamFactory, observation
from tests.pricing.usage import (
    HOUR,
    device_price,
    offering,
    send,
    source,
    take,
    token_price,
    used,
)

DAY = Period(datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC))


def only(organization: Organization, filters: Filters | None = None) -> CostRow:
    return cost.total(organization, DAY, filters)


def test_a_call_costs_its_tokens_at_their_prices(organization: Organization) -> None:
    token_price(organization, Meter.INPUT_TOKENS, "2.50")
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    send(organization, observation(usage=Usage(input_tokens=1000, output_tokens=200)))
    row = only(organization)
    assert row.cost == Decimal("0.0045")
    assert (row.calls, row.input_tokens, row.output_tokens) == (1, 1000, 200)
    assert (row.unpriced_calls, row.unpriced_tokens) == (0, 0)


def test_cached_tokens_are_paid_at_their_own_price_and_once(organization: Organization) -> None:
    token_price(organization, Meter.INPUT_TOKENS, "2")
    token_price(organization, Meter.CACHE_READ_INPUT_TOKENS, "0.20")
    used(
        source(organization),
        offering(organization),
        input_tokens=1_000_000,
        cache_read_input_tokens=1_000_000,
    )
    assert only(organization).cost == Decimal("2.20")


def test_reasoning_is_a_detail_of_output_and_not_paid_twice(organization: Organization) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    used(
        source(organization),
        offering(organization),
        output_tokens=1_000_000,
        reasoning_output_tokens=900_000,
    )
    assert only(organization).cost == 10


def test_a_price_changed_at_noon_leaves_the_morning_alone(organization: Organization) -> None:
    noon = HOUR
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    who, what = source(organization), offering(organization)
    used(who, what, noon - timedelta(hours=1), output_tokens=1_000_000)
    used(who, what, noon, output_tokens=1_000_000)
    assert only(organization).cost == 2
    token_price(organization, Meter.OUTPUT_TOKENS, "5", start=noon)
    hours = costs(organization, DAY, interval="hour")
    assert [(row.start, row.cost) for row in hours] == [
        (noon - timedelta(hours=1), Decimal(1)),
        (noon, Decimal(5)),
    ]


def test_unknown_stays_unknown_and_free_is_free(organization: Organization) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "0", model="gift")
    token_price(organization, Meter.INPUT_TOKENS, "0", model="gift")
    send(
        organization,
        observation(request_model="gift", response_model="gift", at=NOON),
        observation(request_model="gpt-99", response_model="gpt-99", at=NOON),
    )
    free, unknown = (only(organization, Filters(model=m)) for m in ("gift", "gpt-99"))
    assert (free.cost, free.unpriced_calls, free.unpriced_tokens) == (0, 0, 0)
    assert (unknown.cost, unknown.unpriced_calls, unknown.unpriced_tokens) == (0, 1, 120)
    found = cost_of_calls(organization, Entry.objects.select_related("offering"))
    amounts = {e.call_id: e.offering.model for e in Entry.objects.select_related("offering")}
    by_model = {amounts[call_id]: call.amount for call_id, call in found.items()}
    assert by_model == {"gift": Decimal(0), "gpt-99": None}


def test_a_call_whose_usage_nobody_counted_has_no_cost(organization: Organization) -> None:
    token_price(organization, Meter.INPUT_TOKENS, "1")
    send(organization, observation(usage=Usage(), provenance=Provenance.ABSENT))
    [call] = cost_of_calls(organization, Entry.objects.select_related("offering")).values()
    assert call.amount is None
    assert only(organization).unknown_usage_calls == 1


def test_ones_own_machines_are_paid_by_time_and_never_by_token(organization: Organization) -> None:
    token_price(organization, Meter.INPUT_TOKENS, "1000")
    token_price(organization, Meter.OUTPUT_TOKENS, "1000")
    device_price(organization, "CPU", "3.60")
    send(
        organization,
        observation(
            vantage=Vantage.SERVER, device_ns=2_000_000_000, device_type="cpu", provider="openai"
        ),
    )
    row = only(organization)
    assert row.cost == Decimal("0.002")
    assert (row.unpriced_calls, row.unpriced_tokens, row.unpriced_device_ns) == (0, 0, 0)


def test_a_device_without_a_price_is_not_free(organization: Organization) -> None:
    used(source(organization), offering(organization, device_type="cpu"), device_ns=77)
    row = only(organization)
    assert (row.cost, row.unpriced_calls, row.unpriced_device_ns) == (0, 1, 77)


def test_a_contracted_price_comes_before_the_list_price(organization: Organization) -> None:
    catalogue = PriceBook.objects.create(organization=None, kind="list", name="test")
    mine = token_price(organization, Meter.OUTPUT_TOKENS, "7", start=HOUR)
    mine.pk, mine.book, mine.valid_from, mine.unit_price = None, catalogue, None, Decimal(9)
    mine.save(force_insert=True)
    who, what = source(organization), offering(organization)
    used(who, what, HOUR - timedelta(hours=1), output_tokens=1_000_000)
    used(who, what, HOUR, output_tokens=1_000_000)
    refresh(organization.pk)
    assert [row.cost for row in costs(organization, DAY, interval="hour")] == [9, 7]


def test_prices_of_another_organization_never_apply(organization: Organization) -> None:
    other = OrganizationFactory()
    token_price(other, Meter.OUTPUT_TOKENS, "1")
    for one in (organization, other):
        used(source(one), offering(one), output_tokens=1_000_000)
    assert (only(organization).cost, only(organization).unpriced_calls) == (0, 1)
    assert only(other).cost == 1
    assert not Rate.objects.filter(organization=organization).exists()


def test_the_batch_tier_has_its_own_price_or_none(organization: Organization) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    token_price(organization, Meter.OUTPUT_TOKENS, "5", tier="batch")
    for tier in ("default", "Batch", "flex"):
        used(source(organization), offering(organization, tier=tier), output_tokens=1_000_000)
    row = only(organization)
    assert (row.cost, row.unpriced_tokens) == (15, 1_000_000)


def test_what_nobody_pays_is_shown_and_can_be_asked_for(organization: Organization) -> None:
    search = TeamFactory(organization=organization, name="Search")
    support = TeamFactory(organization=organization, name="Support")
    for team in (search, support, None):
        used(source(organization, team), offering(organization), output_tokens=1)
    rows = costs(organization, DAY, group_by=[Dimension.TEAM])
    assert [row.label[Dimension.TEAM] for row in rows] == ["Search", "Support", "unattributed"]
    assert rows[-1].key == {Dimension.TEAM: None}

    def calls(**filters: object) -> int:
        return only(organization, Filters(**filters)).calls  # type: ignore[arg-type]

    mine = frozenset({search.pk})
    assert calls(team_ids=mine) == 1
    assert calls(team_ids=mine, unattributed=True) == 2
    assert calls(unattributed=True) == 1
    assert calls(unattributed=False) == 2
    assert calls(team_ids=frozenset()) == 0


def test_a_department_is_its_teams_and_what_is_below_them(organization: Organization) -> None:
    product = TeamFactory(organization=organization)
    chat = TeamFactory(organization=organization, parent=product)
    bots = TeamFactory(organization=organization, parent=chat)
    TeamFactory(organization=organization)
    assert team_subtree(product) == {product.pk, chat.pk, bots.pk}
    assert team_subtree(bots) == {bots.pk}


def test_another_team_pays_from_the_hour_on_in_which_the_rule_begins(
    organization: Organization,
) -> None:
    search = TeamFactory(organization=organization)
    used(source(organization), offering(organization), HOUR - timedelta(hours=1), input_tokens=1)
    used(source(organization), offering(organization), HOUR, input_tokens=2)
    AssignmentRule.objects.create(organization=organization, team=search, valid_from=HOUR)
    reassign(organization.pk)
    rows = costs(organization, DAY, group_by=[Dimension.TEAM])
    assert [(row.key[Dimension.TEAM], row.input_tokens) for row in rows] == [
        (search.pk, 2),
        (None, 1),
    ]


def test_days_and_months_are_those_of_the_organization(organization: Organization) -> None:
    organization.time_zone = "Europe/Berlin"
    organization.save()
    month_end = datetime(2026, 10, 31, 23, tzinfo=UTC)  # Berlin's first hour of November
    used(source(organization), offering(organization), month_end - timedelta(hours=1))
    used(source(organization), offering(organization), month_end)
    year = Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert [row.start for row in costs(organization, year, interval="month")] == [
        datetime(2026, 9, 30, 22, tzinfo=UTC),
        month_end,
    ]
    days = costs(organization, year, interval="day")
    assert [row.start for row in days] == [datetime(2026, 10, 30, 23, tzinfo=UTC), month_end]
    november = month_of(date(2026, 11, 1), "Europe/Berlin")
    assert cost.total(organization, november).calls == 1


def test_without_usage_there_is_no_row_but_a_total(organization: Organization) -> None:
    assert costs(organization, DAY) == []
    assert (only(organization).calls, only(organization).cost) == (0, 0)


def test_grouped_by_meter_each_line_has_its_quantity_and_its_price(
    organization: Organization,
) -> None:
    price = token_price(organization, Meter.INPUT_TOKENS, "2")
    used(source(organization), offering(organization), input_tokens=10, output_tokens=4)
    inputs, outputs = costs(organization, DAY, group_by=[Dimension.METER])
    assert (inputs.key[Dimension.METER], inputs.input_tokens, inputs.output_tokens) == (
        "input_tokens",
        10,
        0,
    )
    assert (inputs.price_id, inputs.unpriced_tokens) == (price.pk, 0)
    assert (outputs.output_tokens, outputs.price_id, outputs.unpriced_tokens) == (4, None, 4)


def test_new_offerings_are_rated_when_their_usage_is_added(organization: Organization) -> None:
    token_price(organization, Meter.INPUT_TOKENS, "1")
    assert not Rate.objects.exists()
    take(organization, observation())
    assert refresh_if_new(organization.pk)
    assert Rate.objects.count() == 1
    assert not refresh_if_new(organization.pk)


@pytest.mark.django_db(transaction=True)
def test_adding_usage_asks_for_rates(transactional_db: None) -> None:
    organization = OrganizationFactory()
    token_price(organization, Meter.INPUT_TOKENS, "1")
    take(organization, observation())
    assert Rate.objects.filter(organization=organization).count() == 1


def test_a_refresh_that_changes_nothing_keeps_every_row(organization: Organization) -> None:
    token_price(organization, Meter.INPUT_TOKENS, "1")
    offering(organization)
    assert refresh(organization.pk) == 1
    before = list(Rate.objects.values())
    refresh(organization.pk)
    assert list(Rate.objects.values()) == before


_MODELS = ("gpt-4o", "gpt-4o-mini", "house")
_quantity = st.integers(0, 10**12)
_hours = st.builds(
    dict,
    hour=st.integers(0, 23),
    team=st.sampled_from([None, 0, 1]),
    feature=st.sampled_from(["", "chat"]),
    model=st.sampled_from(_MODELS),
    sums=st.fixed_dictionaries(
        {
            **dict.fromkeys(TOKEN_METERS, _quantity),
            "device_ns": _quantity,
            "calls": st.integers(1, 1000),
        }
    ),
)
_price = st.tuples(
    st.sampled_from(_MODELS),
    st.sampled_from(Meter.values),
    st.decimals(0, 100, places=6),
    st.one_of(st.none(), st.integers(0, 23)),
)


def _setting(hours: list[dict], prices: list[tuple]) -> Organization:
    organization = OrganizationFactory()
    teams = [TeamFactory(organization=organization) for _ in range(2)]
    for one in hours:
        team = None if one["team"] is None else teams[one["team"]]
        device = "cpu" if one["model"] == "house" else ""
        sums = one["sums"] | ({} if device else {"device_ns": 0})
        used(
            source(organization, team, one["feature"]),
            offering(organization, model=one["model"], device_type=device),
            DAY.start + timedelta(hours=one["hour"]),
            **sums,
        )
    for model, meter, amount, hour in prices:
        start = None if hour is None else DAY.start + timedelta(hours=hour)
        if meter == Meter.DEVICE_NS:
            device_price(organization, "cpu", str(amount))
        else:
            token_price(organization, Meter(meter), str(amount), model=model, start=start)
    refresh(organization.pk)
    return organization


class Money(TestCase):
    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(_hours, max_size=8), st.lists(_price, max_size=6))
    def test_the_sums_of_any_grouping_are_the_total(
        self, hours: list[dict], prices: list[tuple]
    ) -> None:
        organization = _setting(hours, prices)
        whole = cost.total(organization, DAY)
        groupings = [
            (Dimension.TEAM,),
            (Dimension.METER,),
            (Dimension.TEAM, Dimension.MODEL, Dimension.METER),
            *combinations((Dimension.FEATURE, Dimension.SOURCE, Dimension.DEVICE_TYPE), 2),
        ]
        for group_by in groupings:
            for interval in (None, "hour", "day"):
                rows = costs(organization, DAY, group_by=group_by, interval=interval)  # type: ignore[arg-type]
                assert total(row.cost for row in rows) == whole.cost
                assert sum(row.unpriced_tokens for row in rows) == whole.unpriced_tokens
                assert sum(row.unpriced_device_ns for row in rows) == whole.unpriced_device_ns
                if Dimension.METER not in group_by:
                    assert sum(row.calls for row in rows) == whole.calls
                    assert sum(row.unpriced_calls for row in rows) == whole.unpriced_calls

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(_hours, max_size=6),
        st.lists(_price, max_size=4),
        st.lists(_price, max_size=4),
    )
    def test_costing_again_after_corrections_equals_costing_afresh(
        self, hours: list[dict], first: list[tuple], later: list[tuple]
    ) -> None:
        corrected = _setting(hours, first)
        cost.total(corrected, DAY)
        for model, meter, amount, hour in later:
            start = None if hour is None else DAY.start + timedelta(hours=hour)
            if meter == Meter.DEVICE_NS:
                device_price(corrected, "cpu", str(amount))
            else:
                token_price(corrected, Meter(meter), str(amount), model=model, start=start)
        fresh = _setting(hours, [*first, *later])
        by = (Dimension.MODEL, Dimension.METER)
        as_told = [
            [(row.key, row.start, row.cost, row.unpriced_tokens) for row in rows]
            for rows in (
                costs(corrected, DAY, group_by=by, interval="hour"),
                costs(fresh, DAY, group_by=by, interval="hour"),
            )
        ]
        assert as_told[0] == as_told[1]

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(
            st.tuples(st.integers(0, 10**7), st.integers(0, 10**6), st.sampled_from(_MODELS[:2])),
            min_size=1,
            max_size=6,
        ),
        st.decimals(0, 100, places=6),
    )
    def test_the_costs_of_calls_sum_to_the_cost_of_their_hour(
        self, calls: list[tuple[int, int, str]], price: Decimal
    ) -> None:
        from costwatch.attribution import dimensions, partitions

        partitions.forget_made()
        dimensions.forget_ids()
        organization = OrganizationFactory()
        for meter in (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS):
            for model in _MODELS[:2]:
                token_price(organization, meter, str(price), model=model)
        send(
            organization,
            *(
                observation(
                    request_model=model,
                    response_model=model,
                    usage=Usage(input_tokens=i, output_tokens=o),
                )
                for i, o, model in calls
            ),
        )
        entries = Entry.objects.filter(organization=organization).select_related("offering")
        found = cost_of_calls(organization, entries)
        assert len(found) == len(calls)
        assert (
            total(c.amount for c in found.values() if c.amount is not None)
            == only(organization).cost
        )
        for call in found.values():
            assert total(line.amount or Decimal(0) for line in call.lines) == call.amount


def test_device_time_in_sql_and_in_python_is_the_same_money(organization: Organization) -> None:
    device_price(organization, "cpu", "0.07")
    for n in range(1, 40):
        send(
            organization,
            observation(
                vantage=Vantage.SERVER,
                device_type="cpu",
                device_ns=n * 7_777_777_777,
                at=NOON - timedelta(hours=n),
            ),
        )
    entries = list(Entry.objects.select_related("offering"))
    calls = cost_of_calls(organization, entries)
    month = Period(NOON - timedelta(days=9), NOON)
    by_hour = {row.start: row.cost for row in costs(organization, month, interval="hour")}
    for entry in entries:
        assert calls[entry.call_id].amount == by_hour[entry.started_at.replace(minute=0)]
    assert Offering.objects.count() == 1
    assert UsageHour.objects.count() == 39
