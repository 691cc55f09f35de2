"""GET /costs"""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import (
    END,
    START,
    TEAM,
    one_of,
    period_of,
    several_of,
    team_ids_from,
)
from costwatch.api.scope import OrganizationView
from costwatch.pricing import cost
from costwatch.pricing.cost import CostRow, Dimension, Filters, Interval

DIMENSIONS = [dimension.value for dimension in Dimension]
INTERVALS: dict[str, Interval | None] = {
    "none": None,
    "hour": "hour",
    "day": "day",
    "month": "month",
}
_COPIED = (
    "calls",
    "failed_calls",
    "unknown_usage_calls",
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
    "currency",
    "unpriced_calls",
    "unpriced_tokens",
)
_IDS = (Dimension.TEAM, Dimension.SOURCE, Dimension.KEY)  # they have an id beside the name


def _name_field(dimension: str) -> serializers.CharField:
    return serializers.CharField(
        required=False,
        allow_null=True,
        help_text=f"where {dimension} is in group_by; null: nobody said, or nobody pays",
    )


class CostSerializer(serializers.Serializer[Any]):
    """Sums of what was reported in a group: zero is also what nobody said. What has no price is in the unpriced
    numbers, not in cost.
    """

    start = serializers.DateTimeField(
        required=False, help_text="of the interval, where one was asked for"
    )
    team = _name_field("team")
    team_id = serializers.IntegerField(required=False, allow_null=True)
    feature = _name_field("feature")
    customer = _name_field("customer")
    source = _name_field("source")  # type: ignore[assignment]  # a field of that name
    source_id = serializers.IntegerField(required=False, allow_null=True)
    key = _name_field("key")
    key_id = serializers.IntegerField(required=False, allow_null=True)
    service = _name_field("service")
    environment = _name_field("environment")
    provider = _name_field("provider")
    model = _name_field("model")
    device_type = _name_field("device_type")
    meter = _name_field("meter")
    calls = serializers.IntegerField()
    failed_calls = serializers.IntegerField()
    unknown_usage_calls = serializers.IntegerField(
        help_text="of which nobody said how many tokens; they are in no sum of tokens"
    )
    input_tokens = serializers.IntegerField()
    cache_read_input_tokens = serializers.IntegerField()
    cache_write_input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    reasoning_output_tokens = serializers.IntegerField()
    device_seconds = serializers.CharField(help_text="a decimal, exact to the nanosecond")
    energy_joules = serializers.CharField(help_text="a decimal, exact to the microjoule")
    cost = serializers.CharField(help_text="a decimal, without what has no price")
    currency = serializers.CharField()
    unpriced_calls = serializers.IntegerField()
    unpriced_tokens = serializers.IntegerField()
    unpriced_device_seconds = serializers.CharField(help_text="a decimal")

    def to_representation(self, row: CostRow) -> dict[str, Any]:
        """Only what was grouped by; exact decimals from whole nanoseconds and microjoules."""
        start = {"start": self.fields["start"].to_representation(row.start)} if row.start else {}
        return {
            **start,
            **_group_of(row),
            **{name: getattr(row, name) for name in _COPIED},
            "device_seconds": decimal_text(row.device_ns, 9),
            "energy_joules": decimal_text(row.energy_uj, 6),
            "cost": f"{row.cost:f}",
            "unpriced_device_seconds": decimal_text(row.unpriced_device_ns, 9),
        }


def _group_of(row: CostRow) -> dict[str, Any]:
    group: dict[str, Any] = {}
    for dimension, key in row.key.items():
        known = key is not None and key != ""
        group[dimension.value] = row.label[dimension] if known else None
        if dimension in _IDS:
            group[f"{dimension.value}_id"] = key
    return group


def decimal_text(count: int, places: int) -> str:
    """count × 10^-places, with every digit and without a float: (1500, 3) is 1.5."""
    whole, rest = divmod(abs(count), 10**places)
    digits = f"{rest:0{places}d}".rstrip("0")
    return f"{'-' if count < 0 else ''}{whole}{'.' if digits else ''}{digits}"


class CostsView(OrganizationView):
    @extend_schema(
        summary="What was used and what it cost, by any dimension",
        parameters=[
            START,
            END,
            OpenApiParameter(
                "group_by",
                str,
                description=f"Comma-separated: {', '.join(DIMENSIONS)}. Without it: one row of all.",
            ),
            OpenApiParameter(
                "interval",
                str,
                enum=list(INTERVALS),
                description="Days and months are those of the organization's time zone.",
            ),
            TEAM,
            *(
                OpenApiParameter(name, str, description="Only these, exactly.")
                for name in ("model", "provider", "feature", "customer", "device_type")
            ),
        ],
        responses=inline_serializer("CostsPage", {"results": CostSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        organization = self.organization
        asked = request.query_params
        rows = cost.costs(
            organization,
            period_of(request, organization),
            group_by=[Dimension(name) for name in several_of(request, "group_by", DIMENSIONS)],
            interval=INTERVALS[one_of(request, "interval", INTERVALS, "none")],
            filters=Filters(
                team_ids=team_ids_from(request, organization),
                model=asked.get("model", ""),
                provider=asked.get("provider", ""),
                feature=asked.get("feature", ""),
                customer=asked.get("customer", ""),
                device_type=asked.get("device_type", ""),
            ),
        )
        return Response({"results": CostSerializer(rows, many=True).data})
