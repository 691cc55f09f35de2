"""Which team pays for a source, in which hours.

Rules come first, by priority. Where none matches, the raw team tag names the team by its slug, name or cost centre;
else the ingest key's team pays; else the source is unattributed, and shown as such.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import connection, transaction

from costwatch.accounts.models import IngestKey, Team
from costwatch.attribution.models import SOURCE_TAGS, AssignmentRule, Source, SourceTeam

PATTERNS = SOURCE_TAGS
NOTHING = '""'  # the pattern of what is not said
_AT_ONCE = 5000  # rows in a statement


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays, why, and in which hours. None: without a beginning, without an end."""

    team_id: int | None
    reason: str
    rule_id: int | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None


class Rules:
    """Rules in order of priority, to be asked about many sources.

    Bit n of a mask stands for rule n. Thousands of sources share few values of each tag, so a pattern is asked once
    for a value, and a source costs one look-up for each of its tags, however many rules there are.
    """

    def __init__(self, rules: Iterable[AssignmentRule]) -> None:
        self._rules = tuple(rules)
        self._by_pattern = {name: self._masks(name) for name in PATTERNS}
        self._by_key = self._masks("key_id")
        self._by_value: dict[tuple[str, str], int] = {}

    def _masks(self, name: str) -> dict[Any, int]:
        """The rules that ask for each pattern, or key."""
        masks: dict[Any, int] = defaultdict(int)
        for place, rule in enumerate(self._rules):
            masks[getattr(rule, name)] |= 1 << place
        return dict(masks)

    def matching(self, source: Source) -> list[AssignmentRule]:
        """Those that match, in their order."""
        mask = self._by_key.get(None, 0) | self._by_key.get(source.key_id, 0)
        for name in PATTERNS:
            mask &= self._saying(name, getattr(source, name))
        return list(self._of(mask))

    def _saying(self, name: str, value: str) -> int:
        known = self._by_value.get((name, value))
        if known is None:
            lower = value.lower()
            known = sum(
                mask
                for pattern, mask in self._by_pattern[name].items()
                if not pattern or _fits(pattern, lower)
            )
            self._by_value[name, value] = known
        return known

    def _of(self, mask: int) -> Iterator[AssignmentRule]:
        while mask:
            place = (mask & -mask).bit_length() - 1
            yield self._rules[place]
            mask &= mask - 1


def assign_source(source: Source) -> None:
    """Write which team pays for a new source. Runs inside the transaction that made it."""
    _write_all(source.organization_id, [source])


@transaction.atomic
def reassign(organization_id: int) -> None:
    """Write anew who pays for every source, after a rule, a team or a key's team changed and is committed.

    Thousands of rows; no call is read. Rollups hold sources, so every open month follows at once.
    """
    _lock(organization_id)  # before the sources are read as well
    _write_all(organization_id, sources_of(organization_id))


def sources_of(organization_id: int) -> list[Source]:
    """All sources with their keys, each key read once."""
    keys = IngestKey.objects.filter(organization_id=organization_id).in_bulk()
    sources = list(Source.objects.filter(organization_id=organization_id))
    for source in sources:
        source.key = keys[source.key_id]
    return sources


def teams_by_tag(teams: Iterable[Team]) -> dict[str, int]:
    """Ids by every tag that names a team, lower case; of two with the same tag the first by name."""
    named: dict[str, int] = {}
    for team in teams:
        for tag in (team.slug, team.name, team.cost_centre):
            named.setdefault(tag.casefold(), team.pk)
    return named


def payers(source: Source, rules: Rules, named: Mapping[str, int]) -> list[Payer]:
    """Who pays for a source over all time: periods in order that neither overlap nor leave a gap.

    named   teams_by_tag().
    """
    matching = rules.matching(source)
    fallback = _without_rule(source, named)
    edges = {edge for rule in matching for edge in (rule.valid_from, rule.valid_until) if edge}
    starts: list[datetime | None] = [None, *sorted(edges)]
    ends: list[datetime | None] = [*starts[1:], None]
    return _joined(
        [_payer_at(start, end, matching, fallback) for start, end in zip(starts, ends, strict=True)]
    )


def _fits(pattern: str, lower: str) -> bool:
    if pattern == NOTHING:
        return not lower
    return _expression(pattern).match(lower) is not None


@lru_cache(maxsize=10_000)
def _expression(pattern: str) -> re.Pattern[str]:
    # Only * is special to us; fnmatch would read [a] and ? too. Its expressions stay quick however many * there are.
    return re.compile(fnmatch.translate(pattern.lower().replace("[", "[[]").replace("?", "[?]")))


def _payer_at(
    start: datetime | None,
    end: datetime | None,
    matching: Sequence[AssignmentRule],
    fallback: Payer,
) -> Payer:
    for rule in matching:
        begun = rule.valid_from is None or (start is not None and rule.valid_from <= start)
        ended = rule.valid_until is not None and start is not None and rule.valid_until <= start
        if begun and not ended:
            return Payer(rule.team_id, "rule", rule.pk, start, end)
    return Payer(fallback.team_id, fallback.reason, None, start, end)


def _joined(periods: Sequence[Payer]) -> list[Payer]:
    """Neighbours with the same payer become one period."""
    joined: list[Payer] = []
    for period in periods:
        last = joined[-1] if joined else None
        if last and (last.team_id, last.rule_id) == (period.team_id, period.rule_id):
            joined[-1] = Payer(
                last.team_id, last.reason, last.rule_id, last.valid_from, period.valid_until
            )
        else:
            joined.append(period)
    return joined


def _without_rule(source: Source, named: Mapping[str, int]) -> Payer:
    tag = source.team_tag.strip().casefold()
    if tag and tag in named:
        return Payer(named[tag], "team tag")
    if source.key.team_id is not None:
        return Payer(source.key.team_id, "key's team")
    return Payer(None, "no rule matches")


def _lock(organization_id: int) -> None:
    """One writer at a time, from before it reads the rules until it commits.

    Two at once would each leave their periods. And a new source that is written by the old rules is committed
    before a change of rules looks for sources.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtext('assignment'), %s)", [organization_id]
        )


def _write_all(organization_id: int, sources: Sequence[Source]) -> None:
    """Only of sources for which it changes: most changes of rules leave most of thousands as they are."""
    _lock(organization_id)
    rules = Rules(AssignmentRule.objects.filter(organization_id=organization_id))
    named = teams_by_tag(Team.objects.filter(organization_id=organization_id))
    written = _written([source.pk for source in sources])
    wanted = {source.pk: payers(source, rules, named) for source in sources}
    changed = [pk for pk, periods in wanted.items() if written[pk] != set(periods)]
    SourceTeam.objects.filter(source__in=changed).delete()
    SourceTeam.objects.bulk_create(
        (
            SourceTeam(
                organization_id=organization_id,
                source_id=pk,
                team_id=payer.team_id,
                rule_id=payer.rule_id,
                reason=payer.reason,
                valid_from=payer.valid_from,
                valid_until=payer.valid_until,
            )
            for pk in changed
            for payer in wanted[pk]
        ),
        batch_size=_AT_ONCE,
    )


def _written(source_ids: Sequence[int]) -> dict[int, set[Payer]]:
    """What is written now, by source."""
    found: dict[int, set[Payer]] = defaultdict(set)
    for row in SourceTeam.objects.filter(source__in=source_ids):
        payer = Payer(row.team_id, row.reason, row.rule_id, row.valid_from, row.valid_until)
        found[row.source_id].add(payer)
    return found
