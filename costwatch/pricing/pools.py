"""Which pool a device is in at an hour, and who carries the pool's rest then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from django.db import transaction
from django.db.models import Max

from costwatch.accounts.models import AuditEvent, Organization, Team, User
from costwatch.domain.idle import PERCENT, Policy
from costwatch.domain.periods import expect_hour
from costwatch.domain.pricing import Ranged, at
from costwatch.pricing.models import IdlePolicy, Pool, PoolRule, Reservation

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Held:
    """A policy with the percents that teams reserved, by their ids."""

    policy: Policy
    reserved_percent: Mapping[int, int]


# Until somebody chooses, nobody's team pays for what it did not use.
UNCHOSEN = Held(Policy.PLATFORM, {})


class Pools:
    """An organization's pools as they are set up now, for every hour. A pool's id is None for the default pool."""

    def __init__(self, organization: Organization) -> None:
        self.names: dict[int | None, str] = {None: DEFAULT}
        self.names |= dict(Pool.objects.filter(organization=organization).values_list("pk", "name"))
        self._rules = list(PoolRule.objects.filter(organization=organization).order_by("priority"))
        self._fitting: dict[tuple[str, str], list[Ranged[int]]] = {}
        self._policies = _policies(organization)

    def of(self, device_type: str, device_id: str, hour: datetime) -> int | None:
        """The pool of a device; of a type alone (device_id empty), where no device of it told of the hour."""
        device = (device_type, device_id)
        if device not in self._fitting:
            self._fitting[device] = [
                Ranged(rule.valid_from, rule.valid_until, rule.pool_id)
                for rule in self._rules
                if _fits(rule.device_type, device_type) and _fits(rule.device_id, device_id)
            ]
        return at(self._fitting[device], hour)

    def policy(self, pool_id: int | None, hour: datetime) -> Held:
        return at(self._policies.get(pool_id, ()), hour) or UNCHOSEN

    def with_policy(self, pool_id: int | None, held: Held, valid_from: datetime | None) -> Pools:
        """These pools as they would be with a policy from an hour on, which is not saved."""
        changed = copy(self)
        kept = [one for one in self._policies.get(pool_id, ()) if one.valid_from != valid_from]
        rows = [*kept, Ranged(valid_from, None, held)]
        changed._policies = {**self._policies, pool_id: sorted(rows, key=_begins, reverse=True)}
        return changed


def _fits(pattern: str, name: str) -> bool:
    return not pattern or fnmatchcase(name.lower(), pattern.lower())


def _policies(organization: Organization) -> dict[int | None, list[Ranged[Held]]]:
    """By pool, the latest first: a policy holds until the next one begins."""
    found: dict[int | None, list[Ranged[Held]]] = defaultdict(list)
    rows = IdlePolicy.objects.filter(organization=organization).prefetch_related("reservations")
    for row in rows:
        percents = {one.team_id: one.percent for one in row.reservations.all()}
        held = Held(Policy(row.policy), percents)
        found[row.pool_id].append(Ranged(row.valid_from, None, held))
    return {pool: sorted(held, key=_begins, reverse=True) for pool, held in found.items()}


def _begins(one: Ranged[Held]) -> tuple[bool, float]:
    return one.valid_from is not None, one.valid_from.timestamp() if one.valid_from else 0.0


@transaction.atomic
def set_policy(
    organization: Organization,
    pool: Pool | None,
    policy: Policy,
    valid_from: datetime | None,
    reserved_percent: Mapping[Team, int],
    *,
    actor: User | None = None,
) -> IdlePolicy:
    """Who carries a pool's rest from an hour on; takes the place of one that begins at the same hour.

    Raises ValueError for what is no whole hour, and for reservations of more than the pool, of none under the policy
    that needs them, or of any under one that does not.
    """
    expect_policy(valid_from, policy, reserved_percent)
    IdlePolicy.objects.filter(organization=organization, pool=pool, valid_from=valid_from).delete()
    row = IdlePolicy.objects.create(
        organization=organization,
        pool=pool,
        policy=policy.value,
        valid_from=valid_from,
        approved_by=actor,
    )
    Reservation.objects.bulk_create(
        Reservation(policy=row, team=team, percent=percent)
        for team, percent in reserved_percent.items()
    )
    AuditEvent.objects.create(
        organization=organization,
        actor=actor,
        action="idle_policy.set",
        target=pool.name if pool else DEFAULT,
        details={
            "policy": policy.value,
            "valid_from": valid_from.isoformat() if valid_from else None,
            "reserved_percent": {team.name: n for team, n in reserved_percent.items()},
        },
    )
    return row


def expect_policy(
    valid_from: datetime | None, policy: Policy, reserved_percent: Mapping[Team, int]
) -> None:
    """Raises ValueError as set_policy does."""
    expect_hour(valid_from)
    if bool(reserved_percent) != (policy is Policy.RESERVED):
        raise ValueError(
            f"{len(reserved_percent)} reservations under the policy {policy.value!r}: expected some under "
            f"{Policy.RESERVED.value!r}, and none under another one"
        )
    if (percent := sum(reserved_percent.values())) > PERCENT:
        raise ValueError(f"reservations of {percent} %: expected 100 % at most; lower some of them")


@transaction.atomic
def make_pool(
    organization: Organization,
    name: str,
    *,
    device_type: str,
    device_id: str,
    valid_from: datetime | None = None,
    actor: User | None = None,
) -> Pool:
    """A pool of the devices that fit both patterns and no earlier pool; or more devices of one that there is.

    Raises ValueError for a name or an hour that can't be, and for patterns that every device fits.
    """
    if not name or name == DEFAULT:
        raise ValueError(f"pool {name!r}: expected another name, such as training")
    if not device_type and not device_id:
        raise ValueError(
            "every device fits empty patterns; expected a type or a device, such as *H100*"
        )
    expect_hour(valid_from)
    Organization.objects.select_for_update().get(pk=organization.pk)  # priorities are counted on
    pool, _ = Pool.objects.get_or_create(organization=organization, name=name)
    last = PoolRule.objects.filter(organization=organization).aggregate(last=Max("priority"))
    PoolRule.objects.create(
        organization=organization,
        pool=pool,
        priority=(last["last"] or 0) + 1,
        device_type=device_type,
        device_id=device_id,
        valid_from=valid_from,
    )
    AuditEvent.objects.create(
        organization=organization,
        actor=actor,
        action="pool.rule_added",
        target=name,
        details={
            "device_type": device_type,
            "device_id": device_id,
            "valid_from": valid_from.isoformat() if valid_from else None,
        },
    )
    return pool
