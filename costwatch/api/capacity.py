"""GET /capacity"""

from typing import Any

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import END, START, period_of
from costwatch.api.scope import OrganizationView
from costwatch.attribution import queries


class CapacitySerializer(serializers.Serializer[Any]):
    """Whole nanoseconds, so that attributed + unattributed + idle = wall, exactly."""

    device_id = serializers.CharField()
    device_type = serializers.CharField()
    wall_ns = serializers.IntegerField()
    attributed_ns = serializers.IntegerField(help_text="split over requests")
    unattributed_ns = serializers.IntegerField(help_text="busy for nobody: loading, warm-up")
    idle_ns = serializers.IntegerField()


class CapacityView(OrganizationView):
    @extend_schema(
        summary="Each device's time: attributed, busy for nobody, idle",
        parameters=[START, END],
        responses=inline_serializer("CapacityPage", {"results": CapacitySerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        rows = queries.capacity(self.organization, period_of(request, self.organization))
        return Response({"results": CapacitySerializer(rows, many=True).data})
