"""GET /capacity"""

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import END, START, period_of
from costwatch.api.scope import OrganizationView
from costwatch.attribution import queries
from costwatch.domain.money import EXACT, rounded
from costwatch.domain.pricing import COST_PLACES
from costwatch.pricing.capacity import capacity_charges
from costwatch.pricing.device_time import device_time
from costwatch.pricing.loaded import Load, bills, loads
from costwatch.pricing.unit_costs import UnitCost, api_named, unit_costs


class CapacitySerializer(serializers.Serializer[Any]):
    """Whole nanoseconds, so that attributed + unattributed + idle = wall, exactly."""

    device_id = serializers.CharField()
    device_type = serializers.CharField()
    wall_ns = serializers.IntegerField()
    attributed_ns = serializers.IntegerField(help_text="split over requests")
    unattributed_ns = serializers.IntegerField(help_text="busy for nobody: loading, warm-up")
    idle_ns = serializers.IntegerField()


class TeamDeviceTimeSerializer(serializers.Serializer[Any]):
    """Whole nanoseconds of one type of device."""

    team_id = serializers.IntegerField(allow_null=True)
    team = serializers.CharField()
    device_type = serializers.CharField()
    device_ns = serializers.IntegerField(help_text="what is billed; sums to what is attributed")
    device_ns_marginal = serializers.IntegerField(
        help_text="what one call more would have added: without a part of the steps' fixed time"
    )
    device_ns_alone = serializers.IntegerField(
        help_text="what the calls would have taken one by one; less device_ns, what batching saved"
    )
    device_ns_hour_normalised = serializers.IntegerField(
        help_text="each hour's attributed time, split by device_ns_marginal; sums as device_ns does"
    )


class LoadSerializer(serializers.Serializer[Load]):
    """Usage and what is carried of the rest; decimals in the organization's currency, exact."""

    device_ns = serializers.IntegerField(help_text="carried time included")
    usage_ns = serializers.IntegerField()
    usage_cost = serializers.CharField()
    idle_cost = serializers.CharField()
    unattributed_busy_cost = serializers.CharField()
    loaded_cost = serializers.CharField(help_text="the sum of the three")
    unpriced_ns = serializers.IntegerField(help_text="in no cost: unknown is not free")
    method = serializers.ChoiceField(["measured", "modelled"])

    def to_representation(self, instance: Load) -> dict[str, Any]:
        costs = ("usage_cost", "idle_cost", "unattributed_busy_cost", "loaded_cost")
        return {
            "device_ns": instance.device_ns,
            "usage_ns": instance.usage_ns,
            **{name: f"{getattr(instance, name).normalize(EXACT):f}" for name in costs},
            "unpriced_ns": instance.unpriced_ns,
            "method": instance.method,
        }


class PoolBillSerializer(serializers.Serializer[Any]):
    """What a pool's devices of one type cost: wall time, or use where that is more."""

    pool_id = serializers.IntegerField(allow_null=True, help_text="null: the default pool")
    pool = serializers.CharField()
    device_type = serializers.CharField()
    load = LoadSerializer()


class TeamLoadSerializer(PoolBillSerializer):
    """What a team is charged for of a pool; all teams' sum to the pool's bill."""

    team_id = serializers.IntegerField(allow_null=True, help_text="null: unattributed")
    team = serializers.CharField()


class UnitCostSerializer(serializers.Serializer[Any]):
    """What a request and a million tokens cost on one's own devices, fully loaded; null: not known. Decimals."""

    device_type = serializers.CharField()
    model = serializers.CharField()
    calls = serializers.IntegerField()
    successful_calls = serializers.IntegerField()
    tokens = serializers.DictField(child=serializers.IntegerField(), help_text="by meter")
    usage_cost = serializers.CharField(allow_null=True)
    loaded_cost = serializers.CharField(allow_null=True)
    per_request = serializers.CharField(allow_null=True)
    per_successful_request = serializers.CharField(allow_null=True)
    per_million_tokens = serializers.CharField(allow_null=True)
    utilization = serializers.CharField(allow_null=True, help_text="used time / wall time")
    api_cost = serializers.CharField(allow_null=True, help_text="of the same tokens")
    per_million_by_class = serializers.DictField(child=serializers.CharField(), allow_null=True)
    break_even_utilization = serializers.CharField(allow_null=True)

    def to_representation(self, instance: UnitCost) -> dict[str, Any]:
        api = instance.api
        return {
            "device_type": instance.device_type,
            "model": instance.model,
            "calls": instance.calls,
            "successful_calls": instance.successful_calls,
            "tokens": dict(instance.tokens),
            **{name: _decimal(getattr(instance, name)) for name in _UNIT_COSTS},
            "api_cost": _decimal(api.api_cost) if api else None,
            "per_million_by_class": (
                {meter: _decimal(cost) for meter, cost in api.by_class.items()} if api else None
            ),
            "break_even_utilization": _decimal(api.break_even_utilization) if api else None,
        }


_UNIT_COSTS = (
    "usage_cost",
    "loaded_cost",
    "per_request",
    "per_successful_request",
    "per_million_tokens",
    "utilization",
)


def _decimal(value: Decimal | None) -> str | None:
    """Quotients have no end: to 20 places."""
    return None if value is None else f"{rounded(value, COST_PLACES).normalize(EXACT):f}"


class CapacityView(OrganizationView):
    @extend_schema(
        summary="Each device's time, whose calls it went to, and who is charged for it, used or not",
        parameters=[
            START,
            END,
            OpenApiParameter(
                "against", str, description="An API's model to compare with: openai/gpt-4o-mini."
            ),
        ],
        responses=inline_serializer(
            "CapacityPage",
            {
                "results": CapacitySerializer(many=True),
                "teams": TeamDeviceTimeSerializer(many=True),
                "pools": PoolBillSerializer(many=True),
                "charges": TeamLoadSerializer(many=True),
                "unit_costs": UnitCostSerializer(many=True),
                "currency": serializers.CharField(),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        period = period_of(request, self.organization)
        rows = queries.capacity(self.organization, period)
        teams = device_time(self.organization, period)
        charges = capacity_charges(self.organization, period)
        named = request.query_params.get("against", "")
        against = api_named(named)
        if named and against is None:
            raise ValidationError(
                {"against": [f"{named!r}: expected provider/model, such as openai/gpt-4o-mini"]}
            )
        units = unit_costs(self.organization, period, charges, against)
        return Response(
            {
                "results": CapacitySerializer(rows, many=True).data,
                "teams": TeamDeviceTimeSerializer(teams, many=True).data,
                "pools": PoolBillSerializer(bills(charges), many=True).data,
                "charges": TeamLoadSerializer(loads(self.organization, charges), many=True).data,
                "unit_costs": UnitCostSerializer(units, many=True).data,
                "currency": self.organization.currency,
            }
        )
