"""The law of gaps: what counts of metrics depends on what was sent, not on how it came."""

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.observation import Decoded, Meter, Observation, TokenPoint, Vantage
from costwatch.accounts.models import IngestKey
from costwatch.attribution import dimensions, ingest, partitions, profiles, spanned
from costwatch.attribution.copying import hours_of
from costwatch.attribution.models import Entry, UsageHour
from costwatch.attribution.rollups import add_batches
from costwatch.attribution.token_models import MetricUse
from costwatch.domain.allocation import HOUR_NS, share
from tests.attribution.points import MINUTE, token_point
from tests.factories import NOON, OrganizationFactory, ingest_key, observation, unix_ns

BEGUN = NOON - timedelta(hours=3)
RUNTIME = "runtime"  # the service whose metrics are a server's
ENGINE = "engine"  # the service whose spans are a server's


class Series(NamedTuple):
    """A counter of a process. Of input tokens it counts calls too."""

    service: str
    model: str
    scope: str
    meter: Meter
    is_cumulative: bool


class Counted(NamedTuple):
    """What a counter counted from one moment to another."""

    start_ns: int
    end_ns: int
    tokens: int
    calls: int


# Of each run of a process: how many minutes pass until each reading, and how many tokens are counted meanwhile.
Runs = list[list[tuple[int, int]]]
Sums = dict[tuple[int, str, str], list[int]]  # by hour, service and model: calls, input, output

SERIES = st.builds(
    Series,
    st.sampled_from(["shop", "bot", RUNTIME]),
    st.sampled_from(["small", "large"]),
    st.sampled_from(["client", "framework"]),
    st.sampled_from([Meter.INPUT, Meter.OUTPUT]),
    st.booleans(),
)
RUNS = st.lists(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 1000)), min_size=1, max_size=4),
    min_size=1,
    max_size=3,
)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["shop", "bot", ENGINE]),
        st.sampled_from(["small", "large"]),
        st.integers(0, 500),
        st.integers(0, 70),
    ),
    max_size=4,
)


def run_by_run(series: Series, runs: Runs) -> Iterator[list[Counted]]:
    at = BEGUN
    for run in runs:
        counted = []
        for minutes, tokens in run:
            start, at = at, at + minutes * MINUTE
            calls = tokens // 7 if series.meter is Meter.INPUT else 0
            counted.append(Counted(unix_ns(start), unix_ns(at), tokens, calls))
        yield counted
        at += MINUTE


def points(series: Series, runs: Runs) -> Iterator[TokenPoint]:
    for run in run_by_run(series, runs):
        for number, one in enumerate(run, 1):
            said = run[:number] if series.is_cumulative else [one]
            yield _point(
                series,
                start_unix_ns=said[0].start_ns,
                time_unix_ns=one.end_ns,
                tokens=sum(before.tokens for before in said),
                calls=sum(before.calls for before in said),
            )


def _point(series: Series, **counted: int) -> TokenPoint:
    return token_point(
        NOON,
        is_cumulative=series.is_cumulative,
        meter=series.meter,
        scope=series.scope,
        vantage=Vantage.SERVER if series.service == RUNTIME else Vantage.CLIENT,
        service_name=series.service,
        instance_id=series.service,
        request_model=series.model,
        response_model="",
        **counted,
    )


def span(service: str, model: str, minute: int, minutes: int) -> Observation:
    return observation(
        service_name=service,
        vantage=Vantage.SERVER if service == ENGINE else Vantage.CLIENT,
        request_model=model,
        response_model="",
        at=BEGUN + minute * MINUTE,
        duration_ns=minutes * 60 * 10**9,
    )


def hours(start_ns: int, end_ns: int) -> range:
    return range(start_ns // HOUR_NS, end_ns // HOUR_NS + 1)


def naive(sent: Mapping[Series, Runs], seen: Collection[Observation]) -> Sums:
    """What counts, worked out from all that was sent, at once and the simple way."""
    of_service, of_model, served = set(), set(), set()
    for call in seen:
        for hour in hours(call.start_unix_ns, call.end_unix_ns):
            of_service.add((hour, call.service_name))
            of_model.add((hour, call.request_model))
            if call.service_name == ENGINE:
                served.add((hour, call.request_model))
    sums: Sums = {}
    for servers in (False, True):
        by_place: dict[tuple[int, str, str], dict[str, list[int]]] = defaultdict(
            lambda: defaultdict(lambda: [0, 0, 0])
        )
        for series, runs in sent.items():
            if (series.service == RUNTIME) is not servers:
                continue
            for run in run_by_run(series, runs):
                for one in run:
                    touched = hours(one.start_ns, one.end_ns)
                    if any((hour, series.service) in of_service for hour in touched):
                        continue
                    better = of_model if servers else served
                    if any((hour, series.model) in better for hour in touched):
                        continue
                    for hour, tokens, calls in split(one):
                        place = by_place[hour, series.service, series.model][series.scope]
                        place[0] += calls
                        place[1 if series.meter is Meter.INPUT else 2] += tokens
        for place, scopes in by_place.items():
            best = max(scopes, key=lambda s, of=scopes: (sum(of[s][1:]), of[s][0], s))  # type: ignore[misc]
            if any(scopes[best]):
                sums[place] = scopes[best]
                of_model.add((place[0], place[2]))
    return sums


def split(one: Counted) -> Iterator[tuple[int, int, int]]:
    touched = [
        (hour, min((hour + 1) * HOUR_NS, one.end_ns) - max(hour * HOUR_NS, one.start_ns))
        for hour in hours(one.start_ns, one.end_ns - 1)
    ]
    lengths = [length for _, length in touched]
    shares = zip(share(one.tokens, lengths), share(one.calls, lengths), strict=True)
    for (hour, _), (tokens, calls) in zip(touched, shares, strict=True):
        yield hour, tokens, calls


def counted(key: IngestKey) -> Sums:
    rows = (
        MetricUse.objects.filter(organization=key.organization_id)
        .values_list("hour", "source__service_name", "offering__request_model")
        .annotate(*(Sum(name) for name in ("calls", "input_tokens", "output_tokens")))
    )
    return {
        (hours_of(hour), service, model): [int(n) for n in sums]
        for hour, service, model, *sums in rows
        if any(sums)
    }


def total(model: type[UsageHour | MetricUse | Entry], key: IngestKey) -> int:
    rows = model.objects.filter(organization=key.organization_id)
    return int(rows.aggregate(total=Sum("input_tokens"))["total"] or 0)


class Gaps(TestCase):
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.dictionaries(SERIES, RUNS, min_size=1, max_size=4),
        CALLS,
        st.randoms(use_true_random=False),
    )
    def test_any_order_repetition_and_splitting_gives_what_the_rule_says(
        self,
        sent: dict[Series, Runs],
        calls: list[tuple[str, str, int, int]],
        chance: random.Random,
    ) -> None:
        for cache in (dimensions.forget_ids, profiles.forget, partitions.forget_made):
            cache()
        spanned.forget()
        key = ingest_key(OrganizationFactory())
        seen = [span(*call) for call in calls]
        pieces: list[TokenPoint | Observation] = [*seen]
        pieces += [point for series, runs in sent.items() for point in points(series, runs)]
        pieces += chance.sample(pieces, len(pieces) // 3)
        chance.shuffle(pieces)
        while pieces:
            some = [pieces.pop() for _ in range(min(len(pieces), chance.randint(1, 4)))]
            with self.captureOnCommitCallbacks(execute=True):
                ingest.take(key, _body(some))
            add_batches(key.organization_id)
        assert counted(key) == naive(sent, seen)
        assert total(UsageHour, key) == total(Entry, key) + total(MetricUse, key)


def _body(pieces: Sequence[TokenPoint | Observation]) -> Decoded:
    return Decoded(
        observations=[piece for piece in pieces if isinstance(piece, Observation)],
        token_points=[piece for piece in pieces if isinstance(piece, TokenPoint)],
    )
