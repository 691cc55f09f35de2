"""GET /capacity"""

from typing import Any

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import END, START, period_of
from costwatch.api.scope import OrganizationView
from costwatch.attribution import queries
from costwatch.domain.money import EXACT
from costwatch.pricing.capacity import capacity_charges
from costwatch.pricing.device_time import device_time
from costwatch.pricing.loaded import Load, bills, loads


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


class CapacityView(OrganizationView):
    @extend_schema(
        summary="Each device's time, whose calls it went to, and who is charged for it, used or not",
        parameters=[START, END],
        responses=inline_serializer(
            "CapacityPage",
            {
                "results": CapacitySerializer(many=True),
                "teams": TeamDeviceTimeSerializer(many=True),
                "pools": PoolBillSerializer(many=True),
                "charges": TeamLoadSerializer(many=True),
                "currency": serializers.CharField(),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        period = period_of(request, self.organization)
        rows = queries.capacity(self.organization, period)
        teams = device_time(self.organization, period)
        charges = capacity_charges(self.organization, period)
        return Response(
            {
                "results": CapacitySerializer(rows, many=True).data,
                "teams": TeamDeviceTimeSerializer(teams, many=True).data,
                "pools": PoolBillSerializer(bills(charges), many=True).data,
                "charges": TeamLoadSerializer(loads(self.organization, charges), many=True).data,
                "currency": self.organization.currency,
            }
        )
