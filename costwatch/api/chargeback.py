"""GET /chargeback"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import month_from, one_of
from costwatch.api.scope import OrganizationView
from costwatch.domain.pricing import PriceState
from costwatch.reports.chargeback import Chargeback, Line, TeamTotal, chargeback
from costwatch.reports.exports import csv, json

FORMATS = ("json", "csv")


class LineSerializer(serializers.Serializer[Line]):
    """What a team used of a model on one meter."""

    team_id = serializers.IntegerField(allow_null=True, help_text="null: unattributed")
    team = serializers.CharField()
    cost_centre = serializers.CharField()
    provider = serializers.CharField()
    model = serializers.CharField()
    device_type = serializers.CharField()
    meter = serializers.CharField()
    calls = serializers.IntegerField()
    quantity = serializers.IntegerField()
    unpriced_quantity = serializers.IntegerField(help_text="what no price was known for")
    unit_price = serializers.CharField(
        allow_null=True, help_text="a decimal; null: several prices held, or none"
    )
    unit_label = serializers.CharField()
    state = serializers.ChoiceField([state.value for state in PriceState])
    exact_cost = serializers.CharField(help_text="a decimal")
    cost = serializers.CharField(help_text="rounded so that the lines sum to the total")


class TeamTotalSerializer(serializers.Serializer[TeamTotal]):
    team_id = serializers.IntegerField(allow_null=True)
    team = serializers.CharField()
    cost_centre = serializers.CharField()
    cost = serializers.CharField()


class ChargebackSerializer(serializers.Serializer[Chargeback]):
    """A month as it stands now; its lines sum to its total, to the last digit shown."""

    organization = serializers.CharField()
    month = serializers.CharField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    currency = serializers.CharField()
    lines = LineSerializer(many=True)
    teams = TeamTotalSerializer(many=True)
    total = serializers.CharField()
    unattributed = serializers.CharField()
    unpriced_lines = serializers.IntegerField(help_text="lines that the total lacks a part of")


class FormatIsOurs(BaseContentNegotiation):
    """`format` says which file is wanted; REST framework would take it for the name of a renderer."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, str(first.media_type)

    def select_parser(self, request: Request, parsers: Iterable[Any]) -> Any:
        return next(iter(parsers))


class ChargebackView(OrganizationView):
    content_negotiation_class = FormatIsOurs

    @extend_schema(
        summary="What each team owes for a month",
        parameters=[
            OpenApiParameter(
                "month", str, description="Such as 2026-10, in the organization's time zone."
            ),
            OpenApiParameter("format", str, enum=FORMATS, description="json without it."),
        ],
        responses={
            (200, "application/json"): ChargebackSerializer,
            (200, "text/csv"): OpenApiTypes.STR,
        },
    )
    def get(self, request: Request) -> HttpResponseBase:
        wanted = one_of(request, "format", FORMATS, "json")
        report = chargeback(self.organization, month_from(request, self.organization))
        if wanted == "json":
            return Response(json.document(report))
        answer = StreamingHttpResponse(csv.rows(report), content_type=csv.CONTENT_TYPE)
        answer["Content-Disposition"] = f'attachment; filename="chargeback-{report.month}.csv"'
        return answer
