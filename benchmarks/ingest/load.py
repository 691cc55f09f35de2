"""Bodies to the door: as fast as it takes them, or at a pace."""

import http.client
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import psycopg

from benchmarks.ingest.bodies import SPANS, body
from benchmarks.ingest.service import PATIENCE_SECONDS, Service

_POLL_SECONDS = 0.02
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Burst:
    """Calls per second, until visible in the rollups and until acknowledged."""

    visible: float
    acknowledged: float


@dataclass(frozen=True, slots=True)
class Pace:
    """How long single bodies took at a pace."""

    calls_per_second: float
    p99_post_seconds: float
    p95_visible_seconds: float  # from acknowledged to visible


def burst(service: Service, bodies: int, senders: int) -> Burst:
    """So many bodies, as fast as they are taken."""
    made = [body() for _ in range(bodies)]
    with service.connect() as connection:
        before = visible_calls(connection)
        begun = time.perf_counter()
        with ThreadPoolExecutor(senders) as pool:
            list(pool.map(lambda part: _send_all(service, part), _split(made, senders)))
        acknowledged = time.perf_counter() - begun
        _wait_until_visible(connection, before + SPANS * bodies)
        visible = time.perf_counter() - begun
    return Burst(SPANS * bodies / visible, SPANS * bodies / acknowledged)


def pace(service: Service, calls_per_second: float, seconds: float, senders: int) -> Pace:
    """Bodies at even intervals, whether or not the one before was answered in time."""
    count = max(senders, round(seconds * calls_per_second / SPANS))
    made = [body() for _ in range(count)]
    begun = time.perf_counter() + 0.1
    due = [begun + number * SPANS / calls_per_second for number in range(count)]
    turns = _split(list(zip(due, made, strict=True)), senders)
    with service.connect() as connection, ThreadPoolExecutor(senders + 1) as pool:
        before = visible_calls(connection)
        watching = pool.submit(_watch, connection, before + SPANS * count)
        sent = [
            one for part in pool.map(lambda turn: _send_paced(service, turn), turns) for one in part
        ]
        seen = watching.result()
    # Which calls are visible cannot be told apart; how many can: acknowledgements and sightings are compared in order.
    acknowledged = sorted(at for _, at in sent)
    waits = [
        next(at for at, calls in seen if calls >= before + SPANS * (number + 1)) - acked
        for number, acked in enumerate(acknowledged)
    ]
    return Pace(
        calls_per_second,
        _quantile([took for took, _ in sent], 0.99),
        _quantile([max(0.0, wait) for wait in waits], 0.95),
    )


def visible_calls(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT coalesce(sum(calls), 0) FROM attribution_usagehour").fetchone()
    return int(row[0]) if row else 0


def _watch(connection: psycopg.Connection, until: int) -> list[tuple[float, int]]:
    """When how many calls were visible, until there are so many."""
    seen: list[tuple[float, int]] = []
    stop = time.perf_counter() + PATIENCE_SECONDS
    while not seen or seen[-1][1] < until:
        if time.perf_counter() > stop:
            raise TimeoutError("the calls did not become visible")
        calls = visible_calls(connection)
        seen.append((time.perf_counter(), calls))
        time.sleep(_POLL_SECONDS)
    return seen


def _wait_until_visible(connection: psycopg.Connection, calls: int) -> None:
    _watch(connection, calls)


def _split(items: Sequence[_T], parts: int) -> list[Sequence[_T]]:
    return [items[part::parts] for part in range(parts)]


def _send_all(service: Service, bodies: Sequence[bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    for each in bodies:
        _send(connection, service.key, each)
    connection.close()


def _send_paced(
    service: Service, turns: Sequence[tuple[float, bytes]]
) -> list[tuple[float, float]]:
    """How long each body took from when it was due, and when it was acknowledged."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    sent = []
    for due, each in turns:
        time.sleep(max(0.0, due - time.perf_counter()))
        _send(connection, service.key, each)
        now = time.perf_counter()
        sent.append((now - due, now))
    connection.close()
    return sent


def _send(connection: http.client.HTTPConnection, key: str, each: bytes) -> None:
    headers = {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/traces", each, headers)
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {said!r}")


def _quantile(values: Sequence[float], fraction: float) -> float:
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=1000, method="inclusive")[round(fraction * 1000) - 1]
