"""GET /capacity"""

from typing import Any

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import END, START, period_of
from costwatch.api.scope import OrganizationView
from costwatch.attribution import queries
from costwatch.pricing.device_time import device_time


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


class CapacityView(OrganizationView):
    @extend_schema(
        summary="Each device's time: attributed, busy for nobody, idle; and whose calls it went to",
        parameters=[START, END],
        responses=inline_serializer(
            "CapacityPage",
            {
                "results": CapacitySerializer(many=True),
                "teams": TeamDeviceTimeSerializer(many=True),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        period = period_of(request, self.organization)
        rows = queries.capacity(self.organization, period)
        teams = device_time(self.organization, period)
        return Response(
            {
                "results": CapacitySerializer(rows, many=True).data,
                "teams": TeamDeviceTimeSerializer(teams, many=True).data,
            }
        )
