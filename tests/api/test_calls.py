from __future__ import annotations

from decimal import Decimal

from costwatch.accounts.models import Organization
from costwatch.attribution.models import Entry
from tests.api.conftest import Reader

# What other systems rely on.
FIELDS = [
    "call_id",
    "started_at",
    "duration_seconds",
    "team",
    "feature",
    "customer",
    "user",
    "session",
    "source",
    "provider",
    "request_model",
    "response_model",
    "response_id",
    "streaming",
    "status",
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
    "usage_provenance",
    "device_seconds",
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "queue_seconds",
    "cost",
    "currency",
    "observations",
]
DAYS = {"start": "2026-11-19", "end": "2026-11-21"}


def test_pages_hold_every_call_once_the_latest_first(
    furnished: Organization, reader: Reader
) -> None:
    seen = []
    cursor = ""
    while True:
        page = reader.get("calls", limit=17, cursor=cursor, **DAYS)
        seen += page["results"]
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    calls = Entry.objects.filter(organization=furnished).values_list("call_id", flat=True)
    assert [one["call_id"] for one in seen] == list(dict.fromkeys(one["call_id"] for one in seen))
    assert {one["call_id"] for one in seen} == {str(call) for call in calls}
    starts = [one["started_at"] for one in seen]
    assert starts == sorted(starts, reverse=True)


def test_a_call_has_the_promised_names_and_what_is_unknown_is_null(
    furnished: Organization, reader: Reader
) -> None:
    calls = reader.get("calls", limit=1000, **DAYS)["results"]
    assert {tuple(call) for call in calls} == {tuple(FIELDS)}
    failed = next(call for call in calls if call["status"] == "timeout")
    assert failed["usage_provenance"] == "absent"
    assert failed["output_tokens"] is None
    assert failed["cost"] is None
    served = next(call for call in calls if call["observations"] == 2)
    assert (served["team"], served["usage_provenance"]) != (None, "absent")
    assert served["device_seconds"] > 0
    unpriced = next(call for call in calls if call["response_model"] == "ranker-7b")
    assert unpriced["cost"] is None


def test_calls_cost_together_what_the_rollups_say(furnished: Organization, reader: Reader) -> None:
    calls = reader.get("calls", limit=1000, **DAYS)["results"]
    [whole] = reader.get("costs", **DAYS)["results"]
    difference = sum(Decimal(call["cost"] or 0) for call in calls) - Decimal(whole["cost"])
    # Device time at a price that no scale divides is rounded once a call, or once an hour, at 20 decimals.
    assert abs(difference) <= len(calls) * Decimal("1e-20")
    assert sum(call["output_tokens"] or 0 for call in calls) == whole["output_tokens"]


def test_a_department_a_model_and_a_feature_narrow_the_calls(
    furnished: Organization, reader: Reader
) -> None:
    asked = {"team": "platform", "model": "gpt-4o-2024-08-06", "feature": "planner", **DAYS}
    calls = reader.get("calls", **asked)["results"]
    assert {(call["team"], call["feature"]) for call in calls} == {("Agents", "planner")}


def test_limits_and_cursors_are_read_strictly(organization: Organization, reader: Reader) -> None:
    assert "expected a whole number from 1 to 1000" in reader.refused("calls", limit=0)["limit"][0]
    assert "expected the next_cursor of a page" in reader.refused("calls", cursor="x")["cursor"][0]


def test_calls_that_nobody_pays_for_are_listed_alone_or_beside_a_teams(
    furnished: Organization, reader: Reader
) -> None:
    def teams(**asked: str) -> list[str | None]:
        rows = reader.get("calls", start="2026-11-19", end="2026-11-21", limit=1000, **asked)
        return [row["team"] for row in rows["results"]]

    nobodys = teams(unattributed="true")
    assert set(nobodys) == {None}
    assert len(nobodys) == teams().count(None) > 0
    both = teams(unattributed="true", team="search")
    assert sorted(both, key=str) == sorted([*nobodys, *teams(team="search")], key=str)
    assert list(reader.refused("calls", unattributed="yes")) == ["unattributed"]
