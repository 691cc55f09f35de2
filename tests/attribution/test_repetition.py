"""What repeats is told from hashes alone."""

from datetime import timedelta
from typing import Any

import pytest

from collectors.fingerprints import Fingerprints
from collectors.observation import Tags
from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution.ingest import take
from costwatch.attribution.repetition import repetition
from costwatch.domain.periods import day_of
from tests.collectors.bodies import decoded, span
from tests.factories import NOON, OrganizationFactory, body, ingest_key, observation

FINGERPRINTS = Fingerprints(bytes(32))
DAY = day_of(NOON, "UTC")


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


def ask(
    key: IngestKey,
    *prompts: str,
    feature: str = "chat",
    answered_by: str = "gpt-4o",
    **parameters: Any,
) -> None:
    """One call for each prompt, a minute apart."""
    for number, prompt in enumerate(prompts):
        asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}], **parameters}
        said = FINGERPRINTS.of(asked, "chat")
        [seen] = decoded(
            span({"gen_ai.operation.name": "chat", **said}, number=number + 1)
        ).observations
        hashes = {
            name: getattr(seen, name)
            for name in ("request_hash", "prefix_hashes", "prompt_bytes", "request_deterministic")
        }
        at = NOON + timedelta(minutes=number)
        tags = Tags(feature=feature)
        take(key, body(observation(at=at, tags=tags, response_model=answered_by, **hashes)))


def test_a_request_that_was_asked_before_is_repeated(key: IngestKey) -> None:
    ask(key, "one", "two", "one", "one", temperature=0)
    [found] = repetition(key.organization, DAY)
    assert (found.calls, found.repeated_calls, found.repeated_deterministic_calls) == (4, 2, 2)


def test_only_the_same_answer_can_be_given_again(key: IngestKey) -> None:
    ask(key, "one", "one")
    [found] = repetition(key.organization, DAY)
    assert (found.repeated_calls, found.repeated_deterministic_calls) == (1, 0)


def test_of_prompts_that_begin_alike_the_shared_bytes_count_once_they_were_asked(
    key: IngestKey,
) -> None:
    shared = "the same long instructions " * 100  # 2,700 bytes
    ask(key, shared + "a" * 900, shared + "b" * 900, "c" * 3000)
    [found] = repetition(key.organization, DAY)
    assert found.repeated_calls == 0
    assert found.repeated_prefix_bytes == 2560, "to the last boundary that both reach"
    assert found.prompt_bytes > 2 * 3600 + 3000


def test_a_prefix_that_went_to_another_model_is_no_use(key: IngestKey) -> None:
    ask(key, "x" * 3000)
    ask(key, "x" * 3000, answered_by="gpt-4o-mini")
    assert [one.repeated_prefix_bytes for one in repetition(key.organization, DAY)] == [0, 0]


def test_features_are_told_apart_and_largest_prompts_come_first(key: IngestKey) -> None:
    ask(key, "x", feature="small")
    ask(key, "y" * 2000, feature="large")
    assert [one.feature for one in repetition(key.organization, DAY)] == ["large", "small"]


def test_nobody_elses_requests_are_looked_at(key: IngestKey) -> None:
    ask(key, "one")
    stranger = ingest_key(OrganizationFactory())
    ask(stranger, "one")
    assert [one.repeated_calls for one in repetition(key.organization, DAY)] == [0]


def test_calls_without_hashes_say_nothing(key: IngestKey) -> None:
    take(key, body(observation(), observation()))
    assert repetition(key.organization, DAY) == []


def test_of_too_many_calls_only_the_latest_are_looked_at(key: IngestKey) -> None:
    ask(key, "long ago", "one", "two", "one", "long ago")
    [found] = repetition(key.organization, DAY, most_calls=3)
    assert (found.calls, found.repeated_calls) == (3, 0)
    [found] = repetition(key.organization, DAY, most_calls=4)
    assert (found.calls, found.repeated_calls) == (4, 1)
