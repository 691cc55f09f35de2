"""Prompts and answers: stored for those who chose so, for as long as they chose, and for nobody else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection, transaction
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.contents import Part, SpanContent
from collectors.otlp import PROTOBUF
from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import calls, content, doors, ingest, tasks
from costwatch.attribution.content import MOST_PARTS, StoredPart, bounded
from costwatch.attribution.models import Content, Entry
from tests.collectors.bodies import decoded, request, span
from tests.collectors.dialects.test_content import CALL, CONTENT, FAILED, SECRET
from tests.collectors.test_contents import NOT_SAID
from tests.factories import NOON, body, ingest_key, observation, unix_ns

ALL_CONTENT = {name: text for some in CONTENT.values() for name, text in some.items()}
PROMPT = {**CALL, "gen_ai.prompt": SECRET}


@pytest.fixture(autouse=True)
def _at_noon() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


def send(key: IngestKey, *spans: Span, **around: Any) -> None:
    """As the doors take it."""
    doors.traces(key, request(*spans, **around).SerializeToString(), PROTOBUF)


def said_at(at: datetime, attributes: dict[str, Any] = PROMPT, **fields: Any) -> Span:
    begun = {"start_time_unix_nano": unix_ns(at), "end_time_unix_nano": unix_ns(at) + 10**9}
    return span(attributes, **(begun | fields))


def tables_with(text: str) -> set[str]:
    """The tables that hold a text anywhere, partitions by the name of the whole."""
    found = set()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(
                f'SELECT EXISTS (SELECT FROM "{table}" AS one WHERE one::text LIKE ANY(%s))',  # noqa: S608
                [[f"%{text}%", f"%{text.encode().hex()}%"]],
            )
            if cursor.fetchone()[0]:
                found.add(table.rstrip("0123456789_"))
    return found


def everything_said() -> list[Span]:
    """A call for each attribute with content, one with all of them, and an agent around it."""
    alone = [
        said_at(NOON, {**CALL, name: text}, number=number, **FAILED)
        for number, (name, text) in enumerate(ALL_CONTENT.items(), start=10)
    ]
    whole = said_at(NOON, {**CALL, **ALL_CONTENT}, number=1, parent=2, **FAILED)
    agent = {**ALL_CONTENT, "gen_ai.operation.name": "invoke_agent"}
    return [*alone, whole, said_at(NOON, agent, number=2)]


# Who stores what


def test_by_default_no_content_is_in_any_table(key: IngestKey) -> None:
    send(key, *everything_said())
    assert Entry.objects.filter(organization=key.organization).exists()
    assert tables_with(SECRET) == set()


def test_chosen_content_is_in_one_table_only(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    send(key, *everything_said())
    assert tables_with(SECRET) == {"attribution_content"}
    assert Content.objects.count() >= len(ALL_CONTENT.keys() - NOT_SAID)


def test_what_another_organization_chose_changes_nothing(key: IngestKey, stranger: object) -> None:
    content.set_retention(Organization.objects.get(name="Elsewhere").pk, 30)
    send(key, said_at(NOON))
    assert tables_with(SECRET) == set()


def test_only_calls_have_content(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    agent = {**PROMPT, "gen_ai.operation.name": "invoke_agent"}
    link = {"gen_ai.prompt": SECRET, "http.route": "/"}
    send(key, said_at(NOON, agent, number=1), said_at(NOON, link, number=2))
    assert not Content.objects.exists()


def test_what_was_sent_before_it_was_chosen_does_not_appear_later(key: IngestKey) -> None:
    early = said_at(NOON - timedelta(seconds=1))
    send(key, early)
    content.set_retention(key.organization_id, 30)
    send(key, early)  # as an exporter does that missed the answer
    assert tables_with(SECRET) == set()


def test_content_is_stored_once(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    send(key, said_at(NOON), said_at(NOON))
    send(key, said_at(NOON), said_at(NOON, number=2))
    assert Content.objects.count() == 2
    assert Content.objects.values("parts").distinct().count() == 1


def test_calls_that_look_alike_all_have_content(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    for first in (1, 51):
        send(key, *(said_at(NOON, number=number) for number in range(first, first + 50)))
    assert Content.objects.count() == Entry.objects.count() == 100


def test_a_body_that_broke_off_after_its_calls_is_whole_when_it_is_sent_again(
    key: IngestKey,
) -> None:
    content.set_retention(key.organization_id, 30)
    ingest.take(key, decoded(said_at(NOON)))
    send(key, said_at(NOON))
    assert Content.objects.count() == 1
    assert Entry.objects.count() == 1


def test_content_of_the_future_is_not_stored(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    send(key, said_at(NOON + timedelta(hours=2)))
    assert not Content.objects.exists()


def test_content_is_compressed(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    text = "".join(f"Message {number} of a conversation about rivers. " for number in range(2000))
    send(key, said_at(NOON, {**CALL, "gen_ai.prompt": text}))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_column_size(parts) FROM attribution_content")
        assert cursor.fetchone()[0] < len(text) / 4


def test_characters_that_postgres_does_not_hold_are_replaced(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    half = '[{"role": "us\\u0000er", "content": "a\\ud83d"}]'
    send(key, said_at(NOON, {**CALL, "gen_ai.prompt": "a\0b", "gen_ai.input.messages": half}))
    [row] = Content.objects.all()
    mark = "\N{REPLACEMENT CHARACTER}"
    assert row.parts == [[f"us{mark}er", "a?", 0], ["gen_ai.prompt", f"a{mark}b", 0]]


# For how long


def test_what_is_past_is_deleted_and_the_rest_stays(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    begun = [NOON + timedelta(days=days) for days in (0, 1, 29)]
    for number, at in enumerate(begun, start=1):
        with time_machine.travel(at, tick=False):
            send(key, said_at(at, number=number))
    with time_machine.travel(NOON + timedelta(days=30, hours=1), tick=False):
        tasks.delete_past_content(key.organization_id)
    kept = Content.objects.order_by("started_at").values_list("started_at", flat=True)
    assert list(kept) == begun[1:]


def test_lowering_it_deletes_what_is_older(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    send(key, said_at(NOON))
    with time_machine.travel(NOON + timedelta(days=8), tick=False):
        send(key, said_at(NOON + timedelta(days=8), number=2))
        content.set_retention(key.organization_id, 7)
        tasks.delete_past_content(key.organization_id)
    [left] = Content.objects.all()
    assert left.started_at == NOON + timedelta(days=8)


def test_turning_it_off_deletes_all_of_it(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    send(key, *everything_said())
    content.set_retention(key.organization_id, None)
    tasks.delete_past_content(key.organization_id)
    assert tables_with(SECRET) == set()


def test_turning_it_off_and_on_again_brings_nothing_back(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    send(key, said_at(NOON))
    content.set_retention(key.organization_id, None)
    with time_machine.travel(NOON + timedelta(minutes=1), tick=False):
        content.set_retention(key.organization_id, 30)
        organization = Organization.objects.get(pk=key.organization_id)
        assert content.of_observations(organization, observed(organization)) == []
        tasks.delete_past_content(key.organization_id)
    assert not Content.objects.exists()


def test_what_others_store_is_not_deleted(key: IngestKey, stranger: object) -> None:
    other = ingest_key(Organization.objects.get(name="Elsewhere"))
    for number, one in enumerate((other, key)):
        content.set_retention(one.organization_id, 30)
        send(one, said_at(NOON + timedelta(seconds=number)))
    content.set_retention(key.organization_id, None)
    assert content.delete_past(key.organization_id) is False
    [left] = Content.objects.all()
    assert left.organization == other.organization


def test_much_is_deleted_in_small_steps(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 1)
    for day in range(2):
        at = NOON + timedelta(days=day)
        with time_machine.travel(at, tick=False):
            send(key, *(said_at(at, number=number) for number in range(1, 701)))
    with time_machine.travel(NOON + timedelta(days=3), tick=False):
        assert content.delete_past(key.organization_id) is False
    assert not Content.objects.exists()


def test_days_that_nobody_can_have_content_of_are_dropped(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 365)
    send(key, said_at(NOON))
    with time_machine.travel(NOON + timedelta(days=367), tick=False):
        content.drop_old_days()
        assert days_of_content() == ["attribution_content_20261120"]
    with time_machine.travel(NOON + timedelta(days=368), tick=False):
        content.drop_old_days()
    assert days_of_content() == []
    assert Entry.objects.exists()


def days_of_content() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'attribution_content_%'"
        )
        return sorted(name for (name,) in cursor.fetchall())


def test_what_another_process_chose_is_known_within_seconds(organization: Organization) -> None:
    assert not content.is_chosen(organization.pk, 100.0)
    Organization.objects.update(content_retention_days=30, content_since=NOON)
    assert not content.is_chosen(organization.pk, 102.0)
    assert content.is_chosen(organization.pk, 102.1)


@pytest.mark.django_db(transaction=True)
def test_a_body_under_way_writes_nothing_behind_a_deletion() -> None:
    organization = Organization.objects.create(name="Acme")
    content.set_retention(organization.pk, 30)
    seen = observation()
    said = SpanContent(seen.trace_id, seen.span_id, seen.start_unix_ns, (Part("user", SECRET),))

    def receive() -> None:
        content.keep(organization.pk, body(seen), [said])
        connection.close()

    receiver = threading.Thread(target=receive)
    with transaction.atomic():
        content.set_retention(organization.pk, None)
        receiver.start()
        wait_for_a_lock(receiver)
    receiver.join()
    assert not Content.objects.exists()


def wait_for_a_lock(waiting: threading.Thread) -> None:
    """Until another connection waits for what this one holds, or has not had to."""
    while waiting.is_alive():
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return


# Read again


def observed(organization: Organization) -> list[dict[str, Any]]:
    [entry] = Entry.objects.filter(organization=organization)
    detail = calls.detail(organization, entry.call_id)
    assert detail is not None
    return detail.observations


def test_a_calls_content_is_found_by_its_observations(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 30)
    send(key, said_at(NOON), said_at(NOON, {"http.route": "/"}, number=2))
    organization = Organization.objects.get(pk=key.organization_id)
    [(seen, parts)] = content.of_observations(organization, observed(organization))
    assert seen["dialect"] == "otel_genai"
    assert parts == [StoredPart("gen_ai.prompt", SECRET, 0)]


def test_what_is_past_is_not_shown_before_it_is_deleted(key: IngestKey) -> None:
    content.set_retention(key.organization_id, 1)
    send(key, said_at(NOON))
    organization = Organization.objects.get(pk=key.organization_id)
    with time_machine.travel(NOON + timedelta(days=1, seconds=1), tick=False):
        assert content.of_observations(organization, observed(organization)) == []
    assert Content.objects.exists()


# Nothing of it where logs are read


def test_neither_log_nor_answer_says_what_was_asked(
    key: IngestKey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    content.set_retention(key.organization_id, 30)
    send(key, said_at(NOON))
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE attribution_content ADD CONSTRAINT nothing CHECK (false) NOT VALID"
        )
    with pytest.raises(content.NotStored, match="23514") as refused:
        send(key, said_at(NOON, number=2))
    answer = doors.refusal(refused.value)
    assert answer.status == 500
    assert "SQLSTATE 23514" in caplog.text
    assert "Traceback" in caplog.text
    assert SECRET not in caplog.text + str(answer)


# Bounds

PARTS = st.lists(st.builds(Part, st.text(max_size=3), st.text(max_size=40)), max_size=12)


@given(PARTS, st.integers(0, 300))
def test_stored_texts_are_within_their_bound_and_say_what_is_missing(
    said: list[Part], most_bytes: int
) -> None:
    stored = bounded(said, most_bytes)
    kept = [len(part.text.encode()) for part in stored]
    whole = [len(part.text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode()) for part in said]
    assert sum(kept) <= most_bytes
    assert [size + part.left_out_bytes for size, part in zip(kept, stored, strict=True)] == whole
    if sum(whole) <= most_bytes:
        assert kept == whole


@given(PARTS, st.integers(0, 300))
def test_only_what_is_longer_than_all_that_was_cut_is_cut(
    said: list[Part], most_bytes: int
) -> None:
    stored = bounded(said, most_bytes)
    cut = [len(part.text.encode()) for part in stored if part.left_out_bytes]
    whole = [len(part.text.encode()) for part in stored if not part.left_out_bytes]
    if cut:
        assert max(whole, default=0) <= min(cut) + 3  # a character is not cut in the middle


def test_after_a_long_prompt_the_answer_is_whole() -> None:
    asked, answered = bounded([Part("user", "a" * 10_000), Part("assistant", "b" * 100)], 1000)
    assert (len(asked.text), asked.left_out_bytes) == (900, 9100)
    assert answered == StoredPart("assistant", "b" * 100, 0)


def test_of_too_many_messages_those_in_the_middle_are_left_out() -> None:
    said = [Part("user", f"{number:06}") for number in range(MOST_PARTS + 50)]
    stored = bounded(said, 10**6)
    assert len(stored) == MOST_PARTS + 1
    assert [part.text for part in stored if part.text] == [
        part.text for part in said[:100] + said[150:]
    ]
    [gap] = [part for part in stored if not part.text]
    assert gap == replace(gap, by="…", left_out_bytes=6 * 50)
