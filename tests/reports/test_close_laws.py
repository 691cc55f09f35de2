"""What holds whatever happens: random use, prices, exchange rates and rules, late data, months closed in order, some
reopened.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import time_machine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.assignment import reassign
from costwatch.attribution.models import AssignmentRule, CapacityHour, UsageHour
from costwatch.domain import money
from costwatch.domain.idle import Policy
from costwatch.domain.periods import Period
from costwatch.domain.pricing import NS_PER_HOUR
from costwatch.pricing.capacity import Kind, capacity_charges
from costwatch.pricing.cost import Dimension, costs
from costwatch.pricing.models import Meter
from costwatch.pricing.pools import set_policy
from costwatch.reports import close
from costwatch.reports.adjustments import in_force, pending
from costwatch.reports.chargeback import chargeback, frozen
from costwatch.reports.exports import csv, json
from costwatch.reports.frozen import digest_of_closing, digest_of_statement
from costwatch.reports.lines import Line
from costwatch.reports.models import Closing
from costwatch.reports.months import standings
from tests.factories import OrganizationFactory, TeamFactory
from tests.pricing.capacity import told
from tests.pricing.usage import device_price, exchange_rates, offering, source, token_price, used

FEATURES = ("chat", "search", "")
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-99")  # the last never has a price
METERS = (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS)
FIRST = datetime(2026, 8, 1, tzinfo=UTC)
HOURS = [FIRST + timedelta(days=day, hours=5) for day in (0, 17, 30, 31, 45, 60, 61, 75, 91)]
NOW = datetime(2026, 11, 10, tzinfo=UTC)
EVER = Period(FIRST - timedelta(days=60), NOW + timedelta(days=60))

uses = st.tuples(
    st.just("use"),
    st.sampled_from([0, 1, None]),  # the team that the tag names
    st.sampled_from(FEATURES),
    st.sampled_from(MODELS),
    st.sampled_from(HOURS),
    st.integers(0, 10**7),
)
prices = st.tuples(
    st.just("price"),
    st.sampled_from(MODELS[:2]),
    st.sampled_from(METERS),
    st.sampled_from(["0", "2.50", "3.333333", "0.000001"]),
    st.sampled_from([None, *HOURS[1::2]]),
    st.sampled_from(["USD", "EUR"]),
)
rates = st.tuples(
    st.just("rate"),
    st.sampled_from([hour.date() + timedelta(days=days) for hour in HOURS for days in (-1, 0)]),
    st.sampled_from(["1.1", "0.999999999999", "1.0842"]),
)
rules = st.tuples(
    st.just("rule"),
    st.sampled_from([0, 1]),
    st.sampled_from(FEATURES[:2]),
    st.sampled_from([None, HOURS[4]]),
)
devices = st.tuples(
    st.just("device"),
    st.sampled_from([0, 1, None]),
    st.sampled_from(HOURS),
    st.integers(0, NS_PER_HOUR),
    st.integers(0, NS_PER_HOUR),
)
policies = st.tuples(
    st.just("policy"), st.sampled_from(Policy), st.sampled_from([None, *HOURS[1::2]])
)
device_prices = st.tuples(
    st.just("device_price"),
    st.sampled_from(["0", "3.59", "4.000001"]),
    st.sampled_from(["USD", "EUR"]),
)
moves = st.sampled_from([("close",), ("close",), ("close",), ("reopen",)])
events = st.lists(
    st.one_of(uses, uses, prices, rates, rates, rules, devices, policies, device_prices),
    min_size=1,
    max_size=4,
)
chapters = st.lists(st.tuples(events, moves), min_size=3, max_size=6)


@dataclass
class World:
    """One organization, what was done to it, and the files of months as they were when they were closed."""

    organization: Organization = field(default_factory=OrganizationFactory)
    files: dict[int, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.teams: list[Team] = [TeamFactory(organization=self.organization) for _ in range(2)]
        token_price(self.organization, Meter.OUTPUT_TOKENS, "10")

    def use_every_month(self) -> None:
        for hour in HOURS:
            self._use(0, "chat", "gpt-4o", hour, 70_001)

    def do(self, what: str, *how: object) -> None:
        getattr(self, f"_{what}")(*how)

    def _use(self, team: int | None, feature: str, model: str, hour: datetime, tokens: int) -> None:
        who = source(self.organization, None if team is None else self.teams[team], feature)
        what = offering(self.organization, model=model)
        row = UsageHour.objects.filter(source=who, offering=what, hour=hour).first()
        before = row.input_tokens if row else 0
        used(who, what, hour, input_tokens=before + tokens, output_tokens=tokens // 7)

    def _price(
        self, model: str, meter: Meter, amount: str, start: datetime | None, currency: str
    ) -> None:
        token_price(self.organization, meter, amount, model=model, start=start, currency=currency)

    def _rate(self, day: date, rate: str) -> None:
        exchange_rates(self.organization, "EUR", {day: rate})

    def _device(self, team: int | None, hour: datetime, used_ns: int, told_ns: int) -> None:
        """A call on one's own device, in an hour of which the device itself may say something else."""
        who = source(self.organization, None if team is None else self.teams[team], "chat")
        own = offering(self.organization, "", "llama", device_type="H100")
        used(who, own, hour, device_ns=used_ns)
        CapacityHour.objects.filter(organization=self.organization, hour=hour).delete()
        told(
            self.organization,
            hour,
            attributed_ns=told_ns,
            unattributed_ns=(NS_PER_HOUR - told_ns) // 3,
        )

    def _device_price(self, per_hour: str, currency: str) -> None:
        device_price(self.organization, "H100", per_hour, currency)

    def _policy(self, policy: Policy, start: datetime | None) -> None:
        reserved = {self.teams[0]: 35} if policy is Policy.RESERVED else {}
        set_policy(self.organization, None, policy, start, reserved)

    def _rule(self, team: int, feature: str, start: datetime | None) -> None:
        AssignmentRule.objects.create(
            organization=self.organization, team=self.teams[team], feature=feature, valid_from=start
        )
        reassign(self.organization.pk)

    def _close(self) -> None:
        known = standings(self.organization, NOW)
        name = next(
            (one.name for one in known if one.is_over and one.counts and not one.closing), ""
        )
        if name:
            close.review(self.organization, name, None)
            closing = close.close(self.organization, name, None)
            self.files[closing.pk] = files_of(closing)

    def _reopen(self) -> None:
        if last := in_force(self.organization).last():
            close.reopen(self.organization, last.month.name, None, "a second look")

    def frozen(self) -> list[Line]:
        return list(
            itertools.chain.from_iterable(
                frozen(closing).lines for closing in in_force(self.organization)
            )
        )


def files_of(closing: Closing) -> list[bytes]:
    report = frozen(closing)
    return [b"".join(map(_bytes, chunks(report))) for chunks in (csv.chunks, json.chunks)]


def _bytes(chunk: str | bytes) -> bytes:
    return chunk if isinstance(chunk, bytes) else chunk.encode()


def by_team(rows: Iterable[tuple[int | None, Decimal]]) -> dict[int | None, Decimal]:
    sums: dict[int | None, Decimal] = defaultdict(Decimal)
    for team_id, cost in rows:
        sums[team_id] = money.EXACT.add(sums[team_id], cost)
    return {team_id: cost for team_id, cost in sums.items() if cost}


class Laws(TestCase):
    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # A story takes half a second, so making a failing one shorter would take minutes.
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    @given(chapters)
    def test_frozen_and_pending_are_what_everything_costs_and_what_is_frozen_stays(
        self, chapters: list[tuple[list[tuple[object, ...]], tuple[str]]]
    ) -> None:
        with time_machine.travel(NOW, tick=False):
            world = World()
            world.use_every_month()
            for events, move in chapters:
                for what, *how in [*events, move]:
                    world.do(str(what), *how)
            self.whole_and_unchanged(world)

    def whole_and_unchanged(self, world: World) -> None:
        organization = world.organization
        lines = [*world.frozen(), *pending(organization, "9999-12")]
        for standing in standings(organization, NOW):
            if standing.closing is None:
                open_lines = chargeback(organization, standing.period).lines
                lines += [line for line in open_lines if line.used_in == standing.name]
        now = [
            (row.key[Dimension.TEAM], row.cost)
            for row in costs(organization, EVER, group_by=[Dimension.TEAM])
        ]
        now += [
            (charge.team_id, charge.cost)
            for charge in capacity_charges(organization, EVER)
            if charge.kind is not Kind.USAGE
        ]
        assert by_team((line.team_id, line.exact_cost) for line in lines) == by_team(now)  # type: ignore[arg-type]  # ids of teams
        for closing in Closing.objects.filter(organization=organization):
            assert files_of(closing) == world.files[closing.pk]
            assert digest_of_closing(closing) == closing.sha256
            for statement in closing.statements.all():
                assert digest_of_statement(statement) == statement.sha256
                billed = money.total(statement.lines.values_list("cost", flat=True))
                assert billed == statement.cost
            assert money.total(closing.statements.values_list("cost", flat=True)) == closing.cost
            assert closing.cost == money.rounded(closing.exact_cost, 2)
