"""GET /ingest-health"""

from typing import Any

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import END, START, period_of
from costwatch.api.scope import OrganizationView
from costwatch.attribution import queries


class IngestSerializer(serializers.Serializer[Any]):
    key = serializers.CharField(help_text="name and first characters of the ingest key")
    outcome = serializers.CharField(
        help_text="observation, link, wrapper, duplicate, or: refused, and why"
    )
    items = serializers.IntegerField(help_text="spans")


class IngestHealthView(OrganizationView):
    @extend_schema(
        summary="What arrived with each key, and what became of it",
        parameters=[START, END],
        responses=inline_serializer("IngestHealthPage", {"results": IngestSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        rows = queries.ingest_health(self.organization, period_of(request, self.organization))
        return Response({"results": IngestSerializer(rows, many=True).data})
