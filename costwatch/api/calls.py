"""GET /calls"""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import (
    END,
    START,
    TEAM,
    UNATTRIBUTED,
    flag,
    period_of,
    team_ids_from,
    whole_number,
)
from costwatch.api.scope import OrganizationView
from costwatch.attribution import calls
from costwatch.attribution.calls import MAX_CALLS, BadCursor, Call
from costwatch.pricing.cost import CallCost, cost_of_calls


class CallSerializer(serializers.Serializer[Any]):
    """One inference request. null is unknown, which is not zero."""

    call_id = serializers.UUIDField()
    started_at = serializers.DateTimeField()
    duration_seconds = serializers.FloatField(allow_null=True)
    team = serializers.CharField(allow_null=True, help_text="null: unattributed")
    feature = serializers.CharField(allow_null=True)
    customer = serializers.CharField(allow_null=True)
    user = serializers.CharField(allow_null=True)
    session = serializers.CharField(allow_null=True)
    source = serializers.CharField()  # type: ignore[assignment]  # a field of that name
    provider = serializers.CharField(allow_null=True)
    request_model = serializers.CharField(allow_null=True)
    response_model = serializers.CharField(allow_null=True)
    response_id = serializers.CharField(allow_null=True)
    streaming = serializers.BooleanField(allow_null=True)
    status = serializers.CharField(help_text="ok, or what went wrong")
    input_tokens = serializers.IntegerField(allow_null=True, help_text="without cached ones")
    cache_read_input_tokens = serializers.IntegerField(allow_null=True)
    cache_write_input_tokens = serializers.IntegerField(allow_null=True)
    output_tokens = serializers.IntegerField(allow_null=True)
    reasoning_output_tokens = serializers.IntegerField(
        allow_null=True, help_text="a part of output_tokens"
    )
    usage_provenance = serializers.ChoiceField(["reported", "estimated", "absent"])
    device_seconds = serializers.FloatField(allow_null=True)
    time_to_first_token_seconds = serializers.FloatField(allow_null=True)
    time_per_output_token_seconds = serializers.FloatField(allow_null=True)
    queue_seconds = serializers.FloatField(allow_null=True)
    cost = serializers.SerializerMethodField()
    currency = serializers.SerializerMethodField()
    observations = serializers.IntegerField(help_text="how many saw the call; it is counted once")

    def get_cost(self, call: Call) -> str | None:
        """A decimal; null where a price or the usage is unknown."""
        amount = self._cost(call).amount
        return None if amount is None else f"{amount:f}"

    def get_currency(self, call: Call) -> str:
        return self._cost(call).currency

    def _cost(self, call: Call) -> CallCost:
        costs: dict[Any, CallCost] = self.context["costs"]
        return costs[call.call_id]


class CallsView(OrganizationView):
    @extend_schema(
        summary="Single requests, the latest first",
        parameters=[
            START,
            END,
            TEAM,
            UNATTRIBUTED,
            OpenApiParameter("model", str, description="The model that answered, exactly."),
            OpenApiParameter("feature", str, description="Exactly."),
            OpenApiParameter("cursor", str, description="next_cursor of the page before."),
            OpenApiParameter("limit", int, description=f"1 to {MAX_CALLS}; 100 without it."),
        ],
        responses=inline_serializer(
            "CallsPage",
            {
                "results": CallSerializer(many=True),
                "next_cursor": serializers.CharField(
                    allow_null=True, help_text="null: that was all"
                ),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        organization = self.organization
        try:
            page = calls.page(
                organization,
                period_of(request, organization),
                team_ids=team_ids_from(request, organization),
                unattributed=flag(request, "unattributed"),
                model=request.query_params.get("model", ""),
                feature=request.query_params.get("feature", ""),
                cursor=request.query_params.get("cursor", ""),
                limit=whole_number(request, "limit", default=100, most=MAX_CALLS),
            )
        except BadCursor as error:
            raise ValidationError({"cursor": [str(error)]}) from None
        costs = cost_of_calls(organization, [call.entry for call in page.calls])
        rows = CallSerializer(page.calls, many=True, context={"costs": costs}).data
        return Response({"results": rows, "next_cursor": page.next_cursor or None})
