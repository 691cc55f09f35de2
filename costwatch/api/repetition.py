"""GET /repetition"""

from typing import Any

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import END, START, period_of
from costwatch.api.scope import OrganizationView
from costwatch.attribution.repetition import MOST_CALLS, repetition


class RepetitionSerializer(serializers.Serializer[Any]):
    service = serializers.CharField()
    feature = serializers.CharField()
    model = serializers.CharField()
    calls = serializers.IntegerField(help_text="those whose requests were hashed on the client")
    repeated_calls = serializers.IntegerField(help_text="the same request was asked before")
    repeated_deterministic_calls = serializers.IntegerField(
        help_text="of these, those that a response cache could have answered the same"
    )
    prompt_bytes = serializers.IntegerField()
    repeated_prefix_bytes = serializers.IntegerField(
        help_text="of these, what an earlier prompt began with: a prefix cache could have held it"
    )


class RepetitionView(OrganizationView):
    @extend_schema(
        summary="How much of what is asked was asked before",
        description=f"Measured from keyed hashes that clients send, among the latest {MOST_CALLS:,} calls of the period.",
        parameters=[START, END],
        responses=inline_serializer("RepetitionPage", {"results": RepetitionSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        rows = repetition(self.organization, period_of(request, self.organization))
        return Response({"results": RepetitionSerializer(rows, many=True).data})
