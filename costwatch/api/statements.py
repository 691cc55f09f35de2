"""GET /statements, /statements/ID and /statements/ID/lines"""

from __future__ import annotations

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.chargeback import LineSerializer
from costwatch.api.known import unless_known
from costwatch.api.parameters import TEAM, month_from, team_ids_from, whole_number
from costwatch.api.scope import OrganizationView
from costwatch.domain import money
from costwatch.domain.periods import name_of_month
from costwatch.domain.pricing import shortened
from costwatch.reports.adjustments import in_force
from costwatch.reports.exports import json
from costwatch.reports.frozen import lines_after
from costwatch.reports.models import Statement

MOST = 1000
_CURSOR = OpenApiParameter("cursor", str, description="next_cursor of the page before.")
_LIMIT = OpenApiParameter("limit", int, description=f"1 to {MOST}; 100 without it.")


class StatementSerializer(serializers.Serializer[Any]):
    """What one team owes for a closed month. It never changes, but for in_force."""

    id = serializers.IntegerField()
    month = serializers.CharField()
    edition = serializers.IntegerField()
    in_force = serializers.BooleanField(help_text="false: the month was opened again after it")
    team_id = serializers.IntegerField(allow_null=True, help_text="null: unattributed")
    team = serializers.CharField(help_text="as it was called then")
    cost_centre = serializers.CharField()
    currency = serializers.CharField()
    total = serializers.CharField(help_text="a decimal; its lines' costs sum to it")
    exact_total = serializers.CharField()
    lines = serializers.IntegerField()
    unpriced_lines = serializers.IntegerField(help_text="lines that the total lacks a part of")
    sha256 = serializers.CharField()
    closed_at = serializers.DateTimeField()

    def to_representation(self, statement: Statement) -> dict[str, Any]:
        closing = statement.closing
        return {
            "id": statement.pk,
            "month": closing.month.name,
            "edition": closing.edition,
            "in_force": bool(getattr(statement, "is_in_force", False)),
            "team_id": statement.team_id,
            "team": statement.team_name,
            "cost_centre": statement.cost_centre,
            "currency": closing.currency,
            "total": f"{money.rounded(statement.cost, closing.places):f}",
            "exact_total": f"{shortened(statement.exact_cost):f}",
            "lines": statement.lines_count,
            "unpriced_lines": statement.unpriced_lines,
            "sha256": statement.sha256,
            "closed_at": closing.closed_at.isoformat(),
        }


class _StatementsOfOrganization(OrganizationView):
    def statements(self) -> QuerySet[Statement]:
        valid = in_force(self.organization).filter(pk=OuterRef("closing"))
        found = Statement.objects.filter(organization=self.organization)
        return found.annotate(is_in_force=Exists(valid)).select_related("closing__month")

    def statement(self, statement_id: int) -> Statement:
        return get_object_or_404(self.statements(), pk=statement_id)


class StatementsView(_StatementsOfOrganization):
    @extend_schema(
        operation_id="statements_list",
        summary="Statements of closed months, the latest first",
        parameters=[
            OpenApiParameter("month", str, description="Such as 2026-10; without it: all."),
            TEAM,
            _CURSOR,
            _LIMIT,
        ],
        responses=inline_serializer(
            "StatementsPage",
            {
                "results": StatementSerializer(many=True),
                "next_cursor": serializers.CharField(allow_null=True),
            },
        ),
    )
    def get(self, request: Request) -> HttpResponseBase:
        limit = whole_number(request, "limit", default=100, most=MOST)
        rows = list(self._asked(request).order_by("-pk")[: limit + 1])
        page = {
            "results": StatementSerializer(rows[:limit], many=True).data,
            "next_cursor": str(rows[limit - 1].pk) if rows[limit:] else None,
        }
        return unless_known(request, str(page), lambda: Response(page))

    def _asked(self, request: Request) -> QuerySet[Statement]:
        found = self.statements()
        if request.query_params.get("month"):
            month = month_from(request, self.organization)
            name = name_of_month(month, self.organization.time_zone)
            found = found.filter(closing__month__name=name)
        if (team_ids := team_ids_from(request, self.organization)) is not None:
            found = found.filter(team__in=team_ids)
        cursor = _place(request)
        return found.filter(pk__lt=cursor) if cursor is not None else found


class StatementView(_StatementsOfOrganization):
    @extend_schema(summary="One statement", responses=StatementSerializer)
    def get(self, request: Request, statement_id: int) -> HttpResponseBase:
        said = StatementSerializer(self.statement(statement_id)).data
        return unless_known(request, str(said), lambda: Response(said))


class StatementLinesView(_StatementsOfOrganization):
    @extend_schema(
        summary="The lines of a statement, in its order",
        parameters=[_CURSOR, _LIMIT],
        responses=inline_serializer(
            "StatementLinesPage",
            {
                "results": LineSerializer(many=True),
                "next_cursor": serializers.CharField(allow_null=True),
            },
        ),
    )
    def get(self, request: Request, statement_id: int) -> HttpResponseBase:
        statement = self.statement(statement_id)
        after = _place(request) or 0
        limit = whole_number(request, "limit", default=100, most=MOST)

        def page() -> Response:
            is_last = after + limit >= statement.lines_count
            lines = [json.line(line) for line in lines_after(statement, after, limit)]
            return Response(
                {"results": lines, "next_cursor": None if is_last else str(after + limit)}
            )

        return unless_known(request, f"{statement.pk} {statement.sha256} {after} {limit}", page)


def _place(request: Request) -> int | None:
    """Where the page before ended; None without a cursor."""
    text = request.query_params.get("cursor", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValidationError({"cursor": [f"cursor {text!r}: expected the next_cursor of a page"]})
    return int(text)
