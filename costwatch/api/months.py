"""GET /months; GET and POST /months/2026-10"""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.once import IDEMPOTENCY_KEY, once
from costwatch.api.permissions import MayChangeMoney
from costwatch.api.scope import OrganizationView
from costwatch.domain import money
from costwatch.reports import close
from costwatch.reports.models import State
from costwatch.reports.months import Standing, standing_of, standings

MOST_REASON = 1000


class Refused(APIException):
    """The month stays where it is."""

    status_code = status.HTTP_409_CONFLICT


class MonthSerializer(serializers.Serializer[Any]):
    """Where a month stands. What it came to is null until it is closed; as it stands now, chargeback has it."""

    month = serializers.CharField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    state = serializers.ChoiceField(State.choices)
    is_over = serializers.BooleanField()
    waits_for = serializers.CharField(
        allow_null=True, help_text="an earlier month that has to be closed first"
    )
    edition = serializers.IntegerField(help_text="how often it was closed")
    total = serializers.CharField(allow_null=True, help_text="a decimal")
    currency = serializers.CharField(allow_null=True)
    statements = serializers.IntegerField(allow_null=True)
    lines = serializers.IntegerField(allow_null=True)
    sha256 = serializers.CharField(allow_null=True)
    closed_at = serializers.DateTimeField(allow_null=True)
    closed_by = serializers.CharField(allow_null=True)

    def to_representation(self, standing: Standing) -> dict[str, Any]:
        closing = standing.closing
        return {
            "month": standing.name,
            "start": standing.period.start.isoformat(),
            "end": standing.period.end.isoformat(),
            "state": standing.state.value,
            "is_over": standing.is_over,
            "waits_for": (standing.open_before or None) if closing is None else None,
            "edition": standing.editions,
            "total": f"{money.rounded(closing.cost, closing.places):f}" if closing else None,
            "currency": closing.currency if closing else None,
            "statements": closing.statements_count if closing else None,
            "lines": closing.lines_count if closing else None,
            "sha256": closing.sha256 if closing else None,
            "closed_at": closing.closed_at.isoformat() if closing else None,
            "closed_by": (closing.closed_by or None) if closing else None,
        }


class MoveSerializer(serializers.Serializer[Any]):
    """Where a month is to go."""

    state = serializers.ChoiceField(State.choices)
    reason = serializers.CharField(
        max_length=MOST_REASON, required=False, default="", allow_blank=True,
        help_text="needed to open a month that is in review or closed",
    )  # fmt: skip


class MonthsView(OrganizationView):
    @extend_schema(
        operation_id="months_list",
        summary="Every month since the first use, and where it stands",
        responses=inline_serializer("MonthsPage", {"results": MonthSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        found = standings(self.organization, timezone.now())
        return Response({"results": MonthSerializer(found, many=True).data})


class MonthView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(summary="One month", responses=MonthSerializer)
    def get(self, request: Request, month: str) -> Response:
        return Response(MonthSerializer(self._standing(month)).data)

    @extend_schema(
        summary="Take a month to review, close it, or open it again",
        description="Moving it to where it is already changes nothing. 409 says why it can't be moved.",
        parameters=[IDEMPOTENCY_KEY],
        request=MoveSerializer,
        responses={200: MonthSerializer, 409: None},
    )
    @once
    def post(self, request: Request, month: str) -> Response:
        self._standing(month)
        asked = MoveSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        state, reason = asked.validated_data["state"], asked.validated_data["reason"]
        try:
            close.move(self.organization, month, State(state), self.user, reason)
        except close.CannotMove as refused:
            raise Refused(str(refused)) from None
        return Response(MonthSerializer(self._standing(month)).data)

    def _standing(self, name: str) -> Standing:
        found = standing_of(self.organization, name, timezone.now())
        if found is None:
            raise Http404
        return found
