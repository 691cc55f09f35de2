"""GET /reconciliation: what providers billed beside what was metered."""

from __future__ import annotations

from datetime import UTC, date, timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import several_of
from costwatch.api.scope import OrganizationView
from costwatch.domain.money import EXACT, rounded
from costwatch.domain.periods import month_of
from costwatch.domain.reconciliation import Cause
from costwatch.reports.days import days_asked
from costwatch.reports.reconcile import Row, Unbilled, reconcile, summed

DIMENSIONS = ("day", "provider", "project", "model")

FIRST = OpenApiParameter(
    "start", str, description="First day of UTC (2026-11-01), as providers bill; of this month."
)
END = OpenApiParameter(
    "end", str, description="Day of UTC after the last; the end of start's month without it."
)


def days_from(request: Request) -> tuple[date, date]:
    """First and last day, both included."""
    start, end = (request.query_params.get(name, "").strip() for name in ("start", "end"))
    start = start or str(month_of(timezone.now(), "UTC").start.astimezone(UTC).date())
    try:
        first, _ = days_asked(start, start)
        after = (
            days_asked(end, end)[0] if end else month_of(first, "UTC").end.astimezone(UTC).date()
        )
        return days_asked(start, str(after - timedelta(days=1)))
    except ValueError as error:
        raise ValidationError({"end" if end else "start": [str(error)]}) from None


def plain(amount: Decimal) -> str:
    return f"{amount.normalize(EXACT):f}"


class DifferenceSerializer(serializers.Serializer[Any]):
    """Billed beside metered, as decimals in the organization's currency. variance is billed − metered."""

    day = serializers.DateField(allow_null=True, help_text="of UTC; null: not grouped by it")
    provider = serializers.CharField()
    project = serializers.CharField(help_text="empty: those that no key is linked to")
    model = serializers.CharField(help_text="empty: the bill names none")
    billed = serializers.CharField()
    metered = serializers.CharField()
    variance = serializers.CharField()
    causes = serializers.DictField(
        child=serializers.CharField(), help_text="they sum to variance, to the last digit"
    )
    coverage_percent = serializers.CharField(
        allow_null=True, help_text="how much of what was billed was metered and priced"
    )
    not_compared = serializers.DictField(
        child=serializers.CharField(),
        help_text="billed in a currency without an exchange rate, by currency; in no other amount",
    )
    is_final = serializers.BooleanField(help_text="fetched after the provider had settled the day")

    def to_representation(self, row: Row) -> dict[str, Any]:
        covered, key = row.coverage_percent, row.key
        return {
            "day": key.day.isoformat() if key.day else None,
            "provider": key.provider,
            "project": key.project,
            "model": key.model,
            "billed": plain(row.billed),
            "metered": plain(row.metered),
            "variance": plain(row.variance),
            "causes": {cause.value: plain(amount) for cause, amount in row.causes.items()},
            "coverage_percent": None if covered is None else f"{rounded(covered, 2)}",
            "not_compared": {name: plain(amount) for name, amount in row.uncompared.items()},
            "is_final": row.is_final,
        }


class UnbilledSerializer(serializers.Serializer[Any]):
    provider = serializers.CharField()
    days = serializers.IntegerField(help_text="with use, and without a bill")
    metered = serializers.CharField()
    unpriced_quantity = serializers.CharField(help_text="tokens without a price, in no cost")

    def to_representation(self, one: Unbilled) -> dict[str, Any]:
        return {
            "provider": one.provider,
            "days": one.days,
            "metered": plain(one.metered),
            "unpriced_quantity": str(one.unpriced_quantity),
        }


class ReconciliationView(OrganizationView):
    @extend_schema(
        summary="What providers billed beside what was metered, and why it differs",
        description=f"Causes are {', '.join(Cause)}. At most 100 days.",
        parameters=[
            FIRST,
            END,
            OpenApiParameter(
                "group_by",
                str,
                description=f"Some of {', '.join(DIMENSIONS)}; all without it.",
            ),
        ],
        responses=inline_serializer(
            "Reconciliation",
            {
                "results": DifferenceSerializer(many=True),
                "total": DifferenceSerializer(),
                "without_bill": UnbilledSerializer(many=True),
                "currency": serializers.CharField(),
                "fetched_at": serializers.DateTimeField(
                    allow_null=True, help_text="of the latest bill; null: there is none"
                ),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        by = several_of(request, "group_by", DIMENSIONS) or DIMENSIONS
        found = reconcile(self.organization, *days_from(request))
        return Response(
            {
                "results": DifferenceSerializer(summed(found.rows, by), many=True).data,
                "total": DifferenceSerializer(found.total).data,
                "without_bill": UnbilledSerializer(found.unbilled, many=True).data,
                "currency": found.currency,
                "fetched_at": found.fetched_at,
            }
        )
