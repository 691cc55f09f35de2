"""Pools of one's own devices, and who carries what no call used of them.

    Pool         a name
    PoolRule     which devices are in it, from an hour on, until an hour; the first that fits wins
    IdlePolicy   who carries a pool's rest from an hour on, until the next one
    Reservation  which part of the pool a team reserved, under a policy

A device that no rule fits is in the default pool, which has no row. Its policy has no pool.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from costwatch.accounts.models import Organization, Team, User
from costwatch.domain.idle import Policy


class Pool(models.Model):
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    name = models.CharField(max_length=100)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "name"], name="pool_unique"),
            models.CheckConstraint(condition=~Q(name__in=["", "default"]), name="pool_name"),
        ]

    def __str__(self) -> str:
        return self.name


class PoolRule(models.Model):
    """Patterns are of * and ?; empty fits everything. Hours are whole; null is without a beginning or an end."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="rules")
    priority = models.PositiveIntegerField()  # the lowest that fits wins
    device_type = models.CharField(max_length=255, blank=True)
    device_id = models.CharField(max_length=255, blank=True)
    valid_from = models.DateTimeField(null=True, blank=True)
    valid_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["priority"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "priority"], name="poolrule_priority")
        ]

    def __str__(self) -> str:
        return f"{self.pool}: {self.device_type or '*'} {self.device_id or '*'}"


class IdlePolicy(models.Model):
    """Who carries a pool's rest from an hour on. pool null: the default pool's."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False)
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, null=True, related_name="policies")
    policy = models.CharField(max_length=16, choices=[(one.value, one.value) for one in Policy])
    valid_from = models.DateTimeField(null=True, blank=True)  # a whole hour; null: always was
    approved_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "pool", "valid_from"],
                nulls_distinct=False,
                name="idlepolicy_unique",
            ),
            models.CheckConstraint(
                condition=Q(policy__in=[one.value for one in Policy]), name="idlepolicy_policy"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pool or 'default'}: {self.policy}"


class Reservation(models.Model):
    """Of one policy they sum to 100 at most: pools.set_policy sees to that."""

    policy = models.ForeignKey(IdlePolicy, on_delete=models.CASCADE, related_name="reservations")
    team = models.ForeignKey(Team, on_delete=models.CASCADE)
    percent = models.PositiveSmallIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["policy", "team"], name="reservation_unique"),
            models.CheckConstraint(
                condition=Q(percent__gte=1, percent__lte=100), name="reservation_percent"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.team}: {self.percent} %"
