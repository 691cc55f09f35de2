"""GET /chargeback"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from costwatch.api.known import unless_known
from costwatch.api.parameters import month_from, one_of, team_named
from costwatch.api.scope import OrganizationView
from costwatch.domain.pricing import PriceState
from costwatch.reports.chargeback import Chargeback, chargeback, of_team
from costwatch.reports.exports import MissingExtra, csv, focus, json, parquet, pdf, xlsx
from costwatch.reports.lines import UNATTRIBUTED, Line, TeamTotal
from costwatch.reports.models import State, StatementLine

# What each is written by; a module with CONTENT_TYPE, EXTENSION and chunks().
FORMATS: dict[str, Any] = {
    "json": json,
    "csv": csv,
    "xlsx": xlsx,
    "pdf": pdf,
    "focus-1.2": focus,
    "focus-1.2-parquet": parquet,
}


class LineSerializer(serializers.Serializer[Line]):
    """What a team used of a model on one meter at one price; of an adjustment, differences to what was frozen."""

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
        allow_null=True, help_text="a decimal; null: it has none, or several"
    )
    unit_label = serializers.CharField()
    state = serializers.ChoiceField([state.value for state in PriceState])
    exact_cost = serializers.CharField(help_text="a decimal")
    cost = serializers.CharField(help_text="rounded so that the lines sum to the total")
    kind = serializers.ChoiceField(StatementLine.Kind.choices)
    used_in = serializers.CharField(help_text="the month; of an adjustment, the one it corrects")
    cause = serializers.ChoiceField(
        StatementLine.Cause.choices, allow_blank=True, help_text="of an adjustment"
    )
    service_tier = serializers.CharField(help_text="empty: standard")
    feature = serializers.CharField()
    method = serializers.CharField(help_text="how device time was attributed; empty: it is none")
    unit_quantity = serializers.IntegerField(allow_null=True, help_text="that unit_price is for")
    price_currency = serializers.CharField(help_text="of unit_price and price_cost")
    price_cost = serializers.CharField(
        allow_null=True,
        help_text="exact, in price_currency; null: it is the organization's, and the same as exact_cost",
    )


class TeamTotalSerializer(serializers.Serializer[TeamTotal]):
    team_id = serializers.IntegerField(allow_null=True)
    team = serializers.CharField()
    cost_centre = serializers.CharField()
    cost = serializers.CharField()
    statement_id = serializers.IntegerField(allow_null=True, help_text="null: nothing is frozen")


class ChargebackSerializer(serializers.Serializer[Chargeback]):
    """A month as it stands now, or as it was closed; its lines sum to its total, to the last digit shown."""

    organization = serializers.CharField()
    month = serializers.CharField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    currency = serializers.CharField()
    state = serializers.ChoiceField(State.choices)
    edition = serializers.IntegerField(help_text="how often it was closed; 0: it is not closed")
    sha256 = serializers.CharField(help_text="over all statements; empty: it is not closed")
    lines = LineSerializer(many=True)
    teams = TeamTotalSerializer(many=True)
    total = serializers.CharField()
    unattributed = serializers.CharField()
    unpriced_lines = serializers.IntegerField(help_text="lines that the total lacks a part of")
    unknown_usage_calls = serializers.IntegerField(
        help_text="calls of which nobody said how much they used"
    )


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
            OpenApiParameter("format", str, enum=list(FORMATS), description="json without it."),
            OpenApiParameter(
                "team",
                str,
                description="Slug or id of a team, or unattributed: only what it owes itself, without teams below it.",
            ),
        ],
        responses={
            (200, "application/json"): ChargebackSerializer,
            **{
                (200, media): OpenApiTypes.STR if media == "text/csv" else OpenApiTypes.BINARY
                for media in ("text/csv", *(e.CONTENT_TYPE for e in (xlsx, pdf, parquet)))
            },
        },
    )
    def get(self, request: Request) -> HttpResponseBase:
        wanted = one_of(request, "format", FORMATS, "json")
        report = chargeback(self.organization, month_from(request, self.organization))
        team = request.query_params.get("team", "")
        if team:
            report = of_team(report, self._team_id(team))
        if not report.sha256:
            return _file(report, wanted)
        version = f"{report.sha256} {wanted} {team}"
        return unless_known(request, version, lambda: _file(report, wanted))

    def _team_id(self, text: str) -> int | None:
        return None if text == UNATTRIBUTED else team_named(text, self.organization).pk


def _file(report: Chargeback, wanted: str) -> StreamingHttpResponse:
    export = FORMATS[wanted]
    try:
        chunks = export.chunks(report)
    except (MissingExtra, ValueError) as error:
        raise ValidationError({"format": [str(error)]}) from None
    answer = StreamingHttpResponse(chunks, content_type=export.CONTENT_TYPE)
    if wanted != "json":
        name = f"chargeback-{report.month}.{export.EXTENSION}"
        answer["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer
