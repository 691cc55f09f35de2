"""Which team pays for a source, in which hours.

Rules come first, by priority. Where none matches, the raw team tag names the team by its slug, name or cost centre;
else the ingest key's team pays; else the source is unattributed, and shown as such.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from django.db import connection, transaction

from costwatch.accounts.models import Team
from costwatch.attribution.models import AssignmentRule, Source, SourceTeam

PATTERNS = ("service_name", "environment", "team_tag", "feature", "customer")


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays, why, and in which hours. None: without a beginning, without an end."""

    team_id: int | None
    reason: str
    rule_id: int | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None


def assign_source(source: Source) -> None:
    """Write which team pays for a new source. Runs inside the transaction that made it."""
    _write_all(source.organization_id, [source])


@transaction.atomic
def reassign(organization_id: int) -> None:
    """Write anew who pays for every source, after a rule, a team or a key's team changed and is committed.

    Thousands of rows; no call is read. Rollups hold sources, so every open month follows at once.
    """
    _lock(organization_id)  # before the sources are read as well
    sources = Source.objects.filter(organization_id=organization_id).select_related("key")
    _write_all(organization_id, list(sources))


def payers(source: Source, rules: Iterable[AssignmentRule], teams: Iterable[Team]) -> list[Payer]:
    """Who pays for a source over all time: periods in order that neither overlap nor leave a gap.

    rules   in order of priority.
    """
    matching = [rule for rule in rules if matches(rule, source)]
    fallback = _without_rule(source, teams)
    edges = {edge for rule in matching for edge in (rule.valid_from, rule.valid_until) if edge}
    starts: list[datetime | None] = [None, *sorted(edges)]
    ends: list[datetime | None] = [*starts[1:], None]
    return _joined(
        [_payer_at(start, end, matching, fallback) for start, end in zip(starts, ends, strict=True)]
    )


def matches(rule: AssignmentRule, source: Source) -> bool:
    if rule.key_id is not None and rule.key_id != source.key_id:
        return False
    return all(
        not getattr(rule, name)
        or fnmatchcase(getattr(source, name).lower(), _glob(getattr(rule, name)))
        for name in PATTERNS
    )


def _glob(pattern: str) -> str:
    # Only * is special to us; fnmatch would read [a] and ? too.
    return pattern.lower().replace("[", "[[]").replace("?", "[?]")


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


def _without_rule(source: Source, teams: Iterable[Team]) -> Payer:
    tag = source.team_tag.strip().casefold()
    if tag:
        for team in teams:
            if tag in {team.slug.casefold(), team.name.casefold(), team.cost_centre.casefold()}:
                return Payer(team.pk, "team tag")
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
    _lock(organization_id)
    rules = list(AssignmentRule.objects.filter(organization_id=organization_id))
    teams = list(Team.objects.filter(organization_id=organization_id))
    SourceTeam.objects.filter(source__in=sources).delete()
    SourceTeam.objects.bulk_create(
        SourceTeam(
            organization_id=organization_id,
            source=source,
            team_id=payer.team_id,
            rule_id=payer.rule_id,
            reason=payer.reason,
            valid_from=payer.valid_from,
            valid_until=payer.valid_until,
        )
        for source in sources
        for payer in payers(source, rules, teams)
    )
