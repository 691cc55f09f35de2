"""GET /ingest-health"""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.parameters import END, START, period_of
from costwatch.api.scope import OrganizationView
from costwatch.attribution import queries
from costwatch.reports.ingest import ingest_health


class IngestSerializer(serializers.Serializer[Any]):
    key = serializers.CharField(help_text="name and first characters of the ingest key")
    outcome = serializers.CharField(
        help_text="observation, link, wrapper, duplicate, or: refused, and why"
    )
    items = serializers.IntegerField(help_text="spans")
    example = serializers.CharField(help_text="the id of one of them; empty where none is kept")


class SaidSerializer(serializers.Serializer[Any]):
    reason = serializers.CharField()
    items = serializers.IntegerField()
    example = serializers.CharField(help_text="the id of one of them; empty where none is kept")


class WaitSerializer(serializers.Serializer[Any]):
    bodies = serializers.IntegerField()
    average_seconds = serializers.FloatField()
    longest_seconds = serializers.FloatField()


class LagSerializer(serializers.Serializer[Any]):
    """How late it was. Of a body with new calls the one that ended first counts, which waited longest."""

    arrival = WaitSerializer(
        allow_null=True, help_text="from a call's end until it was received; null: no new call"
    )
    adding = WaitSerializer(
        allow_null=True, help_text="from then until it shows in costs; null: no sum changed"
    )


class KeyHealthSerializer(serializers.Serializer[Any]):
    """A key's telemetry in the period."""

    key_id = serializers.IntegerField(source="key.pk")
    key = serializers.CharField()
    revoked_at = serializers.DateTimeField(source="key.revoked_at", allow_null=True)
    last_received_at = serializers.DateTimeField(allow_null=True, help_text="to the minute")
    items_per_minute = serializers.FloatField(
        source="per_minute", help_text="now: in this hour and the one before"
    )
    lag = LagSerializer(allow_null=True, help_text="in the period; null: nothing new came")
    lag_lately = LagSerializer(allow_null=True, help_text="in the last 24 hours, this one included")
    items = serializers.IntegerField()
    counted = serializers.IntegerField(help_text="observations of calls")
    links = serializers.IntegerField(help_text="spans that only say what is around a call")
    wrappers = serializers.IntegerField(help_text="spans that repeat what others counted")
    duplicates = serializers.IntegerField(help_text="spans that had been sent before")
    refused = SaidSerializer(many=True)
    contradictions = SaidSerializer(many=True)
    repeated_ids = SaidSerializer(
        many=True, help_text="calls merged into others, since their response ids were the same"
    )
    dropped = SaidSerializer(many=True)
    held_up = SaidSerializer(many=True)
    overflowed = SaidSerializer(many=True, help_text="names with too many values")
    token_metrics = SaidSerializer(
        many=True, help_text="points of metrics of tokens and calls: what became of them"
    )


class UnpricedSerializer(serializers.Serializer[Any]):
    """A model of which something was used that no price is known for."""

    provider = serializers.CharField()
    model = serializers.CharField(help_text="empty: nobody named one")
    device_type = serializers.CharField()
    meters = serializers.ListField(
        child=serializers.CharField(), help_text="of the SKUs without a price"
    )
    unknown = serializers.BooleanField(help_text="true: nothing of the model has a price")
    calls = serializers.IntegerField()
    keys = serializers.ListField(child=serializers.CharField(), help_text="that sent it")
    lacks_rates_of = serializers.ListField(
        child=serializers.CharField(),
        help_text="currencies of its prices that exchange rates are missing of",
    )


class IngestHealthView(OrganizationView):
    @extend_schema(
        summary="What arrived with each key, what became of it, and what of it has no price",
        parameters=[START, END],
        responses=inline_serializer(
            "IngestHealthPage",
            {
                "results": IngestSerializer(many=True),
                "keys": KeyHealthSerializer(many=True),
                "unpriced": UnpricedSerializer(many=True),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        period = period_of(request, self.organization)
        health = ingest_health(self.organization, period, timezone.now())
        rows = queries.ingest_health(self.organization, period)
        return Response(
            {
                "results": IngestSerializer(rows, many=True).data,
                "keys": KeyHealthSerializer(health.keys, many=True).data,
                "unpriced": UnpricedSerializer(health.unpriced, many=True).data,
            }
        )
