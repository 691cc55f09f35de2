"""GET /sources"""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
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
from costwatch.reports.sources import ExplainedUse, explained, sources_used

MOST_SOURCES = 1000
_MOST_PAGES = 100_000


class SourceSerializer(serializers.Serializer[Any]):
    """What a source used of a period at one team's cost; where the team changed, it is there for each."""

    source_id = serializers.IntegerField(source="source.pk")
    service = serializers.CharField(source="source.service_name")
    environment = serializers.CharField(source="source.environment")
    team_tag = serializers.CharField(source="source.team_tag", help_text="as it was sent")
    feature = serializers.CharField(source="source.feature")
    customer = serializers.CharField(source="source.customer")
    key_id = serializers.IntegerField(source="source.key_id")
    key = serializers.CharField(source="source.key", help_text="name and first characters")
    team_id = serializers.IntegerField(allow_null=True, help_text="null: unattributed")
    team = serializers.CharField(allow_null=True)
    reason = serializers.CharField(help_text="why that team: rule and its priority, team tag, …")
    rule_id = serializers.IntegerField(source="payer.rule_id", allow_null=True, default=None)
    calls = serializers.IntegerField(source="sum.calls")
    unpriced_calls = serializers.IntegerField(source="sum.unpriced_calls")
    cost = serializers.SerializerMethodField(help_text="a decimal, without what has no price")
    currency = serializers.SerializerMethodField()
    last_hour = serializers.DateTimeField(help_text="of use in the period")

    def get_cost(self, use: ExplainedUse) -> str:
        return f"{use.sum.cost:f}"

    def get_currency(self, use: ExplainedUse) -> str:
        return str(self.context["currency"])


class SourcesView(OrganizationView):
    @extend_schema(
        summary="What sends, how much, and which team pays for it by which rule; the dearest first",
        parameters=[
            START,
            END,
            TEAM,
            UNATTRIBUTED,
            OpenApiParameter("search", str, description="A part of any tag, or of the key's name."),
            OpenApiParameter("limit", int, description=f"1 to {MOST_SOURCES}; 100 without it."),
            OpenApiParameter("page", int, description="1 without it."),
        ],
        responses=inline_serializer(
            "SourcesPage",
            {
                "results": SourceSerializer(many=True),
                "count": serializers.IntegerField(help_text="on all pages"),
                "next_page": serializers.IntegerField(
                    allow_null=True, help_text="null: that was all"
                ),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        organization = self.organization
        period = period_of(request, organization)
        found = sources_used(
            organization,
            period,
            unattributed=flag(request, "unattributed"),
            team_ids=team_ids_from(request, organization),
            search=request.query_params.get("search", ""),
        )
        limit = whole_number(request, "limit", default=100, most=MOST_SOURCES)
        number = whole_number(request, "page", default=1, most=_MOST_PAGES)
        page = Paginator(found, limit).get_page(number)
        shown = explained(organization, period, list(page) if number == page.number else [])
        more = number == page.number and page.has_next()
        rows = SourceSerializer(shown, many=True, context={"currency": organization.currency})
        return Response(
            {
                "results": rows.data,
                "count": len(found),
                "next_page": number + 1 if more else None,
            }
        )
